"""`mcl-hf push CHECKPOINT user/name`: publish a model with its card, in one commit and with a tag."""

import tempfile
from pathlib import Path

from ..errors import InputError
from .command import Parser, command, import_torch, say

EXAMPLES = """
examples:
  mcl-hf push my-run user/name --dry-run               # what would go there; no network
  mcl-hf push my-run user/name --public --with-timm    # and user/name-timm, which timm opens
  mcl-hf push my-run/checkpoints/last user/name --tag v1-half
  mcl-hf push my-detector someone/else --create-pr

Log in with 'hf auth login', or set HF_TOKEN. HF_ENDPOINT names another Hub. All is checked before anything is changed;
a push that was cut off is repeated by the same command, which sends nothing twice.
"""
_OF_THE_RECORDS = {
    "data_license": "--data-license", "data_name": "--data-name", "evaluations": "--evaluation",
    "pictures_of_data": "--with-pictures-of-data",
}  # fmt: skip
_OF_ALL_CARDS = {"title": "--title", "license": "--license"}
"""Options of cards, which one of the user's own does not follow; those of timm's and of the Space have a title and a
licence."""


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(
        prog="mcl-hf push",
        description="Publish a model on the Hub: slim weights, configuration, processor, card, the run's options and a "
        "summary of its log, in one commit.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a finished run, its pretraining/, a checkpoint inside, or a detector"
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="user/name; made where it is not there")
    contents = parser.add_argument_group("what goes along")
    contents.add_argument("--with-timm", action="store_true", help="also make REPOSITORY-timm, which timm opens")
    contents.add_argument(
        "--with-space", action="store_true", help="also make the Space REPOSITORY-demo, which shows mcl-hf demo"
    )
    contents.add_argument(
        "--with-code", action="store_true", help="put the model's code in, to open it where mcl_hf is not installed"
    )
    contents.add_argument(
        "--with-pretraining", action="store_true", help="put target network and predictors in, to continue from"
    )
    card = parser.add_argument_group("the card, as in mcl-hf card")
    card.add_argument("--title", metavar="TEXT", help="first heading (default: the repository's name)")
    card.add_argument("--license", metavar="NAME", help="of the weights (default: none is claimed)")
    card.add_argument("--data-license", metavar="TEXT", help="of the training data (default: as recorded, if it was)")
    card.add_argument("--data-name", metavar="TEXT", help="what to call the training data (default: as recorded)")
    card.add_argument(
        "--evaluation", dest="evaluations", nargs="+", type=Path, default=[], metavar="FILE",
        help="results besides those in CHECKPOINT: metrics.json, probe.json, comparison.json",
    )  # fmt: skip
    card.add_argument(
        "--with-pictures-of-data", dest="pictures_of_data", action="store_true",
        help="also publish pictures in which images of the data are seen",
    )  # fmt: skip
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
    return parser


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    options = vars(build_parser().parse_args(argv))
    checkpoint, repository = options.pop("checkpoint"), options.pop("repository")
    dry_run = options.pop("dry_run")
    how = {name: options.pop(name) for name in ("public", "private", "create_pr", "tag", "message")}
    name, at, tag = repository.partition("@")
    if at:
        raise InputError(f"{repository} names a revision, and a push makes one: write {name} --tag {tag or 'NAME'}")
    if options["card"] is not None:
        unused = _OF_THE_RECORDS if options["with_timm"] or options["with_space"] else _OF_THE_RECORDS | _OF_ALL_CARDS
        for name, flag in unused.items():
            if options[name]:
                raise InputError(f"{flag} is for the card that is made of the records: leave it out with --card")

    import_torch()
    from ..hub.bundle import Contents, make_bundles
    from ..hub.publish import check_request, describe, push_checkpoint

    contents = Contents(**options)
    if not dry_run:
        push_checkpoint(checkpoint, repository, contents=contents, **how)
        return
    check_request(repository, how["create_pr"], how["tag"])
    with tempfile.TemporaryDirectory(prefix="mcl-hf-push-") as folder:
        bundles = make_bundles(checkpoint, repository, Path(folder), contents)
        say(describe(bundles, how["public"]))
