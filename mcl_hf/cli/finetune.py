"""`mcl-hf finetune`: annotated images, a start, and a detector with its AP; or several starts, and which of them helps.
Also behind `scripts/finetune_detection.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcl_hf.cli.card import CardWriter
from mcl_hf.cli.command import Parser, run_command
from mcl_hf.cli.hub_flags import add_hub_flags, hub_callbacks
from mcl_hf.cli.options import given_flags, recipe_parser
from mcl_hf.detection.compare import FRACTIONS, SEEDS, compare_starts
from mcl_hf.detection.finetune import finetune
from mcl_hf.detection.finetune_arguments import RECIPES, FinetuneArguments, load_finetune_arguments
from mcl_hf.errors import InputError

# Title of a group of flags -> the field of FinetuneArguments that it starts with.
GROUPS = {
    "where to and from": "output_dir",
    "data": "data",
    "detector": "detector",
    "length and batch": "auto",
    "optimisation": "optimizer",
    "machine": "precision",
    "saving and watching": "eval_every_steps",
}
EXAMPLES = """
examples:
  mcl-hf finetune --recipe auto --init my-run --data my-annotated-images --output-dir my-detector
  mcl-hf finetune --recipe auto --init timm:resnet50 --data train.json --val-data val.json --output-dir baseline
  mcl-hf finetune --compare random,timm:resnet50,my-run --fractions 0.1,1 --seeds 3 --recipe auto --data my-coco \\
      --output-dir does-it-help
  accelerate launch scripts/finetune_detection.py --recipe coco-maskrcnn-r50-fpn-1x --init my-run --data coco \\
      --output-dir coco-1x
"""


def build_parser() -> Parser:
    """A parser that understands a fine-tuning run: `--recipe` and one flag for each field of `FinetuneArguments`."""
    description = "Fine-tune a detector on annotated images and measure its AP."
    parser = recipe_parser("mcl-hf finetune", description, EXAMPLES, RECIPES, FinetuneArguments, GROUPS)
    compare = parser.add_argument_group(
        "comparing starts", "instead of --init; the same command again goes on where it stopped"
    )
    compare.add_argument(
        "--compare",
        nargs="+",
        metavar="START",
        help="fine-tune from each of these, random, timm:NAME, folders or repositories, and say which start helps",
    )
    fractions = ",".join(f"{fraction:g}" for fraction in FRACTIONS)
    compare.add_argument(
        "--fractions", nargs="+", metavar="X", help=f"shares of the labelled images, in (0, 1] (default: {fractions})"
    )
    compare.add_argument("--seeds", type=int, metavar="N", help=f"runs of each start and share (default: {SEEDS})")
    compare.add_argument(
        "--keep-models",
        action="store_true",
        help="keep the finished detectors; of each job only its figures, log and README stay otherwise",
    )
    add_hub_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for exit codes."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int:
    namespace = build_parser().parse_args(argv)
    given = given_flags(namespace, FinetuneArguments)
    if namespace.compare is not None:
        if "init" in given:
            raise InputError("--init and --compare are both given: --compare names every start itself")
        if namespace.push_to_hub is not None or namespace.hub_private:
            raise InputError("--push-to-hub is for one run: push the detector that --compare --keep-models leaves")
        result: Any = compare_starts(
            _parts(namespace.compare),
            fractions=FRACTIONS if namespace.fractions is None else _numbers(namespace.fractions),
            seeds=SEEDS if namespace.seeds is None else namespace.seeds,
            keep_models=namespace.keep_models,
            arguments=load_finetune_arguments(namespace.recipe, **given),
        )
    else:
        for name in ("fractions", "seeds", "keep_models"):
            if getattr(namespace, name) not in (None, False):  # 0 seeds are asked for, too
                raise InputError(f"--{name.replace('_', '-')} belongs to --compare, which is not given")
        arguments = load_finetune_arguments(namespace.recipe, **given)
        with hub_callbacks(namespace, arguments) as push:
            result = finetune(arguments, callbacks=[CardWriter(), *push])
    return 130 if result.stopped_by == "SIGINT" else 0


def _parts(texts: Sequence[str]) -> list[str]:
    """Starts, at blanks and commas; a folder whose name has a comma stays whole."""
    return [part for text in texts for part in ([text] if Path(text).exists() else text.split(",")) if part]


def _numbers(texts: Sequence[str]) -> list[float]:
    try:
        return [float(part) for text in texts for part in text.split(",") if part]
    except ValueError as error:
        raise InputError(f"--fractions must be numbers such as 0.1,1, got {' '.join(texts)}") from error
