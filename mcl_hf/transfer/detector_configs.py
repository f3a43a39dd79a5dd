"""What a detector needs beside weights, as text: without these settings names match and results are silently wrong.

Where it sits: to_detectors -> **detector_configs**, which fills `detector_configs.yaml`. Stride in the 3x3 convolution,
RGB, mean and std, nothing frozen, batch norm in FPN and heads, a box head of four convolutions and one fully connected
layer.

Source: detectron2 `config/defaults.py` and `configs/Base-RCNN-FPN.yaml`; mmdet `configs/_base_/models`; torchvision
`models/detection`.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

import yaml

from .checkpoint import Checkpoint

ANCHORS = "WholePixelAnchors"
ANCHORS_FILE = "mcl_anchors.py"
"""Class of the file beside the config that gives a fine-tuned detector its anchors (`mcl_anchors.py.jinja`)."""

RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}
_NEW: dict[str, Any] = {
    "rpn_pre_nms_top_n_train": 2000, "rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_train": 1000,
    "rpn_post_nms_top_n_test": 1000, "box_pool_size": 7, "mask_pool_size": 14, "mask_head_convs": 4,
    "min_size": None, "aspect_ratios": [0.5, 1.0, 2.0],
}  # fmt: skip
"""Settings of detectron2's for a detector that begins with pre-trained weights alone."""
_STOCK = {
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}


def settings(checkpoint: Checkpoint, detector: str) -> dict[str, Any]:
    """What a fine-tuned detector was built with, as far as it holds for a detector of this kind; nothing of
    pre-training."""
    if checkpoint.detector is None:
        return {}
    if (checkpoint.detector == "retinanet") == (detector == "retinanet"):
        return checkpoint.description
    return {name: checkpoint.description.get(name) for name in ("min_size", "max_size", "size_divisible")}


def class_names(checkpoint: Checkpoint) -> list[str] | None:
    """Names of a fine-tuned detector's classes, without background."""
    names = checkpoint.description.get("id2label") if checkpoint.detector is not None else None
    return None if names is None else [str(names[key]) for key in sorted(names, key=int)]


def channels(checkpoint: Checkpoint) -> list[int]:
    """Of C2 to C5 of a ResNet."""
    return [stage * (1 if RESNET_DEPTHS[checkpoint.config.backbone] < 50 else 4) for stage in (64, 128, 256, 512)]


def stock_anchors(detector: str) -> list[list[float]]:
    """Sides of the anchors of each level, px, that all three frameworks have, not rounded."""
    octaves = (0, 1 / 3, 2 / 3) if detector == "retinanet" else (0,)
    return [[side * 2**octave for octave in octaves] for side in (32, 64, 128, 256, 512)]


def detectron2_yaml(checkpoint: Checkpoint, detector: str, box_convs: int) -> str:
    """A whole config, in place of one that builds upon detectron2's bases, whose place on the disk is unknown."""
    given, names, dense = settings(checkpoint, detector), class_names(checkpoint), detector == "retinanet"
    sizes = [[round(side, 4) for side in level] for level in stock_anchors(detector)]
    values: dict[str, Any] = _NEW | {"anchor_sizes": sizes} | given | _shared_values(checkpoint, detector)
    values |= {
        "architecture": "RetinaNet" if dense else "GeneralizedRCNN",
        "backbone_builder": f"build_{'retinanet_' if dense else ''}resnet_fpn_backbone",
        "basic": RESNET_DEPTHS[checkpoint.config.backbone] < 50,
        "stages": ["res3", "res4", "res5"] if dense else ["res2", "res3", "res4", "res5"],
        "rpn_conv_dims": [-1] * given.get("rpn_conv_depth", 1),
        "box_convs": box_convs,
        "train_sizes": [given["min_size"]] if given.get("min_size") else [640, 672, 704, 736, 768, 800],
    }
    text = yaml.safe_dump(_filled("detectron2", values), sort_keys=False, default_flow_style=None, width=110)
    return text if names is None else f"# MetadataCatalog.get(DATA_SET).thing_classes = {json.dumps(names)}\n{text}"


def mmdet_config(checkpoint: Checkpoint, detector: str) -> str:
    """A fragment that is laid over a stock Mask R-CNN or RetinaNet config by `_base_`."""
    given, dense = settings(checkpoint, detector), detector == "retinanet"
    values: dict[str, Any] = {"size_divisible": None, **given} | _shared_values(checkpoint, detector)
    values |= {
        "own_dense": values["own"] and dense,
        "own_rcnn": values["own"] and not dense,
        "channels": channels(checkpoint),
        "num_channels": checkpoint.config.num_channels,
        "strides": [8, 16, 32, 64, 128] if dense else [4, 8, 16, 32, 64],
        "finest_scale": given.get("roi_canonical_size", 224) // 4,
        "target_stds": [1 / weight for weight in given.get("bbox_reg_weights", ())],
        "classes": tuple(class_names(checkpoint) or ()),
        "scale": (given.get("max_size"), given.get("min_size")),
        "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    }
    parts = _filled("mmdet", values)
    return (
        "# Laid over a stock config: add the line below with the path of your mmdet, and train with this file.\n"
        f"# _base_ = '.../mmdetection/configs/{_STOCK[detector]}'\n"
        "# Stock configs freeze the first stage and all batch norm statistics; pre-trained weights want neither.\n"
        + "".join(f"{name} = {pformat(part, width=110, sort_dicts=False)}\n" for name, part in parts.items())
    )


def _shared_values(checkpoint: Checkpoint, detector: str) -> dict[str, Any]:
    """What both configs speak of."""
    config, names = checkpoint.config, class_names(checkpoint)
    mean, std = ([round(255 * value, 6) for value in values] for values in checkpoint.statistics)  # of 0 to 255
    return {
        "own": "anchor_sizes" in settings(checkpoint, detector),
        "dense": detector == "retinanet",
        "rcnn": detector != "retinanet",
        "masks": detector == "mask_rcnn",
        "named": names is not None,
        "num_classes": len(names or ()),
        "anchors": ANCHORS,
        "mean": mean,
        "std": std,
        "depth": RESNET_DEPTHS[config.backbone],
        "width": config.fpn_channels,
    }


def _filled(target: str, values: Mapping[str, Any]) -> Any:
    """The config of a target in `detector_configs.yaml` with its places filled."""

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            entries = [(*key.partition("@")[::2], value) for key, value in node.items()]
            return {key: fill(value) for key, flag, value in entries if not flag or values[flag]}
        if isinstance(node, list):
            return [fill(value) for value in node]
        is_place = isinstance(node, str) and node.startswith("$")
        return copy.deepcopy(values[node[1:]]) if is_place else node

    return fill(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))[target])
