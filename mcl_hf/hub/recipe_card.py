"""The card of a recipe: what it would do, in the same words as the card of a model, and that there is no model of it.

Where it sits: a recipe's YAML -> **recipe_card** -> `model_cards/NAME.md`, by `mcl-hf card --recipe NAME`.
"""

import dataclasses
import itertools
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ..detectors.configuration_detector import MCLDetectorConfig
from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.provenance import start_record
from ..errors import InputError, nearest
from ..finetuning.arguments import RECIPES, load_finetune_arguments
from ..pretraining.arguments import load_arguments
from ..recipes import TASKS, load_recipe, recipe_names
from .card import fill_template
from .card_data import Recorded
from .markdown import code, table
from .metadata import pipeline_tag
from .run_command import as_text

# Figures of the paper (arXiv 2304.02010), COCO val2017, in percent.
_PAPER_AP = "Mask R-CNN with ResNet-50-FPN on COCO, 1x schedule: 42.5 box AP and 38.3 mask AP"
_PAPER = {
    "mcl-r50-in1k-100ep": f"{_PAPER_AP}, after 100 epochs of ImageNet-1k without labels",
    "coco-maskrcnn-r50-fpn-1x": f"{_PAPER_AP}, from its own 100 epochs of ImageNet-1k without labels",
}


def recipe_card(name: str) -> str:
    """The text for an installed recipe of any task; raises `InputError` where there is no such recipe."""
    task = next((task for task in TASKS if name in recipe_names(task)), None)
    if task is None:
        names = [known for task in TASKS for known in recipe_names(task)]
        told = f"{nearest(name, names)} installed are {', '.join(names)}"
        raise InputError(f"there is no recipe {name!r}: {told.lstrip()}")
    if task == RECIPES:
        config, run, label = _detector(name)
        command = f"mcl-hf finetune --recipe {name} --init START"
    else:
        arguments = load_arguments(name)
        config, run = arguments.model_config().to_dict(), dataclasses.asdict(arguments)
        label = "supervised-pre-training" if arguments.objective == "supervised" else "self-supervised-learning"
        command = f"mcl-hf pretrain --recipe {name}"
    values = load_recipe(name, task=task)
    start = start_record(values.get("init"))
    header = ModelCardData(
        license=None if start.get("licence") else "apache-2.0",  # of the recipe; models of it have their start's
        library_name="transformers",
        pipeline_tag=pipeline_tag(config.get("detector")),
        tags=["mcl_hf", "object-detection", "recipe", label],
    )
    model = Recorded(name=name, folder=Path(name), run_folder=Path(name), config=config, log=[])  # that is not there
    text = resources.files("mcl_hf.recipes").joinpath(task, f"{name}.yaml").read_text(encoding="utf-8")
    first_lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return fill_template(
        "recipe_template.md",
        model,
        metadata=header.to_yaml(),
        title=f"Recipe {name}",
        was_run=name == "demo",
        start=start,
        run=run,
        comment=" ".join(line.removeprefix("#").strip() for line in first_lines),
        options=table(["option", "value"], [[code(key), code(as_text(v))] for key, v in values.items()], texts=2),
        command=f"{command}{'' if 'data' in values else ' --data DATA'} --output-dir {name}",
        paper=_PAPER.get(name),
    )


def _detector(name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Configuration, options less those that it leaves to the data, and tag, of a recipe of fine-tuning."""
    arguments = load_finetune_arguments(name)
    detector = arguments.detector or "mask_rcnn"  # auto takes another one where the annotations have no masks
    if detector in TRANSFORMERS_DETECTORS:
        backbone = arguments.backbone or "resnet50"
        config = {"model_type": detector, "detector": detector, "backbone": backbone, "num_channels": 3}
    else:
        given = {"backbone": arguments.backbone} if arguments.backbone else {}
        config = MCLDetectorConfig(detector=detector, **given, **arguments.config_fields()).to_dict()
    options = {key: value for key, value in dataclasses.asdict(arguments).items() if value is not None}
    return config, options, detector.replace("_", "-")
