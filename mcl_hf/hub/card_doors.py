"""How a model is opened in each framework, as the card tells it.

Where it sits: recorded -> **card_doors** -> card. The door without our package, timm's, stands first.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from mcl_hf.detection.transformers_detectors import TRANSFORMERS_DETECTORS
from mcl_hf.hub.markdown import code
from mcl_hf.hub.recorded import Recorded
from mcl_hf.models.timm_backbone import layer_arguments
from mcl_hf.transfer.companions import RESNET_DEPTHS
from mcl_hf.transfer.remote_code import CARRIED
from mcl_hf.transfer.to_onnx import can_be_traced
from mcl_hf.transfer.to_timm import feature_options

_INSTALL = "mcl_hf is installed by `pip install .` in a clone of its source."

_CLASSES = {
    "mask_rcnn": "MCLForInstanceSegmentation",
    "faster_rcnn": "MCLForObjectDetection",
    "retinanet": "MCLForObjectDetection",
}
_OF_A_DETECTOR = {
    "timm": "the backbone",
    "onnx": "the backbone, and the FPN of R-CNNs",
    "torchvision": "the whole detector",
    "detectron2": "the whole detector",
    "mmdet": "the whole detector",
}


@dataclass(frozen=True)
class Door:
    """One way to open the model: a heading, a sentence before the code, the code and its language."""

    title: str
    text: str
    language: str
    code: str


def doors(
    recorded: Recorded, repository: str | None, with_timm: bool, with_code: bool, pretraining: str | None = None
) -> list[Door]:
    """All of them.

    Args:
        recorded: the model.
        repository: `user/name` that it is published as; None: its folder.
        with_timm: `repository`-timm is there.
        with_code: the repository carries its code.
        pretraining: class of the whole model that the repository carries in `pretraining/`; None: it carries none.
    """
    place = repository or recorded.name
    if recorded.detector is not None:
        exports = [] if recorded.detector in TRANSFORMERS_DETECTORS else _exports(recorded, place, with_timm)
        return [_pipeline(place), _detector_class(place, recorded.detector), *exports]
    found = [_timm(recorded.config, place, with_timm), _ours(recorded, repository, pretraining)]
    if with_code:
        found.append(_remote_code(place, pretraining))
    found.append(_transformers(place, hub=repository is not None))
    found.append(_detectors(place))
    return [*found, *_exports(recorded, place, with_timm)]


def _timm(config: dict[str, Any], place: str, with_timm: bool) -> Door:
    if with_timm:
        address, text = (
            f"hf-hub:{place}-timm",
            f"The backbone lies beside it as `{place}-timm`, which needs timm alone:",
        )
    else:
        out = f"{place.rsplit('/', 1)[-1]}-timm"
        address = f"local-dir:{out}"
        command = code(f"mcl-hf export {shlex.quote(place)} --to timm {shlex.quote(out)}")
        text = f"After {command}, which needs mcl_hf once, the backbone opens with timm alone:"
    options = feature_options(config["backbone"], config["num_channels"], config.get("backbone_kwargs"))
    lines = [
        "import timm",
        "",
        f"maps = dict({options})  # C2..C5",
        f"network = timm.create_model({_text(address)}, pretrained=True, **maps)",
    ]
    return Door("Without mcl_hf: timm", text, "python", "\n".join(lines))


def _ours(recorded: Recorded, repository: str | None, pretraining: str | None) -> Door:
    place = repository or recorded.name
    lines = [
        "from mcl_hf import MCLBackbone, MCLModel",
        "",
        f"model = MCLModel.from_pretrained({_text(place)})  # feature maps P2..P5, embed_regions(pixels, boxes)",
        f"backbone = MCLBackbone.from_pretrained({_text(place)})  # C2..C5",
    ]
    whole = recorded.whole_class if repository is None else pretraining  # what is published at the root is slim
    if whole is not None:
        inside = "" if repository is None else ', subfolder="pretraining"'
        lines[0] = f"from mcl_hf import MCLBackbone, {whole}, MCLModel"
        lines.append(f"whole = {whole}.from_pretrained({_text(place)}{inside})  # to train on")
    text = _INSTALL
    if repository is not None and pretraining is not None:
        text += (
            f" `pretraining/` is the whole model that training goes on from; options of mcl_hf that take a model open "
            f"it as `{repository}/pretraining`."
        )
    return Door("mcl_hf", text, "python", "\n".join(lines))


def _transformers(place: str, hub: bool) -> Door:
    lines = [
        "import mcl_hf  # registers the models with transformers",
        "from transformers import AutoImageProcessor, AutoModel",
        "",
        f"processor = AutoImageProcessor.from_pretrained({_text(place)})",
        f"model = AutoModel.from_pretrained({_text(place)})",
    ]
    if hub:
        lines[1] = "from transformers import AutoBackbone, AutoImageProcessor, AutoModel"
        lines.append(f"backbone = AutoBackbone.from_pretrained({_text(place)})  # for DETR, Mask2Former, UperNet")
    return Door("transformers", "", "python", "\n".join(lines))


def _remote_code(place: str, pretraining: str | None) -> Door:
    lines = [
        "from transformers import AutoModel",
        "",
        f"model = AutoModel.from_pretrained({_text(place)}, trust_remote_code=True)",
    ]
    if pretraining in CARRIED:
        lines[0] += ", AutoModelForPreTraining"
        name = f'{_text(place)}, subfolder="pretraining", trust_remote_code=True'
        lines.append(f"whole = AutoModelForPreTraining.from_pretrained({name})")
    return Door(
        "transformers, without mcl_hf",
        "The repository carries the code of its model; read it before you trust it. It needs timm and torchvision.",
        "python",
        "\n".join(lines),
    )


def _detectors(place: str) -> Door:
    return Door(
        "As the start of a detector",
        "Fine-tuning on annotated images, with the AP at the end:",
        "sh",
        f"mcl-hf finetune --recipe auto --init {shlex.quote(place)} --data ANNOTATED_IMAGES --output-dir my-detector",
    )


def _pipeline(place: str) -> Door:
    lines = [
        "import mcl_hf  # registers the detectors with transformers",
        "from transformers import pipeline",
        "",
        f'detect = pipeline("object-detection", model={_text(place)})',
        'objects = detect("image.jpg")',
    ]
    return Door("transformers", _INSTALL, "python", "\n".join(lines))


def _detector_class(place: str, detector: str) -> Door:
    if detector in TRANSFORMERS_DETECTORS:
        name = f"{TRANSFORMERS_DETECTORS[detector].prefix}ForObjectDetection"
        first = ["import mcl_hf  # registers the backbone with transformers", f"from transformers import {name}"]
        return Door("The class", "", "python", "\n".join([*first, "", f"{name}.from_pretrained({_text(place)})"]))
    name = _CLASSES[detector]
    lines = [f"from mcl_hf import {name}", "", f"detector = {name}.from_pretrained({_text(place)})"]
    return Door("mcl_hf", "", "python", "\n".join(lines))


def _exports(recorded: Recorded, place: str, with_timm: bool) -> list[Door]:
    """Commands for the frameworks that have no door of their own; no door where there is none of them."""
    config, name = recorded.config, shlex.quote(place)
    plain = config["backbone"] in RESNET_DEPTHS and not layer_arguments(config.get("backbone_kwargs"))
    targets = ["torchvision", "detectron2", "mmdet"] if plain else []
    if recorded.detector is not None and not with_timm:
        targets.insert(0, "timm")
    targets += ["onnx"] if can_be_traced(config["backbone"]) else []
    if not targets:
        return []
    short = place.rsplit("/", 1)[-1]
    lines = [f"mcl-hf export {name} --to {target} {shlex.quote(f'{short}-{target}')}" for target in targets]
    titles = {
        "torchvision": "torchvision",
        "detectron2": "detectron2",
        "mmdet": "mmdet",
        "onnx": "ONNX",
        "timm": "timm",
    }
    each = "The command" if len(targets) == 1 else "Each command"
    weights = ["weights"] if set(targets) - {"onnx"} else []
    what = " or ".join([*weights, *(["graphs"] if "onnx" in targets else [])])
    text = f"{each} writes {what}, and beside them what the other framework needs to know."
    if recorded.detector is not None:
        text += "".join(f" {titles[target]} gets {_OF_A_DETECTOR[target]}." for target in targets)
    if not plain:
        text += f" torchvision, detectron2 and mmdet have no names for the layers of this {config['backbone']}."
    return [Door(", ".join(titles[target] for target in targets), text, "sh", "\n".join(lines))]


def _text(value: str) -> str:
    """A Python string."""
    return json.dumps(value, ensure_ascii=False)
