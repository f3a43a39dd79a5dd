"""`mcl-hf show similarity CHECKPOINT`: one region's embedding, looked for in the same or another image."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.decode import open_picture
from ..engine.options import Options, group, options_class
from ..errors import InputError
from .command import check_picture, import_torch, save_picture, unused
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
