"""What the card's section "How to load it" needs to know; its words and code are in `card_template.md`."""

from typing import Any

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..models.timm_backbone import layer_arguments
from ..transfer.detector_configs import RESNET_DEPTHS
from ..transfer.remote_code import CARRIED
from ..transfer.to_onnx import can_be_traced
from ..transfer.to_timm import feature_options
from .card_data import Recorded, whole_class
from .metadata import pipeline_tag


def how_to_load(
    model: Recorded,
    repository: str | None = None,
    with_timm: bool = False,
    with_code: bool = False,
    pretraining: str | None = None,
) -> dict[str, Any]:
    """Values of the template; the options are those of `render_card`."""
    config, place = model.config, repository or model.name
    named_alike = config["backbone"] in RESNET_DEPTHS and not layer_arguments(config.get("backbone_kwargs"))
    targets = ["timm"] if model.detector is not None and not with_timm else []
    targets += ["torchvision", "detectron2", "mmdet"] if named_alike else []
    targets += ["onnx"] if can_be_traced(config["backbone"]) else []
    theirs = TRANSFORMERS_DETECTORS.get(model.detector or "")
    if theirs is not None:  # it is transformers' own format already
        targets = []
    ours = "MCLForInstanceSegmentation" if model.detector == "mask_rcnn" else "MCLForObjectDetection"
    return {
        "place": place,
        "detector_class": ours if theirs is None else theirs.model_class.__name__,
        "pipeline_tag": pipeline_tag(model.detector),
        "of_transformers": theirs is not None,
        "short": place.rsplit("/", 1)[-1],
        "repository": repository,
        "with_timm": with_timm,
        "with_code": with_code,
        "pretraining": pretraining,
        "pretraining_is_carried": pretraining in CARRIED,
        "whole": whole_class(config) if repository is None else pretraining,  # what is published at the root is slim
        "feature_options": feature_options(config["backbone"], config["num_channels"], config.get("backbone_kwargs")),
        "targets": targets,
        "named_alike": named_alike,
    }
