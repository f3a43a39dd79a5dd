"""`mcl-hf pretrain`: a recipe, overrides, and a run with its pictures. Also behind `scripts/pretrain.py`."""

import argparse
from collections.abc import Collection

from ..new_folder import output_folder
from ..pretraining.arguments import PretrainArguments, load_arguments
from .command import Parser, command, import_torch
from .hub_flags import add_hub_flags, hub_callbacks
from .options import given_flags, recipe_parser

EXAMPLES = """
examples:
  mcl-hf pretrain --recipe demo --output-dir demo-run
  mcl-hf pretrain --recipe mcl-r18-small --data my_images/ --output-dir runs/own --init timm:resnet18.a1_in1k
  mcl-hf pretrain --data my_images/ --output-dir runs/own --push-to-hub user/name --hub-private
  accelerate launch scripts/pretrain.py --recipe mcl-r50-in1k-100ep --data imagenet/train --output-dir runs/in1k
"""


def build_parser(prog: str, description: str, epilog: str = "", shown: Collection[str] | None = None) -> Parser:
    """A parser that understands a pre-training run: `--recipe` and one flag for each field of `PretrainArguments`, of
    which the help tells of those that are `shown`, None: of all."""
    return recipe_parser(prog, description, epilog, "pretrain", PretrainArguments, shown)


def read_arguments(namespace: argparse.Namespace) -> PretrainArguments:
    """Recipe and flags of a parsed command line; an unknown recipe or a value that cannot be used is refused."""
    return load_arguments(namespace.recipe, **given_flags(namespace, PretrainArguments))


@command
def main(argv: list[str]) -> int:
    """Run the command."""
    parser = build_parser("mcl-hf pretrain", "Pre-train a backbone, its feature pyramid and region head.", EXAMPLES)
    add_hub_flags(parser)
    namespace = parser.parse_args(argv)
    arguments = read_arguments(namespace)
    output_folder(arguments.output_dir, arguments.data)  # refused before the seconds that torch takes

    import_torch()
    from ..callbacks import default_callbacks
    from ..pretraining.pretrain import pretrain

    with hub_callbacks(namespace, arguments) as push:
        result = pretrain(arguments, callbacks=[*default_callbacks(arguments), *push])
    return 130 if result.stopped_by == "SIGINT" else 0
