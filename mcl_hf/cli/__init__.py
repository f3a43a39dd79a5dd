"""The `mcl-hf` command: finds the sub-command, imports its file only, and hands over.

Also `python -m mcl_hf.cli`. Each sub-command is one file here with `main(argv) -> int`; exit code 0 is success, 2 is
wrong input (one line on stderr), 130 is Ctrl-C.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ..errors import nearest
from ..version import __version__

COMMANDS = {
    "pack": "write images as parquet shards, none larger than needed, so that runs decode less",
    "doctor": "check the installation, or plan a run: memory, hours, disk, cores",
    "pretrain": "pre-train a backbone, its feature pyramid and region head on images",
    "probe": "measure what the region features of checkpoints know, without training them",
    "finetune": "fine-tune a detector from a checkpoint on annotated images, and measure its AP",
    "compare": "say which start helps on annotated images: pre-trainings, detectors, one answer",
    "evaluate": "measure a detector on annotated images: COCO's figures, Pascal VOC's, pictures",
    "predict": "detect objects in images: annotations that can be trained on, pictures, a table",
    "export": "write a checkpoint for timm, torchvision, detectron2, mmdet or ONNX",
    "import": "start from a checkpoint of another program",
    "push": "publish a model on the Hub, with its card, in one commit",
    "card": "write a model card from what was recorded, without publishing it",
    "demo": "show a page in the browser: where a model finds a region again, what a detector finds, curves",
    "show": "draw pictures of data, of a run, of montages, or of what a checkpoint finds similar",
}
_HELP = """\
usage: mcl-hf COMMAND ...

Multi-Level Contrastive Learning: pre-training of detection backbones.

commands:
{}

mcl-hf COMMAND --help tells more; mcl-hf --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line such as `["pretrain", "--recipe", "demo", "--output-dir", "out"]`, or where it is None the
    process's own; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP.format(listed(COMMANDS)), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"mcl-hf {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"choose from {', '.join(COMMANDS)}"
        kind = "option" if name.startswith("-") else "command"
        print(f"mcl-hf: error: unknown {kind} {name!r}: {hint}", file=sys.stderr)
        return 2
    file = "import_" if name == "import" else name  # import is a word of Python's
    return import_module(f"mcl_hf.cli.{file}").main(arguments[1:])


def listed(summaries: Mapping[str, str]) -> str:
    """Names and what they stand for, one a line."""
    width = max(map(len, summaries))
    return "\n".join(f"  {name:<{width}}  {summary}" for name, summary in summaries.items())
