"""`mcl-hf card FOLDER`: a model card from what was recorded, without publishing anything."""

from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from ..files import is_somebodys, sealed
from .command import Parser, command, import_torch, say

CARD = "README.md"
EXAMPLES = """
Nothing in a card is typed: recipe, data, steps, machine, curves and evaluations are those that were recorded, and what
is missing is said to be. metrics.json, probe.json and comparison.json beside the model are found.

examples:
  mcl-hf card my-run
  mcl-hf card my-run --title "MCL on my photos" --data-license cc-by-4.0 --evaluation does-it-help/comparison.json
  mcl-hf card my-run/checkpoints/step-00010000 --out cards/
  mcl-hf card --recipe demo
"""


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(
        prog="mcl-hf card",
        description="Write a model card from what was recorded of a run, a checkpoint, a detector or an import.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the model")
    parser.add_argument(
        "--out", type=Path, metavar="FILE_OR_FOLDER", help="where the card goes (default: README.md in FOLDER)"
    )
    parser.add_argument("--title", metavar="TEXT", help="first heading (default: the folder's name)")
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="of the weights, as the Hub names it (default: none is claimed)",
    )
    parser.add_argument("--data-license", metavar="TEXT", help="of the training data (default: as recorded, if it was)")
    parser.add_argument("--data-name", metavar="TEXT", help="what to call the training data (default: as recorded)")
    parser.add_argument(
        "--evaluation", nargs="+", type=Path, default=[], metavar="FILE",
        help="further results: metrics.json of evaluate or finetune, comparison.json of compare",
    )  # fmt: skip
    parser.add_argument("--probe", nargs="+", type=Path, default=[], metavar="FILE", help="further probe.json")
    parser.add_argument(
        "--with-pictures-of-data", action="store_true", help="also show pictures in which images of the data are seen"
    )
    parser.add_argument(
        "--recipe", nargs="+", metavar="NAME", help="in place of FOLDER: cards of recipes, printed or put into --out"
    )
    return parser


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    options = build_parser().parse_args(argv)
    if (options.folder is None) == (options.recipe is None):
        raise InputError("give one of the two: a FOLDER with a model, or --recipe NAME")
    if options.recipe is not None:
        for name in ("title", "license", "data_license", "data_name", "evaluation", "probe", "with_pictures_of_data"):
            if getattr(options, name):  # a recipe has no title, data or results of its own
                raise InputError(f"--{name.replace('_', '-')} is for the card of a model: leave it out with --recipe")
        _write_recipe_cards(options.recipe, options.out)
        return
    target = _target(options.folder, options.out)

    import_torch()
    from ..hub.card import render_card, write_card

    text = render_card(
        options.folder,
        title=options.title,
        license=options.license,
        evaluations=[*options.evaluation, *options.probe],
        pictures=target.parent,
        data_name=options.data_name,
        data_license=options.data_license,
        pictures_of_data=options.with_pictures_of_data,
    )
    write_card(target, sealed(text))
    say(f"card: {target}")
    if find_spec("matplotlib") is None:
        say("the card has no curves: they are drawn with matplotlib: pip install 'mcl_hf[viz]'")


def _write_recipe_cards(names: list[str], out: Path | None) -> None:
    if out is not None and out.suffix == ".md" and len(names) > 1:
        raise InputError(f"--out {out} is one file, for {len(names)} recipes: name a folder")

    import_torch()
    from ..hub.card import write_card
    from ..hub.recipe_card import recipe_card

    texts = {name: recipe_card(name) for name in names}
    if out is None:
        say("\n".join(texts.values()).removesuffix("\n"))
        return
    for name, text in texts.items():
        target = out if out.suffix == ".md" else out / f"{name}.md"
        write_card(target, text)
        say(f"card: {target}")


def _target(folder: Path, out: Path | None) -> Path:
    """The file to write; a README that is not ours is not replaced unless it is named.

    Raises:
        InputError: such a README.
    """
    if out is not None:
        return out if out.suffix == ".md" else out / CARD
    target = folder / CARD
    if is_somebodys(target):
        raise InputError(f"{target} was written by somebody: name it with --out to replace it, or another file")
    return target
