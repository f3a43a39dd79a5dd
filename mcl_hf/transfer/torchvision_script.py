"""A module of torchvision's own classes that builds the exported detector and loads the weights beside it.

Where it sits: to_detectors -> **torchvision_script**. Two classes are small variations, because torchvision has no
option for what the weights were trained with: RoIAlign aligned by half a cell, and anchors on strides that do not
depend on the padding.

Source: torchvision `models/detection`.
"""

from pprint import pformat
from typing import Any

from .checkpoint import Checkpoint
from .convert import DETECTOR_TITLES
from .detector_configs import RESNET_DEPTHS, class_names, settings

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
    channels = [stage * (1 if RESNET_DEPTHS[config.backbone] < 50 else 4) for stage in (64, 128, 256, 512)]
    octaves = (0, 1 / 3, 2 / 3) if dense else (0,)
    anchors = [[int(side * 2**octave) for octave in octaves] for side in (32, 64, 128, 256, 512)]
    renamed = _DENSE_OPTIONS if dense else {name: name for name in _RCNN_OPTIONS}
    options: dict[str, Any] = {"image_mean": checkpoint.statistics[0], "image_std": checkpoint.statistics[1]}
    options |= {theirs: given[ours] for ours, theirs in renamed.items() if given.get(ours) is not None}
    fields = {
        "kind": _CLASSES[detector],
        "torch_import": "" if dense else "import torch\n",
        "title": DETECTOR_TITLES[detector],
        "resnet": config.backbone,
        "conv1": ""
        if config.num_channels == 3
        else f"\n    body.conv1 = nn.Conv2d({config.num_channels}, 64, 7, stride=2, padding=3, bias=False)",
        "stages": "1, 4" if dense else "4",
        "channels": channels[1:] if dense else channels,
        "last": channels[-1],
        "width": config.fpn_channels,
        "convs": box_convs,
        "fc": given.get("box_fc_dim", 1024),
        "mask_convs": given.get("mask_head_convs", 4),
        "pool": given.get("box_pool_size", 7),
        "mask_pool": given.get("mask_pool_size", 14),
        "sampling": given.get("roi_sampling_ratio", 0),  # as many samples a cell as fit, as in detectron2
        "canonical": given.get("roi_canonical_size", 224),
        "rpn_convs": given.get("rpn_conv_depth", 1),
        "anchors": tuple(tuple(sizes) for sizes in given.get("anchor_sizes") or anchors),
        "aspects": tuple(given.get("aspect_ratios") or (0.5, 1.0, 2.0)),
        "strides": (8, 16, 32, 64, 128) if dense else (4, 8, 16, 32, 64),
        "classes": "91" if names is None else "len(CLASSES)",
        "names": ""
        if names is None
        else f"CLASSES = {pformat(names, width=110, compact=True)}\n"
        '"""Names by the number that stands in `labels` of a detection."""\n',
        "options": pformat(options, width=110, sort_dicts=False, compact=True).replace("\n", "\n    "),
    }
    if detector == "mask_rcnn":
        fields["mask_imports"] = "from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor\n"
        fields["mask_heads"] = _MASK_HEADS.format(**fields)
    else:
        fields["mask_imports"] = fields["mask_heads"] = ""
    return (_HEAD + (_RETINANET if dense else _RCNN) + _LOAD).format(**fields)


_HEAD = '''"""{title} of torchvision with batch norm, from the weights beside this file."""

from pathlib import Path

{torch_import}from safetensors.torch import load_file
from torch import nn
from torchvision.models import {resnet}
from torchvision.models.detection import {kind}
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
'''

_ANCHORS = '''
{names}

class FixedStrideAnchors(AnchorGenerator):
    """torchvision's strides follow from the padded image, and so would the anchors' places."""

    def grid_anchors(self, grid_sizes, strides):
        return super().grid_anchors(grid_sizes, [[stride, stride] for stride in {strides}])


def build_backbone():
    """ResNet and FPN with batch norm; torchvision's resnet_fpn_backbone would leave it out of the FPN."""
    body = {resnet}(weights=None){conv1}
    levels = {{f"layer{{stage + 1}}": str(stage) for stage in range({stages})}}
'''

