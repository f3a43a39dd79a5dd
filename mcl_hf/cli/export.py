"""`mcl-hf export CHECKPOINT --to FRAMEWORK OUT`: the same weights for another framework."""

import argparse
from pathlib import Path

from ..errors import InputError
from ..transfer.targets import DETECTORS, NETWORKS, TARGETS
from . import listed
from .command import Parser, command, import_torch, say

EXAMPLES = f"""
targets:
{listed(TARGETS)}

examples:
  mcl-hf export my-run --to timm my-run-timm
  mcl-hf export my-run --to detectron2 --detector retinanet my-run-d2
  mcl-hf export my-run/pretraining --to torchvision --network target --data my-images my-target
  mcl-hf export my-run --to transformers --with-code my-run-with-code
"""


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = "Write a checkpoint for another framework into the folder OUT, with a short README."
    parser = Parser(prog="mcl-hf export", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run, its pretraining/, a checkpoint, a detector, or user/name"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write: new or empty")
    parser.add_argument("--to", required=True, choices=list(TARGETS), help="the framework, see below")
    parser.add_argument(
        "--detector", choices=DETECTORS, help="for which detector names are (default: the checkpoint's, or mask_rcnn)"
    )
    parser.add_argument(
        "--network", choices=NETWORKS, help="online, or its slowly moving copy (default: online; transformers: all)"
    )
    parser.add_argument(
        "--data", metavar="IMAGES",
        help="with --network target: images to make batch-norm statistics of, which its FPN lacks; as in pretrain",
    )  # fmt: skip
    for flag, what in (("--num-images", "how many of them (default: 1024)"),
                       ("--batch-size", "images of a batch there (default: 16)")):  # fmt: skip
        parser.add_argument(flag, type=int, default=argparse.SUPPRESS, metavar="N", help=what)
    parser.add_argument(
        "--allow-outside-paths", action="store_true", default=argparse.SUPPRESS,
        help="read images outside of the folder of --data where paths in tables say so",
    )  # fmt: skip
    parser.add_argument(
        "--with-code", action="store_true",
        help="with --to transformers: put the code beside the weights, so that it opens without mcl_hf",
    )  # fmt: skip
    options = vars(parser.parse_args(argv))
    for name in ("num_images", "batch_size", "allow_outside_paths"):
        if name in options and options["data"] is None:
            raise InputError(f"--{name.replace('_', '-')} is for the images of --data, which is not given")

    import_torch()
    from ..transfer.export import export_checkpoint

    coverage = export_checkpoint(options.pop("checkpoint"), out := options.pop("out"), options.pop("to"), **options)
    say(f"{coverage}\nwritten: {out} (its README.md says how to open it)")
