"""`mcl-hf card FOLDER`: a model card from what was recorded, without publishing anything."""

from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from ..files import is_somebodys, sealed
from .command import Parser, command, import_torch, say
from .hub_flags import CARD_FLAGS, add_card_flags

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


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = "Write a model card from what was recorded of a run, a checkpoint, a detector or an import."
    parser = Parser(prog="mcl-hf card", description=description, epilog=EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the model")
    parser.add_argument(
        "--out", type=Path, metavar="FILE_OR_FOLDER", help="where the card goes (default: README.md in FOLDER)"
    )
    add_card_flags(parser, "folder")
    parser.add_argument(
        "--probe", action="extend", nargs="+", type=Path, default=[], metavar="FILE", help="further probe.json"
    )
    parser.add_argument(
        "--recipe", action="extend", nargs="+", metavar="NAME",
        help="in place of FOLDER: cards of recipes, printed or put into --out",
    )  # fmt: skip
    options = vars(parser.parse_args(argv))
    folder, out, recipes = (options.pop(name) for name in ("folder", "out", "recipe"))
    if (folder is None) == (recipes is None):
        raise InputError("give one of the two: a FOLDER with a model, or --recipe NAME")
    if recipes is not None:
        unused = [CARD_FLAGS.get(name, "--probe") for name in options if options[name]]
        if unused:  # a recipe has no title, data or results of its own
            raise InputError(f"{unused[0]} is for the card of a model: leave it out with --recipe")
        _write_recipe_cards(recipes, out)
        return
    target = _in(out, CARD) if out is not None else folder / CARD
    if out is None and is_somebodys(target):
        raise InputError(f"{target} was written by somebody: name it with --out to replace it, or another file")

    import_torch()
    from ..hub.card import render_card, write_card

    results = [*options.pop("evaluations"), *options.pop("probe")]
    write_card(target, sealed(render_card(folder, evaluations=results, pictures=target.parent, **options)))
    say(f"card: {target}")
    if find_spec("matplotlib") is None:
        say("the card has no curves: they are drawn with matplotlib: pip install 'mcl_hf[viz]'")


def _in(out: Path, name: str) -> Path:
    """`--out`, or the file of this name in it where it is a folder."""
    return out if out.suffix == ".md" else out / name


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
        target = _in(out, f"{name}.md")
        write_card(target, text)
        say(f"card: {target}")
