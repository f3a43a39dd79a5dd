"""`mcl-hf push CHECKPOINT user/name`: publish a model with its card, in one commit and with a tag."""

import tempfile
from pathlib import Path

from ..errors import InputError
from .command import Parser, command, import_torch, say
from .hub_flags import CARD_FLAGS, add_card_flags

EXAMPLES = """
examples:
  mcl-hf push my-run user/name --dry-run               # what would go there; no network
  mcl-hf push my-run user/name --public --with-timm    # and user/name-timm, which timm opens
  mcl-hf push my-run/checkpoints/last user/name --tag v1-half
  mcl-hf push my-detector someone/else --create-pr

Log in with 'hf auth login', or set HF_TOKEN. HF_ENDPOINT names another Hub. All is checked before anything is changed;
a push that was cut off is repeated by the same command, which sends nothing twice.
"""


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = (
        "Publish a model on the Hub: slim weights, configuration, processor, card, the run's options and a summary of "
        "its log, in one commit."
    )
    parser = Parser(prog="mcl-hf push", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a finished run, its pretraining/, a checkpoint inside, or a detector"
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="user/name; made where it is not there")
    along = parser.add_argument_group("what goes along")
    for flag, what in (
        ("--with-timm", "also make REPOSITORY-timm, which timm opens"),
        ("--with-space", "also make the Space REPOSITORY-demo, which shows mcl-hf demo"),
        ("--with-code", "put the model's code in, to open it where mcl_hf is not installed"),
        ("--with-pretraining", "put target network and predictors in, to continue from"),
    ):
        along.add_argument(flag, action="store_true", help=what)
    card = parser.add_argument_group("the card, as in mcl-hf card")
    add_card_flags(card, "repository")
    card.add_argument(
        "--card", type=Path, metavar="FILE", help="a README.md of your own in place of the card made of the records"
    )
    how = parser.add_argument_group("how")
    seen = how.add_mutually_exclusive_group()
    seen.add_argument("--public", action="store_true", help="make new repositories public (default: private)")
    seen.add_argument("--private", action="store_true", help="refuse a repository that is there and public")
    how.add_argument("--create-pr", action="store_true", help="propose it in a pull request; needs no rights there")
    how.add_argument("--tag", help="of the release (default: the next of v1, v2, ...)")
    how.add_argument("--message", help="title of the commit (default: the tag and this library's version)")
    how.add_argument("--dry-run", action="store_true", help="list files and sizes, print the card, use no network")
    options = vars(parser.parse_args(argv))
    checkpoint, repository, dry_run = (options.pop(name) for name in ("checkpoint", "repository", "dry_run"))
    request = {name: options.pop(name) for name in ("public", "private", "create_pr", "tag", "message")}
    name, at, tag = repository.partition("@")
    if at:
        raise InputError(f"{repository} names a revision, and a push makes one: write {name} --tag {tag or 'NAME'}")
    if options["card"] is not None:
        followed = ("title", "license") if options["with_timm"] or options["with_space"] else ()  # by those of others
        for name, flag in CARD_FLAGS.items():
            if options[name] and name not in followed:
                raise InputError(f"{flag} is for the card that is made of the records: leave it out with --card")

    import_torch()
    from ..hub.bundle import Contents, make_bundles
    from ..hub.publish import check_request, describe, push_checkpoint

    contents = Contents(**options)
    if not dry_run:
        push_checkpoint(checkpoint, repository, contents=contents, **request)
        return
    check_request(repository, request["create_pr"], request["tag"])
    with tempfile.TemporaryDirectory(prefix="mcl-hf-push-") as folder:
        bundles = make_bundles(checkpoint, repository, Path(folder), contents)
        say(describe(bundles, request["public"]))
