"""`mcl-hf show`: pictures of data, of runs, of montages and of similarity, each a function `show_...` here.

What needs torch to be drawn is in data_sheet.py and in `viz`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.decode import open_picture
from ..engine.options import Options, group, options_class
from ..errors import InputError
from . import listed
from .command import Parser, aligned, check_picture, command, import_torch, save_picture, say, unused
from .options import ARGUMENTS, read_options
from .pretrain import build_parser, read_arguments

PICTURES = {
    "data": "a contact sheet: images with their views and montages, near-duplicates, and the speed of each stage",
    "run": "curves of one or more runs as a picture, and a table of their last numbers",
    "montages": "the first montages that a run with these options would see",
    "similarity": "where an image holds regions like a given box, as a checkpoint sees it",
}
READ = (
    *("data", "split", "data_files", "streaming", "image_column", "label_column", "group_column", "tile", "max_broken"),
    *("allow_outside_paths", "view_rendering", "min_crop_scale", "augment_on", "objective", "probe_data", "seed"),
    *("num_channels", "region_size", "montage_ratios", "montage_fractions", "level_weights"),
)
"""Options of a run that its pictures follow. All others are understood, so that a run's line can be taken as it is."""

_argument, _option = group(ARGUMENTS), group("how")


# --- of the options of a run ------------------------------------------------------------------------------------------

DATA_EXAMPLES = """
examples:
  mcl-hf show data --data my_images/
  mcl-hf show data --data my_frames/ --group-column folder --compare 20000 --out sheet.png
"""
MONTAGES_EXAMPLES = """
examples:
  mcl-hf show montages --recipe demo
  mcl-hf show montages --recipe mcl-r18-small --data my_images/ --out montages.png
"""


def show_data(argv: list[str]) -> None:
    """What a data set looks like to the model, which of its images look the same, and what limits the speed at which
    they are prepared."""
    description = "Draw images with their views and montages, near-duplicates, and time each stage."
    parser = _parser_of_runs("data", description, DATA_EXAMPLES, {*READ, "num_workers"}, "sheet.png")
    parser.add_argument("--pictures", metavar="N", type=int, default=8, help="images to draw (default: 8)")
    parser.add_argument(
        "--compare", metavar="N", type=int, default=2000,
        help="images to search for near-duplicates, drawn at random where there are more; 0: none (default: 2000)",
    )  # fmt: skip
    parser.add_argument(
        "--min-size-test", metavar="N", type=int,
        help="as finetune's: shorter side of the images that a detector will see, px (default: as auto chooses)",
    )  # fmt: skip
    namespace = parser.parse_args(argv)
    for flag, least in (("pictures", 1), ("min_size_test", 1), ("compare", 0)):
        given = getattr(namespace, flag)
        if given is not None and given < least:
            raise InputError(f"--{flag.replace('_', '-')} must be at least {least}, got {given}")
    out = namespace.out or unused(Path("sheet.png"))
    check_picture(out)
    arguments = read_arguments(namespace)

    import_torch()
    from .data_sheet import draw_sheet

    draw_sheet(arguments, namespace.pictures, namespace.compare, out, namespace.min_size_test)


def _parser_of_runs(name: str, description: str, examples: str, shown: set[str], default: str) -> Parser:
    about = f"{description} Options of pretrain are understood, too."
    parser = build_parser(f"mcl-hf show {name}", about, examples, shown)
    told = f"picture to write (default: {default}, or a free name beside it)"
    parser.add_argument("--out", metavar="FILE", type=Path, help=told)
    return parser


def show_montages(argv: list[str]) -> None:
    """The first batch of the run that the options describe (rank 0), as the model would see it."""
    description, shown = "Draw the first montages that a run would see.", {*READ, "batch_size", "global_batch_size"}
    parser = _parser_of_runs("montages", description, MONTAGES_EXAMPLES, shown - {"probe_data"}, "montages.png")
    namespace = parser.parse_args(argv)
    out = namespace.out or unused(Path("montages.png"))
    check_picture(out)
    arguments = read_arguments(namespace)
    batch_size, _ = arguments.batch_sizes(world_size=1)

    import_torch()
    from ..pretraining.run_data import open_data
    from .data_sheet import first_montages

    source = open_data(arguments)
    say(source.description)
    _, picture = first_montages(arguments, source, min(batch_size, len(source)))
    save_picture(picture, out)


