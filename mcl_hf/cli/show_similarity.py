"""`mcl-hf show similarity CHECKPOINT`: one region's embedding, looked for in the same or another image."""

from pathlib import Path

from ..data.decode import open_picture
from ..errors import InputError
from .command import Parser, check_picture, import_torch, save_picture, unused


def run(argv: list[str]) -> None:
    """Open the checkpoint, draw the map and write the picture.

    Raises:
        InputError: A checkpoint or picture that cannot be opened, a box outside of it, or matplotlib is not installed.
    """
    parser = Parser(prog="mcl-hf show similarity", description="Draw where an image holds regions like a given box.")
    parser.add_argument("checkpoint", help="folder or Hub repository that MCLModel opens, or demo")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="picture that holds the box")
    parser.add_argument(
        "--box", nargs=4, type=float, metavar=("X0", "Y0", "X1", "Y1"), help="px of the picture (default: its middle)"
    )
    parser.add_argument("--searched", type=Path, metavar="FILE", help="picture to look in (default: the same)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="side of the regions relative to the box (default: 1)"
    )
    parser.add_argument(
        "--positions", type=int, default=24, metavar="N", help="regions along the longer side (default: 24)"
    )
    parser.add_argument(
        "--longest-side", type=int, default=512, metavar="PX", help="larger pictures are scaled down (default: 512)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="picture to write (default: similarity.png, or a free name beside it)"
    )
    arguments = parser.parse_args(argv)
    for name in ("scale", "positions", "longest_side"):
        if getattr(arguments, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {getattr(arguments, name)}")
    out = arguments.out or unused(Path("similarity.png"))
    check_picture(out)
    image = open_picture(arguments.image)
    searched = None if arguments.searched is None else open_picture(arguments.searched)

    import_torch()
    from ..probe.networks import open_checkpoint
    from ..viz.similarity import draw_similarity

    model = open_checkpoint(arguments.checkpoint)
    try:
        picture = draw_similarity(
            model,
            image,
            arguments.box,
            searched=searched,
            scale=arguments.scale,
            positions=arguments.positions,
            longest_side=arguments.longest_side,
        )
    except ValueError as error:  # the box: its message names the sizes
        raise InputError(str(error)) from error
    save_picture(picture, out)
