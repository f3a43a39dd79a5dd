"""`mcl-hf import FILE OUT`: another program's checkpoint as a folder to start from."""

from pathlib import Path

from .command import Parser, command, import_torch, say

EXAMPLES = """
Known are checkpoints of the published MCL code (which become the whole pre-training model), of MoCo, DenseCL and SoCo,
models of detectron2 and mmdet, ResNets and detectors of torchvision, and folders of timm's of any architecture. A file
that cannot be read without running code from it is refused.

examples:
  mcl-hf import mcl_r50_100ep.pth mcl-r50
  mcl-hf import moco_v2_800ep_pretrain.pth.tar moco-r50
  mcl-hf pretrain --data my-images --init moco-r50 --output-dir my-run
"""


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = "Read a checkpoint of another program and write it as a folder of ours."
    parser = Parser(prog="mcl-hf import", description=description, epilog=EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=Path, help=".pth, .pth.tar or .safetensors; or a folder of timm's")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write: new or empty")
    arguments = parser.parse_args(argv)

    import_torch()
    from ..transfer.import_ import import_checkpoint

    report, remarks = import_checkpoint(arguments.file, arguments.out)
    say("\n".join([str(report), *(f"  {line}" for line in remarks), f"written: {arguments.out}"]))
    say(f"start from it with --init {arguments.out}")
