"""`mcl-hf show data`: what a data set looks like to the model, which of its images look the same, and what limits the
speed at which they are prepared.
"""

from pathlib import Path

from ..errors import InputError
from .command import check_picture, import_torch, unused
from .pretrain import build_parser, read_arguments

READ = (
    *("data", "split", "data_files", "streaming", "image_column", "label_column", "group_column", "tile", "max_broken"),
    *("allow_outside_paths", "view_rendering", "min_crop_scale", "augment_on", "objective", "probe_data", "seed"),
    *("num_channels", "region_size", "montage_ratios", "montage_fractions", "level_weights"),
)
"""Options of a run that the pictures follow. All others are understood, so that a run's line can be taken as it is."""

EXAMPLES = """
examples:
  mcl-hf show data --data my_images/
  mcl-hf show data --data my_frames/ --group-column folder --compare 20000 --out sheet.png
"""


def run(argv: list[str]) -> None:
    """Print what was found, write the sheet and say where it is.

    Raises:
        InputError: Options or data that a run would refuse too.
    """
    parser = build_parser(
        "mcl-hf show data",
        "Draw images with their views and montages, near-duplicates, and time each stage. Options of pretrain are "
        "understood, too.",
        EXAMPLES,
        {*READ, "num_workers"},
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="picture to write (default: sheet.png, or a free name beside it)"
    )
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
    for flag, given, least in (
        ("pictures", namespace.pictures, 1), ("min-size-test", namespace.min_size_test, 1),
        ("compare", namespace.compare, 0),
    ):  # fmt: skip
        if given is not None and given < least:
            raise InputError(f"--{flag} must be at least {least}, got {given}")
    out = namespace.out or unused(Path("sheet.png"))
    check_picture(out)
    arguments = read_arguments(namespace)

    import_torch()
    from .data_sheet import draw_sheet

    draw_sheet(arguments, namespace.pictures, namespace.compare, out, namespace.min_size_test)
