"""`mcl-hf show similarity CHECKPOINT`: one region's embedding, looked for in the same or another image."""

from pathlib import Path

from ..data.decode import open_picture
from ..engine.options import Options, group, options_class
from ..errors import InputError
from .command import Parser, check_picture, import_torch, save_picture, unused
from .options import ARGUMENTS, read_options

_argument, _option = group(ARGUMENTS), group("how")


@options_class
class SimilarityOptions(Options):
    """What the command can be told."""

    checkpoint: str = _argument(..., "folder or Hub repository that MCLModel opens, or demo")
    image: Path = _option(..., "picture that holds the box")
    box: list[float] | None = _option(None, "X0 Y0 X1 Y1, px of the picture (its middle)", min_length=4, max_length=4)
    searched: Path | None = _option(None, "picture to look in (the same)")
    scale: float = _option(1.0, "side of the regions relative to the box", gt=0)
    positions: int = _option(24, "regions along the longer side", gt=0)
    longest_side: int = _option(512, "larger pictures are scaled down, px", gt=0)
    out: Path | None = _option(None, "picture to write (similarity.png, or a free name beside it)")


def run(argv: list[str]) -> None:
    """Open the checkpoint, draw the map and write the picture.

    Raises:
        InputError: A checkpoint or picture that cannot be opened, a box outside of it, or matplotlib is not installed.
    """
    parser = Parser(prog="mcl-hf show similarity", description="Draw where an image holds regions like a given box.")
    arguments = read_options(parser, SimilarityOptions, argv)
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
