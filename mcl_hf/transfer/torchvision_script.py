"""A module of torchvision's own classes that builds the exported detector and loads the weights beside it.

Where it sits: to_detectors -> **torchvision_script**, which fills `build_detector.py.jinja`. Two classes of it are
small variations, because torchvision has no option for what the weights were trained with: RoIAlign aligned by half a
cell, and anchors on strides that do not depend on the padding.

Source: torchvision `models/detection`.
"""

from pathlib import Path
from pprint import pformat
from typing import Any

from ..files import fill_template
from .checkpoint import Checkpoint
from .convert import DETECTOR_TITLES
from .detector_configs import channels, class_names, settings, stock_anchors

_CLASSES = {"mask_rcnn": "MaskRCNN", "faster_rcnn": "FasterRCNN", "retinanet": "RetinaNet"}
_SIZES = ("min_size", "max_size", "size_divisible")
_RCNN_OPTIONS = (
    *_SIZES, "rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test",
    "rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_batch_size_per_image", "rpn_positive_fraction",
    "rpn_score_thresh", "box_score_thresh", "box_nms_thresh", "box_detections_per_img", "box_fg_iou_thresh",
    "box_bg_iou_thresh", "box_batch_size_per_image", "box_positive_fraction", "bbox_reg_weights",
)  # fmt: skip
"""Options of torchvision's R-CNNs, whose names are those of `MCLDetectorConfig`."""
_DENSE_OPTIONS = {name: name for name in (*_SIZES, "topk_candidates")} | {
    f"box_{name}": name for name in ("score_thresh", "nms_thresh", "detections_per_img", "fg_iou_thresh",
                                     "bg_iou_thresh")
}  # fmt: skip


def torchvision_script(checkpoint: Checkpoint, detector: str, box_convs: int) -> str:
    """The module, with `build_detector(num_classes)` and, of a fine-tuned detector, `CLASSES`.

    Args:
        checkpoint: that is exported.
        detector: `mask_rcnn`, `faster_rcnn` or `retinanet`.
        box_convs: convolutions of the box head.
    """
    config, dense = checkpoint.config, detector == "retinanet"
    given, names = settings(checkpoint, detector), class_names(checkpoint)
    if names is not None and not dense:
        names = ["__background__", *names]
    widths = channels(checkpoint)
    anchors = [[int(side) for side in level] for level in stock_anchors(detector)]
    renamed = _DENSE_OPTIONS if dense else {name: name for name in _RCNN_OPTIONS}
    options: dict[str, Any] = {"image_mean": checkpoint.statistics[0], "image_std": checkpoint.statistics[1]}
    options |= {theirs: given[ours] for ours, theirs in renamed.items() if given.get(ours) is not None}
    return fill_template(
        Path(__file__).with_name("build_detector.py.jinja"),
        kind=_CLASSES[detector],
        dense=dense,
        title=DETECTOR_TITLES[detector],
        resnet=config.backbone,
        num_channels=config.num_channels,
        stages="1, 4" if dense else "4",
        channels=widths[1:] if dense else widths,
        last=widths[-1],
        width=config.fpn_channels,
        convs=box_convs,
        fc=given.get("box_fc_dim", 1024),
        mask_convs=given.get("mask_head_convs", 4),
        pool=given.get("box_pool_size", 7),
        mask_pool=given.get("mask_pool_size", 14),
        sampling=given.get("roi_sampling_ratio", 0),  # as many samples a cell as fit, as in detectron2
        canonical=given.get("roi_canonical_size", 224),
        rpn_convs=given.get("rpn_conv_depth", 1),
        anchors=tuple(tuple(sizes) for sizes in given.get("anchor_sizes") or anchors),
        aspects=tuple(given.get("aspect_ratios") or (0.5, 1.0, 2.0)),
        strides=(8, 16, 32, 64, 128) if dense else (4, 8, 16, 32, 64),
        classes="91" if names is None else "len(CLASSES)",
        names=None if names is None else pformat(names, width=110, compact=True),
        options=pformat(options, width=110, sort_dicts=False, compact=True).replace("\n", "\n    "),
    )
