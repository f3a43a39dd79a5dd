"""Weights for the detectors of torchvision, detectron2 and mmdet, and the settings without which names match and
results are silently wrong.

`detector_configs.yaml` is filled for detectron2 and mmdet, `build_detector.py.jinja` for torchvision, which gets a
module of its own classes: it has no option for RoIAlign aligned by half a cell, nor for anchors on strides that do not
depend on the padding.

Source: detectron2 `config/defaults.py` and `configs/Base-RCNN-FPN.yaml`; mmdet `configs/_base_/models`; torchvision
`models/detection`.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from ..errors import InputError
from ..files import fill_template
from ..models.timm_backbone import layer_arguments
from .checkpoint import Checkpoint
from .convert import Coverage, convert
from .detector_heads import head_table, head_values
from .keymaps import TABLES
from .targets import DETECTORS

ANCHORS = "WholePixelAnchors"
ANCHORS_FILE = "mcl_anchors.py"
"""Class of the file beside the config that gives a fine-tuned detector its anchors (`mcl_anchors.py.jinja`)."""

RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}
_NEW: dict[str, Any] = {
    "rpn_pre_nms_top_n_train": 2000, "rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_train": 1000,
    "rpn_post_nms_top_n_test": 1000, "rpn_conv_depth": 1, "roi_canonical_size": 224, "box_pool_size": 7,
    "box_fc_dim": 1024, "mask_pool_size": 14, "mask_head_convs": 4, "min_size": None, "max_size": None,
    "size_divisible": None, "aspect_ratios": [0.5, 1.0, 2.0], "bbox_reg_weights": [],
    "roi_sampling_ratio": 0,  # as many samples a cell as fit
}  # fmt: skip
"""Settings of detectron2's for a detector that begins with pre-trained weights alone."""
_STOCK = {
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}
_TORCHVISION_CLASSES = {"mask_rcnn": "MaskRCNN", "faster_rcnn": "FasterRCNN", "retinanet": "RetinaNet"}
_SIZES = ("min_size", "max_size", "size_divisible")
_RCNN_OPTIONS = (
    *_SIZES, "rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test",
    "rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_batch_size_per_image", "rpn_positive_fraction",
    "rpn_score_thresh", "box_score_thresh", "box_nms_thresh", "box_detections_per_img", "box_fg_iou_thresh",
    "box_bg_iou_thresh", "box_batch_size_per_image", "box_positive_fraction", "bbox_reg_weights",
)  # fmt: skip
"""Options of torchvision's R-CNNs, whose names are those of `MCLDetectorConfig`."""
_DENSE_OPTIONS = (
    *_SIZES, "topk_candidates", "box_score_thresh", "box_nms_thresh", "box_detections_per_img", "box_fg_iou_thresh",
    "box_bg_iou_thresh",
)  # fmt: skip
"""Those of its RetinaNet, where they are called so without `box_`."""

_LAYERS = {"conv_norm": "batch_norm", "roi_aligned": True, "fixed_anchor_strides": True, "box_head_fcs": 1,
           "p6_of": "c5", "dense_norm": "none"}  # fmt: skip
_WITHOUT_A_KEY = {
    "detectron2": {"roi_canonical_size": 224, "rpn_score_thresh": 0},
    "mmdet": {"rpn_score_thresh": 0},
    "torchvision": {},
}
"""Settings that a framework has no option for -> what they are there."""


