"""`mcl-hf finetune`: annotated images, a start, a detector, its AP. Also behind `scripts/finetune_detection.py`."""

from ..finetuning.arguments import RECIPES, FinetuneArguments, load_finetune_arguments
from ..new_folder import output_folder
from .command import command, import_torch
from .hub_flags import add_hub_flags, hub_callbacks
from .options import given_flags, recipe_parser

EXAMPLES = """
examples:
  mcl-hf finetune --recipe auto --init my-run --data my-annotated-images --output-dir my-detector
  mcl-hf finetune --recipe auto --init timm:resnet50 --data train.json --val-data val.json --output-dir baseline
  accelerate launch scripts/finetune_detection.py --recipe coco-maskrcnn-r50-fpn-1x --init my-run --data coco \\
      --output-dir coco-1x
"""


@command
def main(argv: list[str]) -> int:
    """Run the command."""
    description = "Fine-tune a detector on annotated images and measure its AP."
    parser = recipe_parser("mcl-hf finetune", description, EXAMPLES, RECIPES, FinetuneArguments)
    add_hub_flags(parser)
    namespace = parser.parse_args(argv)
    arguments = load_finetune_arguments(namespace.recipe, **given_flags(namespace, FinetuneArguments))
    arguments.check_given()
    output_folder(arguments.output_dir, [])  # refused before the seconds that torch takes

    import_torch()
    from ..callbacks import default_callbacks
    from ..finetuning.finetune import finetune

    with hub_callbacks(namespace, arguments) as push:
        result = finetune(arguments, callbacks=[*default_callbacks(arguments), *push])
    return 130 if result.stopped_by == "SIGINT" else 0