_RCNN = (
    """from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
{mask_imports}from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper
"""
    + _ANCHORS
    + '''    return BackboneWithFPN(body, levels, {channels}, {width}, LastLevelMaxPool(), nn.BatchNorm2d)


class AlignedRoIAlign(MultiScaleRoIAlign):
    """Aligned by half a cell, which torchvision's has no option for."""

    def forward(self, x, boxes, image_shapes):
        maps = [x[name] for name in self.featmap_names]
        rois = torch.cat(
            [torch.cat([each.new_full((len(each), 1), image), each], dim=1) for image, each in enumerate(boxes)]
        )
        levels = LevelMapper(2, 5, self.canonical_scale, self.canonical_level)(boxes)
        regions = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, features in enumerate(maps):
            chosen = levels == level
            scale = 1 / (4 * 2**level)
            regions[chosen] = roi_align(
                features, rois[chosen].to(features), self.output_size, scale, self.sampling_ratio, aligned=True
            )
        return regions


def build_detector(num_classes={classes}, **options):
    """num_classes counts the background; options are {kind}'s."""
    anchors = FixedStrideAnchors({anchors}, ({aspects},) * 5)
    levels = ["0", "1", "2", "3"]
    heads = dict(
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead({width}, anchors.num_anchors_per_location()[0], conv_depth={rpn_convs}),
        box_roi_pool=AlignedRoIAlign(levels, {pool}, {sampling}, canonical_scale={canonical}),
        box_head=FastRCNNConvFCHead(({width}, {pool}, {pool}), [{width}] * {convs}, [{fc}], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor({fc}, num_classes),{mask_heads}
    )
    settings = {options}
    model = {kind}(build_backbone(), **(heads | settings | options))'''
)

_MASK_HEADS = """
        mask_roi_pool=AlignedRoIAlign(levels, {mask_pool}, {sampling}, canonical_scale={canonical}),
        mask_head=MaskRCNNHeads({width}, [{width}] * {mask_convs}, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor({width}, {width}, num_classes),"""

_RETINANET = (
    "from torchvision.ops.feature_pyramid_network import LastLevelP6P7\n"
    + _ANCHORS
    + '''    top = LastLevelP6P7({last}, {width})
    backbone = BackboneWithFPN(body, levels, {channels}, {width}, top, nn.BatchNorm2d)
    backbone.fpn.extra_blocks.use_P5 = False  # P6 is made of C5, as in detectron2
    return backbone


def build_detector(num_classes={classes}, **options):
    """options are RetinaNet's."""
    anchors = FixedStrideAnchors({anchors}, ({aspects},) * 5)
    settings = {options}
    model = RetinaNet(build_backbone(), num_classes, anchor_generator=anchors, **(settings | options))'''
)

_LOAD = """
    tensors = load_file(Path(__file__).with_name("detector.safetensors"))
    own = model.state_dict()
    of_classes = ("box_predictor", "mask_fcn_logits", "cls_logits")  # new where the number of classes differs
    fit = {{
        name: tensor
        for name, tensor in tensors.items()
        if own[name].shape == tensor.shape or not any(part in name for part in of_classes)
    }}
    missing, _ = model.load_state_dict(fit, strict=False)  # a name that the model lacks has raised above
    torn = [name for name in missing if name.startswith("backbone.") and ".extra_blocks." not in name]
    if torn:
        raise RuntimeError(f"backbone and FPN must be whole, {{len(torn)}} tensors are missing: {{torn[:3]}}")
    print(f"{{len(fit)}} of {{len(own)}} tensors loaded, new: {{sorted({{n.rpartition('.')[0] for n in missing}})}}")
    return model
"""
