"""`mcl-hf demo [CHECKPOINT]`: a page on this machine to look at a checkpoint with."""

from pathlib import Path

from ..errors import InputError
from .command import Parser, command, import_torch, say

EXAMPLES = """
examples:
  mcl-hf demo                                   # the checkpoint that comes with the package
  mcl-hf demo my-run --image a.jpg b.jpg
  mcl-hf demo my-detector --image a.jpg
"""


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = (
        "Show a page at 127.0.0.1: click a region and see where the model finds it again; what a detector finds; the "
        "curves of the run."
    )
    parser = Parser(prog="mcl-hf demo", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "checkpoint", nargs="?", default="demo", metavar="CHECKPOINT",
        help="folder or Hub repository of a run or a detector, also one of transformers (default: demo, which comes "
        "with the package)",
    )  # fmt: skip
    parser.add_argument(
        "--image", action="extend", nargs="+", type=Path, default=[], dest="images", metavar="FILE",
        help="one or two pictures to begin with; a detector takes one (default: embedded photos)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, metavar="N", help="(default: the first free one from 7860 on)")
    options = parser.parse_args(argv)
    if len(options.images) > 2:
        raise InputError(f"--image takes one or two pictures, got {len(options.images)}")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise InputError(f"--port must be 1 to 65535, got {options.port}")

    import_torch()
    from ..demo.page import serve

    serve(options.checkpoint, options.images, port=options.port, say=say)
