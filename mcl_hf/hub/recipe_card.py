"""The card of a recipe: what it would do, in the same words as the card of a model, and that there is no model of it.

Where it sits: a recipe's YAML -> **recipe_card** -> `model_cards/NAME.md`, by `mcl-hf card --recipe NAME`.
"""

import dataclasses
import difflib
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from mcl_hf.detection.configuration_detector import MCLDetectorConfig
from mcl_hf.detection.finetune_arguments import RECIPES, load_finetune_arguments
from mcl_hf.detection.transformers_detectors import TRANSFORMERS_DETECTORS
from mcl_hf.errors import InputError
from mcl_hf.hub.card import PAPER, fill_template
from mcl_hf.hub.card_doors import doors
from mcl_hf.hub.command_line import as_text
from mcl_hf.hub.markdown import bullets, code, facts, fenced, number, plain, table
from mcl_hf.hub.recorded import Recorded
from mcl_hf.hub.training_rows import Rows, detector_text, method_rows, options_rows, schedule_text
from mcl_hf.recipes import TASKS, load_recipe, recipe_names
from mcl_hf.training.arguments import load_arguments

# Figures of the paper (arXiv 2304.02010), COCO val2017, in percent.
_PAPER_AP = "Mask R-CNN with ResNet-50-FPN on COCO, 1x schedule: 42.5 box AP and 38.3 mask AP"
_PAPER = {
    "mcl-r50-in1k-100ep": f"{_PAPER_AP}, after 100 epochs of ImageNet-1k without labels",
    "coco-maskrcnn-r50-fpn-1x": f"{_PAPER_AP}, from its own 100 epochs of ImageNet-1k without labels",
}
_RUN = {"demo": "`make demo` runs it, to look at; its weights are kept nowhere."}


def recipe_card(name: str) -> str:
    """The text.

    Args:
        name: of an installed recipe, of any task.

    Raises:
        InputError: there is no such recipe.
    """
    task = next((task for task in TASKS if name in recipe_names(task)), None)
    if task is None:
        names = [known for task in TASKS for known in recipe_names(task)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no recipe {name!r}: {hint}installed are {', '.join(names)}")
    recorded, training, labels = (_detector if task == RECIPES else _pretraining)(name)
    values = load_recipe(name, task=task)
    command = ["mcl-hf", "finetune" if task == RECIPES else "pretrain", "--recipe", name]
    command += ["--init", "START"] if task == RECIPES else []
    command += [] if "data" in values else ["--data", "DATA"]
    header = ModelCardData(
        license="apache-2.0", library_name="transformers", pipeline_tag=_pipeline(task),
        tags=["mcl_hf", "object-detection", "recipe", *labels],
    )  # fmt: skip
    rows = [[code(option), code(as_text(value))] for option, value in values.items()]
    evaluation = "None: there is nothing to measure."
    if name in _PAPER:
        evaluation += (
            f"\n\nThe paper's numbers, of its own code and weights: {_PAPER[name]}. They were not repeated here."
        )
    return fill_template(
        {
            "metadata": header.to_yaml(),
            "title": f"Recipe {plain(name)}",
            "summary": _summary(task, recorded),
            "status": f"**There are no weights of this recipe.** {_RUN.get(name, 'It has not been run as it stands.')} "
            "This card was rendered from the recipe alone: it says what a run of it would do.",
            "doors": doors(recorded, None, with_timm=False, with_code=False),
            "training": facts(training),
            "recipe": f"{_comment(name, task)}\n\n{table(['option', 'value'], rows, texts=2)}\n\n"
            + fenced(" ".join([*command, "--output-dir", name]), "sh"),
            "curves": "",
            "numbers": "",
            "evaluation": evaluation,
            "limitations": bullets(["Whatever the data of a run bring with them: their licence, and their biases."]),
            "never_run": bullets(_never_run(name, task)),
        }
    )


def _pretraining(name: str) -> tuple[Recorded, Rows, list[str]]:
    arguments = load_arguments(name)
    config = arguments.model_config().to_dict()
    options = dataclasses.asdict(arguments)
    supervised = arguments.objective == "supervised"
    images = arguments.global_batch_size
    each = arguments.batch_size or 64
    told = f"{number(images)}" if images is not None else f"{number(each)} for each process"
    length = f"{number(arguments.max_steps)} steps" if arguments.max_steps else f"{arguments.epochs or 100:g} epochs"
    rows = [
        *method_rows(config, options, supervised),
        ("length", f"{length} of {told} images"),
        ("optimizer", schedule_text(options, images or each, arguments.max_steps)),
        ("precision", arguments.precision),
    ]
    return _recorded(name, config), rows, ["supervised-pre-training" if supervised else "self-supervised-learning"]


def _detector(name: str) -> tuple[Recorded, Rows, list[str]]:
    arguments = load_finetune_arguments(name)
    fields = arguments.config_fields()
    detector = arguments.detector or "mask_rcnn"  # auto takes another one where the annotations have no masks
    if detector in TRANSFORMERS_DETECTORS:
        backbone = arguments.backbone or "resnet50"
        config = {"model_type": detector, "detector": detector, "backbone": backbone, "num_channels": 3}
    else:
        config = MCLDetectorConfig(
            detector=detector, **({"backbone": arguments.backbone} if arguments.backbone else {}), **fields
        ).to_dict()
    rows: Rows = [("detector", detector_text(config))]
    if arguments.auto:
        chosen = "schedule, learning rate, image size, freezing, early stopping (`mcl_hf/detection/auto_rules.py`)"
        rows.append(("chosen from the size of the data", chosen))
        return _recorded(name, config), rows, [detector.replace("_", "-")]
    options = {key: value for key, value in dataclasses.asdict(arguments).items() if value is not None}
    if arguments.epochs is not None:
        options["epochs"] = arguments.epochs
    return _recorded(name, config), [*rows, *options_rows(options)], [detector.replace("_", "-")]


def _recorded(name: str, config: dict[str, Any]) -> Recorded:
    """A model that is not there."""
    return Recorded(
        name=name, folder=Path(name), run_folder=Path(name), config=config, state=None, step=None, log=[], imported=None
    )


def _pipeline(task: str) -> str:
    return "object-detection" if task == RECIPES else "image-feature-extraction"


def _summary(task: str, recorded: Recorded) -> str:
    if task == RECIPES:
        return f"How to fine-tune a detector, {detector_text(recorded.config).split(';')[0]}, from a start of your own."
    return (
        f"How to pre-train a {code(recorded.config['backbone'])} backbone, feature pyramid and region head by "
        f"{PAPER.format(variant='')}. The name of a model below is the folder that a run writes."
    )


def _comment(name: str, task: str) -> str:
    """The first lines of the YAML file, which say what the recipe is and where its numbers come from."""
    text = resources.files("mcl_hf.recipes").joinpath(task, f"{name}.yaml").read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return plain(" ".join(lines))


def _never_run(name: str, task: str) -> list[str]:
    lines = ["A run of it on a GPU."] if name in _RUN else ["The recipe as it stands, on any machine."]
    if task != RECIPES:
        lines.append("Any transfer benchmark of what it gives.")
    return lines