def write_detector(checkpoint: Checkpoint, detector: str | None, folder: Path, target: str) -> Coverage:
    """A detector for a framework; a fine-tuned one goes over whole, with its heads and settings, if it is of this kind.

    * torchvision: `resnet.safetensors` for `torchvision.models`, `detector.safetensors` and `build_detector.py` that
      reads it;
    * detectron2: `model.pth` with full names, which it loads without its matching heuristics, and `config.yaml`;
    * mmdet: `model.pth` for `load_from`, and `mcl.py`, the fragment of a config that goes with it.

    Raises:
        InputError: The backbone is none that these detectors have by such names, the box head has not the four
            convolutions that mmdet's has, or images have channels that mmdet does not take.
    """
    _check_fits(checkpoint, target)
    if detector is not None and detector not in DETECTORS:
        raise InputError(f"--detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    detector = detector or checkpoint.detector or "mask_rcnn"
    convs = sum(name.startswith("region_head.conv.") and name.endswith("conv.weight") for name in checkpoint.tensors)
    if not convs and checkpoint.detector in (None, "retinanet"):
        convs = 4  # what the target's box head is built with where nothing brings one
    if target == "mmdet" and detector != "retinanet" and convs != 4:
        raise InputError(f"mmdet's Shared4Conv1FCBBoxHead has 4 convolutions, {checkpoint.source} {convs}")
    channels = checkpoint.config.num_channels
    if target == "mmdet" and channels not in (1, 3):
        raise InputError(
            f"{checkpoint.source} takes {channels} channels, and mmdet 1 or 3: --to detectron2, timm and onnx take them"
        )
    given = _settings(checkpoint, detector)
    table = TABLES[target, detector]
    tensors, more = checkpoint.tensors, 0
    if _has_heads(checkpoint, detector):
        tensors, more = head_values(tensors, target, len(given["aspect_ratios"]))
        table = (*table, *head_table(target, detector, convs, given["rpn_conv_depth"]))
    tensors, coverage = convert(tensors, table, target, detector)
    if more:
        coverage.notes.append("P6 and P7: mmdet has batch norm there, which adds the bias and changes nothing else")
    if target == "torchvision":
        save_file(tensors, folder / "detector.safetensors", {"format": "pt"})
        named = checkpoint.tensors.items()
        resnet = {name.removeprefix("backbone."): t.contiguous() for name, t in named if name.startswith("backbone.")}
        save_file(resnet, folder / "resnet.safetensors")
    else:
        content = {"model": tensors} if target == "detectron2" else {"state_dict": tensors, "meta": {}}
        torch.save(content, folder / "model.pth")
    for file, text in _config_files(checkpoint, target, detector, convs).items():
        (folder / file).write_text(text, encoding="utf-8")
    if target == "detectron2" and channels not in (1, 3):
        coverage.notes.append(f"no INPUT.FORMAT reads {channels} channels: bring a mapper of your own that gives them")
    coverage.notes += [
        f"{name} {given[name]} has no option in {target}, where it is {value}"
        for name, value in _WITHOUT_A_KEY[target].items()
        if given.get(name, value) != value
    ]
    return coverage


def _check_fits(checkpoint: Checkpoint, target: str) -> None:
    """Refuse layers of torchvision's own detectors, and backbones that have other names or layers elsewhere."""
    for name, known in _LAYERS.items():
        own = checkpoint.description.get(name, known)
        if own != known:
            raise InputError(
                f"{checkpoint.source} has {name} {own}, as torchvision's own detectors: this export knows {known}; "
                "--to timm takes the backbone"
            )
    config = checkpoint.config
    layers = layer_arguments(config.backbone_kwargs)
    if config.backbone not in RESNET_DEPTHS or layers:
        changed = f" with {layers}" if layers else ""
        raise InputError(
            f"{target} has no names for the backbone {config.backbone}{changed}: this export knows "
            f"{', '.join(RESNET_DEPTHS)}; --to timm and --to onnx take any backbone"
        )


def _settings(checkpoint: Checkpoint, detector: str) -> dict[str, Any]:
    """What a fine-tuned detector was built with, as far as it holds for a detector of this kind; nothing of
    pre-training."""
    if checkpoint.detector is None:
        return {}
    if _has_heads(checkpoint, detector):
        return checkpoint.description
    return {name: checkpoint.description.get(name) for name in _SIZES}


def _has_heads(checkpoint: Checkpoint, detector: str) -> bool:
    """Whether it is a fine-tuned detector whose heads a detector of this kind has, too."""
    return checkpoint.detector is not None and (checkpoint.detector == "retinanet") == (detector == "retinanet")


def _config_files(checkpoint: Checkpoint, target: str, detector: str, box_convs: int) -> dict[str, str]:
    """What goes beside the weights, by name of the file; `box_convs` are the convolutions of the box head."""
    values = _values(checkpoint, detector, box_convs)
    if target == "torchvision":
        return {"build_detector.py": _torchvision_script(checkpoint, values)}
    files = {"config.yaml": _detectron2_yaml(values)} if target == "detectron2" else {"mcl.py": _mmdet_config(values)}
    if values["own"]:  # their class of anchors, which the config names
        files[ANCHORS_FILE] = fill_template(Path(__file__).with_name(f"{ANCHORS_FILE}.jinja"), to=target)
    return files


def _torchvision_script(checkpoint: Checkpoint, values: dict[str, Any]) -> str:
    """A module with `build_detector(num_classes)` and, of a fine-tuned detector, `CLASSES`."""
    given = _settings(checkpoint, values["detector"])
    names = [*([] if values["dense"] else ["__background__"]), *values["classes"]]
    options: dict[str, Any] = {"image_mean": checkpoint.statistics[0], "image_std": checkpoint.statistics[1]}
    for name in _DENSE_OPTIONS if values["dense"] else _RCNN_OPTIONS:
        if given.get(name) is not None:
            options[name.removeprefix("box_") if values["dense"] else name] = given[name]
    values |= {
        "kind": _TORCHVISION_CLASSES[values["detector"]],
        "title": DETECTORS[values["detector"]],
        "sizes": tuple(tuple(level if values["own"] else map(int, level)) for level in values["anchor_sizes"]),
        "aspects": tuple(values["aspect_ratios"]),
        "strides": tuple(values["strides"]),
        "names": pformat(names, width=110, compact=True) if values["named"] else None,
        "options": pformat(options, width=110, sort_dicts=False, compact=True).replace("\n", "\n    "),
    }
    return fill_template(Path(__file__).with_name("build_detector.py.jinja"), **values)


def _detectron2_yaml(values: dict[str, Any]) -> str:
    """A whole config, in place of one that builds upon detectron2's bases, whose place on the disk is unknown."""
    values |= {
        "architecture": "RetinaNet" if values["dense"] else "GeneralizedRCNN",
        "backbone_builder": f"build_{'retinanet_' if values['dense'] else ''}resnet_fpn_backbone",
        "basic": values["depth"] < 50,
        "stages": ["res3", "res4", "res5"] if values["dense"] else ["res2", "res3", "res4", "res5"],
        "rpn_conv_dims": [-1] * values["rpn_conv_depth"],
        "format": "L" if values["gray"] else "RGB",
        "train_sizes": [values["min_size"]] if values["min_size"] else [640, 672, 704, 736, 768, 800],
    }
    text = yaml.safe_dump(_filled("detectron2", values), sort_keys=False, default_flow_style=None, width=110)
    names = json.dumps(values["classes"])
    return f"# MetadataCatalog.get(DATA_SET).thing_classes = {names}\n{text}" if values["named"] else text


def _mmdet_config(values: dict[str, Any]) -> str:
    """A fragment that is laid over a stock Mask R-CNN or RetinaNet config by `_base_`."""
    values |= {
        "own_dense": values["own"] and values["dense"],
        "own_rcnn": values["own"] and values["rcnn"],
        "finest_scale": values["roi_canonical_size"] // 4,
        "target_stds": [1 / weight for weight in values["bbox_reg_weights"]],
        "classes": tuple(values["classes"]),
        "colour": values["num_channels"] == 3,
        "own_pipeline": values["named"] or values["gray"],
        "scale": (values["max_size"] or 1333, values["min_size"] or 800),  # the stock configs'
        "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    }
    parts = _filled("mmdet", values)
    return (
        "# Laid over a stock config: add the line below with the path of your mmdet, and train with this file.\n"
        f"# _base_ = '.../mmdetection/configs/{_STOCK[values['detector']]}'\n"
        "# Stock configs freeze the first stage and all batch norm statistics; pre-trained weights want neither.\n"
        + "".join(f"{name} = {pformat(part, width=110, sort_dicts=False)}\n" for name, part in parts.items())
    )


def _values(checkpoint: Checkpoint, detector: str, box_convs: int) -> dict[str, Any]:
    """What the configs speak of: settings of a fine-tuned detector or else detectron2's, and what follows from them."""
    config, dense, depth = checkpoint.config, detector == "retinanet", RESNET_DEPTHS[checkpoint.config.backbone]
    names = checkpoint.description.get("id2label") if checkpoint.detector is not None else None
    mean, std = ([round(255 * value, 6) for value in values] for values in checkpoint.statistics)  # of 0 to 255
    octaves = (0, 1 / 3, 2 / 3) if dense else (0,)
    sides = [[round(side * 2**octave, 4) for octave in octaves] for side in (32, 64, 128, 256, 512)]
    return {**_NEW, "anchor_sizes": sides, **_settings(checkpoint, detector)} | {
        "detector": detector,
        "own": _has_heads(checkpoint, detector),
        "dense": dense,
        "rcnn": not dense,
        "masks": detector == "mask_rcnn",
        "named": names is not None,
        "num_classes": len(names or ()),
        "classes": [str(names[key]) for key in sorted(names, key=int)] if names is not None else [],
        "anchors": ANCHORS,
        "strides": [8, 16, 32, 64, 128] if dense else [4, 8, 16, 32, 64],
        "mean": mean,
        "std": std,
        "backbone": config.backbone,
        "depth": depth,
        "num_channels": config.num_channels,
        "gray": config.num_channels == 1,
        "channels": [stage * (1 if depth < 50 else 4) for stage in (64, 128, 256, 512)],
        "width": config.fpn_channels,
        "box_convs": box_convs,
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

    return fill(yaml.safe_load(Path(__file__).with_name("detector_configs.yaml").read_text(encoding="utf-8"))[target])