# --- of what a run left -----------------------------------------------------------------------------------------------


def show_run(argv: list[str]) -> None:
    """Curves, and a table of the last numbers."""
    description = "Draw a run's curves, or those of several runs over each other."
    parser = Parser(prog="mcl-hf show run", description=description)
    parser.add_argument("runs", nargs="+", metavar="DIR", type=Path, help="folder of a run (or its log.jsonl)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path,
        help="picture to write (default: DIR/pictures/curves.png for one run, a free curves.png for several)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    runs: list[Path] = arguments.runs
    if arguments.out is not None:
        check_picture(arguments.out)

    from ..viz.curves import curves_picture, read_log, summarise

    say(_side_by_side([{"run": str(path), **summarise(read_log(path))} for path in runs]))
    folder = runs[0] if runs[0].is_dir() else runs[0].parent
    default = folder / "pictures" / "curves.png" if len(runs) == 1 else unused(Path("curves.png"))
    save_picture(curves_picture(runs), arguments.out or default)


def _side_by_side(columns: list[dict[str, str]]) -> str:
    """One line a number, one column a run; "-" where a run does not have it."""
    titles = dict.fromkeys(title for column in columns for title in column)
    return aligned([[title, *(column.get(title, "-") for column in columns)] for title in titles])


@options_class
class SimilarityOptions(Options):
    """What `mcl-hf show similarity` can be told."""

    checkpoint: str = _argument(..., "folder or Hub repository that MCLModel opens, or demo")
    image: Path = _option(..., "picture that holds the box")
    box: list[float] | None = _option(None, "X0 Y0 X1 Y1, px of the picture (its middle)", min_length=4, max_length=4)
    searched: Path | None = _option(None, "picture to look in (the same)")
    scale: float = _option(1.0, "side of the regions relative to the box", gt=0)
    positions: int = _option(24, "regions along the longer side", gt=0)
    longest_side: int = _option(512, "larger pictures are scaled down, px", gt=0)
    out: Path | None = _option(None, "picture to write (similarity.png, or a free name beside it)")


def show_similarity(argv: list[str]) -> None:
    """One region's embedding, looked for in the same or another image."""
    description = "Draw where an image holds regions like a given box."
    given = read_options(SimilarityOptions, argv, prog="mcl-hf show similarity", description=description)
    options: dict[str, Any] = asdict(given)
    out = options.pop("out") or unused(Path("similarity.png"))
    check_picture(out)
    image = open_picture(options.pop("image"))
    if options["searched"] is not None:
        options["searched"] = open_picture(options["searched"])

    import_torch()
    from ..probe.networks import open_checkpoint
    from ..viz.similarity import draw_similarity

    model = open_checkpoint(options.pop("checkpoint"))
    try:
        picture = draw_similarity(model, image, **options)
    except ValueError as error:  # the box: its message names the sizes
        raise InputError(str(error)) from error
    save_picture(picture, out)


@command
def main(argv: list[str]) -> int | None:
    """Run the command."""
    if argv and argv[0] in PICTURES:
        show = {"data": show_data, "run": show_run, "montages": show_montages, "similarity": show_similarity}[argv[0]]
        return show(argv[1:])
    if argv and argv[0] not in ("-h", "--help"):
        raise InputError(f"mcl-hf show has no {argv[0]!r}: choose from {', '.join(PICTURES)}")
    print(f"usage: mcl-hf show PICTURE ...\n\npictures:\n{listed(PICTURES)}\n\nmcl-hf show PICTURE --help tells more.")
    return 0 if argv else 2
