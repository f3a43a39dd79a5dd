"""`mcl-hf show data`: what a data set looks like to the model, which of its images look the same, and what limits the
speed at which they are prepared.
"""

from pathlib import Path

from ..errors import InputError
from .command import check_picture, import_torch, unused
from .pretrain import build_parser, read_arguments

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
        "mcl-hf show data", "Draw images with their views and montages, near-duplicates, and time each stage.", EXAMPLES
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="picture to write (default: sheet.png, or a free name beside it)"
    )
    parser.add_argument("--images", metavar="N", type=int, default=8, help="images to draw (default: 8)")
    parser.add_argument(
        "--compare", metavar="N", type=int, default=2000,
        help="images to search for near-duplicates, drawn at random where there are more; 0: none (default: 2000)",
    )  # fmt: skip
    namespace = parser.parse_args(argv)
    if namespace.images < 1:
        raise InputError(f"--images must be at least 1, got {namespace.images}")
    if namespace.compare < 0:
        raise InputError(f"--compare must be at least 0, got {namespace.compare}")
    out = namespace.out or unused(Path("sheet.png"))
    check_picture(out)
    arguments = read_arguments(namespace)

    import_torch()
    from .data_sheet import draw_sheet

    draw_sheet(arguments, namespace.images, namespace.compare, out)
