"""torchvision's own detectors as whole starts: layers as fields of `MCLDetectorConfig`, weights under our names.

The first generation was trained with a frozen batch norm of eps 0; ours adds 1e-5 to the variance, so the scale is
multiplied by `sqrt((variance + 1e-5) / variance)`. Names of older releases are mended by torchvision's own loader.

Source: torchvision `models/detection/{faster_rcnn,mask_rcnn,retinanet}.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model, get_model_weights

from ..models.weight_files import read_pickled, read_safetensors
from ..retry import call_with_retries, is_transient, reason_of, without_secrets
from .detector_heads import head_table
from .keymaps import TABLES, Rule, to_ours

TORCHVISION = "torchvision:"
_RCNN = {"roi_sampling_ratio": 2, "roi_aligned": False, "rpn_post_nms_top_n_train": 2000}
_RCNN_V1 = {**_RCNN, "conv_norm": "none", "box_head_convs": 0, "box_head_fcs": 2}
_RCNN_V2 = {**_RCNN, "rpn_conv_depth": 2}
_DENSE = {"conv_norm": "none", "box_detections_per_img": 300}
LAYOUTS: Mapping[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": {"detector": "faster_rcnn", **_RCNN_V1},
    "fasterrcnn_resnet50_fpn_v2": {"detector": "faster_rcnn", **_RCNN_V2},
    "maskrcnn_resnet50_fpn": {"detector": "mask_rcnn", **_RCNN_V1},
    "maskrcnn_resnet50_fpn_v2": {"detector": "mask_rcnn", **_RCNN_V2},
    "retinanet_resnet50_fpn": {"detector": "retinanet", **_DENSE, "p6_of": "p5"},
    "retinanet_resnet50_fpn_v2": {
        "detector": "retinanet", **_DENSE, "dense_norm": "group_norm", "dense_box_loss": "giou",
    },
}  # fmt: skip
"""Name of torchvision's -> fields of `MCLDetectorConfig` that are not its defaults. Those on MobileNet have maps at two
strides only."""
COCO_WEIGHTS = {
    "mask_rcnn": "maskrcnn_resnet50_fpn_v2",
    "faster_rcnn": "fasterrcnn_resnet50_fpn_v2",
    "retinanet": "retinanet_resnet50_fpn_v2",
}
"""Kind of detector -> the torchvision detector of this kind with the best weights for COCO."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SCORES, _LOGITS = "roi_heads.box_predictor.cls_score.weight", "head.classification_head.cls_logits.weight"
_ANCHORS = 9  # a cell of RetinaNet
_EPS = 1e-5


def torchvision_description(source: str | Path) -> dict[str, Any] | None:
    """What `torchvision:NAME`, which is not fetched, or a file of weights is, as the config.json of a detector of ours
    would say it; None where it is something else. ValueError: none with layers that are here has this name."""
    name = _name_of(source)
    if name is not None:
        return _description(name, len(get_model_weights(name).DEFAULT.meta["categories"]))
    shapes = _shapes(Path(source))
    name = _recognised(shapes)
    return None if name is None else _description(name, _classes(shapes))


def torchvision_tensors(source: str | Path) -> dict[str, torch.Tensor]:
    """Weights of a start that `torchvision_description` knows, named as in a detector of ours. ValueError: they cannot
    be fetched, or some do not fit the layout."""
    name = _name_of(source)
    if name is not None:
        tensors = _fetched(name)
    else:
        tensors = _content(Path(source))
        name = _recognised({key: tensor.shape for key, tensor in tensors.items()})
        assert name is not None, "described before"
    given = {key: tensor.shape for key, tensor in tensors.items()}
    frozen = "backbone.body.bn1.num_batches_tracked" not in given
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None, num_classes=_classes(given))
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        wrong = " ".join(str(error).splitlines()[1].split())
        raise ValueError(f"{source} looks like torchvision's {name}, but its tensors are others: {wrong}") from error
    tensors = model.state_dict()
    if frozen:
        _move_eps(tensors)
    detector = LAYOUTS[name]["detector"]
    table = (
        *TABLES["torchvision", "mask_rcnn"],  # counts levels from the first that there is, as our detectors do
        *head_table("torchvision", detector, num_convs=4, rpn_convs=2),
        Rule("roi_heads.box_head.fc1.{leaf}", "roi_heads.box_head.fc6.{leaf}"),
        Rule("roi_heads.box_head.fc2.{leaf}", "roi_heads.box_head.fc7.{leaf}"),
    )
    renamed = {to_ours(theirs, table) or theirs: tensor for theirs, tensor in tensors.items()}
    return {ours.replace("region_head.", "roi_heads.box_head.", 1): tensor for ours, tensor in renamed.items()}


def _name_of(source: str | Path) -> str | None:
    if not str(source).startswith(TORCHVISION):
        return None
    name = str(source).removeprefix(TORCHVISION)
    if name not in LAYOUTS:
        raise ValueError(f"torchvision:{name} cannot be started from: known are {', '.join(LAYOUTS)}")
    return name


def _fetched(name: str) -> dict[str, torch.Tensor]:
    weights = get_model_weights(name).DEFAULT
    try:
        return call_with_retries(
            weights.get_state_dict, progress=False, check_hash=True, weights_only=True, what=f"fetching {weights.url}"
        )
    except Exception as error:  # no connection, no space, another hash: torch.hub raises many types
        reason = reason_of(error) if is_transient(error) else without_secrets(f"{error}\n".splitlines()[0])
        raise ValueError(
            f"torchvision cannot give the weights of {name}: {reason}; the file of {weights.url} is a start, too"
        ) from error


def _content(path: Path) -> dict[str, torch.Tensor]:
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    for holder in ("model", "state_dict"):  # torchvision's training script has the model beside the optimizer
        content = content.get(holder, content) if isinstance(content, Mapping) else {}
    return {
        str(key).removeprefix("module."): tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)
    }


def _shapes(path: Path) -> dict[str, Any]:
    """Names and shapes of a file's tensors; none where it is no file of weights."""
    if not path.is_file() or path.suffix not in _SUFFIXES:
        return {}
    return {key: tensor.shape for key, tensor in _content(path).items()}


def _recognised(shapes: Mapping[str, Any]) -> str | None:
    """Name of the detector that has such tensors."""
    if "backbone.body.conv1.weight" not in shapes:
        return None
    second = "_v2" if any(name in shapes for name in _OF_SECOND) else ""
    if _LOGITS in shapes:
        return f"retinanet_resnet50_fpn{second}"
    if _SCORES not in shapes or any(name.startswith("roi_heads.keypoint") for name in shapes):
        return None
    has_masks = any(name.startswith("roi_heads.mask_predictor.") for name in shapes)
    return f"{'maskrcnn' if has_masks else 'fasterrcnn'}_resnet50_fpn{second}"


_OF_SECOND = ("backbone.fpn.inner_blocks.0.1.weight", "head.classification_head.conv.0.1.weight")


def _classes(shapes: Mapping[str, Any]) -> int:
    """Classes as torchvision counts them."""
    return int(shapes[_LOGITS][0]) // _ANCHORS if _LOGITS in shapes else int(shapes[_SCORES][0])


def _description(name: str, classes: int) -> dict[str, Any]:
    layout, names = LAYOUTS[name], get_model_weights(name).DEFAULT.meta["categories"]
    first = 0 if layout["detector"] == "retinanet" else 1  # in the R-CNNs' classes the background is the first
    own: dict[str, Any] = {"num_labels": classes - first}
    if classes == len(names):
        own = {"id2label": dict(enumerate(names[first:]))}
    return {"model_type": "mcl_detector", "backbone": "resnet50", "fixed_anchor_strides": False, **layout, **own}


def _move_eps(tensors: dict[str, torch.Tensor]) -> None:
    """Scales of the backbone's batch norms, trained with eps 0, for an eps of 1e-5."""
    for name in [key for key in tensors if key.startswith("backbone.body.") and key.endswith(".running_var")]:
        scale, variance = name.replace("running_var", "weight"), tensors[name].double()
        factor = torch.where(variance > 0, (variance + _EPS) / variance, 1.0).sqrt()
        tensors[scale] = (tensors[scale].double() * factor).to(tensors[scale].dtype)
