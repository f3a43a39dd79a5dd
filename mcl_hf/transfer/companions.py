"""What a detector needs beside weights, as text: without these settings names match and results are silently wrong.

Where it sits: to_detectors -> **companions**. Stride in the 3x3 convolution, RGB, mean and std, nothing frozen, batch
norm in FPN and heads, a box head of four convolutions and one fully connected layer.

Source: detectron2 `config/defaults.py` and `configs/Base-RCNN-FPN.yaml`; mmdet `configs/_base_/models`; torchvision
`models/detection`.
"""

from pprint import pformat
from typing import Any

import yaml

from mcl_hf.transfer.checkpoint import Checkpoint

RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}


def _pixels(values: list[float]) -> list[float]:
    """Statistics of images in [0, 1] -> in [0, 255]."""
    return [round(255 * value, 6) for value in values]


def detectron2_yaml(checkpoint: Checkpoint, detector: str, box_convs: int) -> str:
    """A whole config, in place of one that builds upon detectron2's bases, whose place on the disk is unknown."""
    config = checkpoint.config
    depth, width = RESNET_DEPTHS[config.backbone], config.fpn_channels
    dense = detector == "retinanet"
    levels = ["res3", "res4", "res5"] if dense else ["res2", "res3", "res4", "res5"]
    sides = (32, 64, 128, 256, 512)
    octaves = (0, 1 / 3, 2 / 3) if dense else (0,)
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "RetinaNet" if dense else "GeneralizedRCNN",
        "WEIGHTS": "model.pth",
        "PIXEL_MEAN": _pixels(checkpoint.statistics[0]),
        "PIXEL_STD": _pixels(checkpoint.statistics[1]),
        "BACKBONE": {
            "NAME": "build_retinanet_resnet_fpn_backbone" if dense else "build_resnet_fpn_backbone",
            "FREEZE_AT": 0,
        },
        "RESNETS": {"DEPTH": depth, "NORM": "SyncBN", "STRIDE_IN_1X1": False, "OUT_FEATURES": levels},
        "FPN": {"IN_FEATURES": [*levels], "OUT_CHANNELS": width, "NORM": "SyncBN"},
        "ANCHOR_GENERATOR": {
            "SIZES": [[round(side * 2**octave, 4) for octave in octaves] for side in sides],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
    }
    if depth < 50:
        model["RESNETS"]["RES2_OUT_CHANNELS"] = 64
    if dense:
        model["MASK_ON"] = False
        model["RETINANET"] = {"IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]}
    else:
        model["MASK_ON"] = True
        model["RPN"] = {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000,
            "POST_NMS_TOPK_TEST": 1000,
        }
        model["ROI_HEADS"] = {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]}
        model["ROI_BOX_HEAD"] = {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": box_convs or 4,
            "CONV_DIM": width,
            "NUM_FC": 1,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 7,
        }
        model["ROI_MASK_HEAD"] = {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "CONV_DIM": width,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 14,
        }
    settings = {
        "MODEL": model,
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800]},
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
        "VERSION": 2,
    }
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)


def mmdet_config(checkpoint: Checkpoint, detector: str) -> str:
    """A fragment that is laid over a stock Mask R-CNN or RetinaNet config by `_base_`."""
    config = checkpoint.config
    depth, width = RESNET_DEPTHS[config.backbone], config.fpn_channels
    norm = {"type": "SyncBN", "requires_grad": True}
    channels = [stage * (1 if depth < 50 else 4) for stage in (64, 128, 256, 512)]
    dense = detector == "retinanet"
    model: dict[str, Any] = {
        "data_preprocessor": {
            "mean": _pixels(checkpoint.statistics[0]),
            "std": _pixels(checkpoint.statistics[1]),
            "bgr_to_rgb": True,
        },
        "backbone": {
            "depth": depth,
            "style": "pytorch",
            "in_channels": config.num_channels,
            "frozen_stages": -1,
            "norm_eval": False,
            "norm_cfg": norm,
            "init_cfg": None,
        },
        "neck": {"in_channels": channels, "out_channels": width, "norm_cfg": norm},
    }
    if dense:
        model["bbox_head"] = {"in_channels": width}
    else:
        model["rpn_head"] = {"in_channels": width}
        model["roi_head"] = {
            "bbox_roi_extractor": {"out_channels": width},
            "bbox_head": {
                "type": "Shared4Conv1FCBBoxHead",
                "in_channels": width,
                "conv_out_channels": width,
                "norm_cfg": norm,
            },
            "mask_roi_extractor": {"out_channels": width},
            "mask_head": {"in_channels": width, "norm_cfg": norm},
        }
    stock = "retinanet/retinanet_r50_fpn_1x_coco.py" if dense else "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    return (
        "# Laid over a stock config: add the line below with the path of your mmdet, and train with this file.\n"
        f"# _base_ = '.../mmdetection/configs/{stock}'\n"
        f"# Stock configs freeze the first stage and all batch norm statistics; pre-trained weights want neither.\n"
        "load_from = 'model.pth'\n"
        f"model = {pformat(model, width=110, sort_dicts=False)}\n"
    )


def torchvision_script(checkpoint: Checkpoint, detector: str, box_convs: int) -> str:
    """A module with `build_detector(num_classes)`, built of torchvision's own classes, that loads the weights beside
    it."""
    config, dense = checkpoint.config, detector == "retinanet"
    # What a fine-tuned detector was built with holds for its own kind; its classes hold for any.
    of_this_kind = checkpoint.detector is not None and (checkpoint.detector == "retinanet") == dense
    given = checkpoint.description if of_this_kind else {}
    names = checkpoint.description.get("id2label") if checkpoint.detector is not None else None
    channels = [stage * (1 if RESNET_DEPTHS[config.backbone] < 50 else 4) for stage in (64, 128, 256, 512)]
    octaves = (0, 1 / 3, 2 / 3) if dense else (0,)
    anchors = [[int(side * 2**octave) for octave in octaves] for side in (32, 64, 128, 256, 512)]
    conv1 = f"\n    body.conv1 = nn.Conv2d({config.num_channels}, 64, 7, stride=2, padding=3, bias=False)"
    return (_RETINANET if dense else _MASK_RCNN).format(
        resnet=config.backbone,
        conv1="" if config.num_channels == 3 else conv1,
        channels=channels[1:] if dense else channels,
        last=channels[-1],
        width=config.fpn_channels,
        convs=box_convs or 4,
        fc=given.get("box_fc_dim", 1024),
        mask_convs=given.get("mask_head_convs", 4),
        pool=given.get("box_pool_size", 7),
        mask_pool=given.get("mask_pool_size", 14),
        sampling=given.get("roi_sampling_ratio", 0),  # as many samples a cell as fit, as in detectron2
        rpn_convs=given.get("rpn_conv_depth", 1),
        anchors=tuple(tuple(sizes) for sizes in given.get("anchor_sizes", anchors)),
        aspects=tuple(given.get("aspect_ratios", (0.5, 1.0, 2.0))),
        classes=91 if names is None else len(names) + (not dense),
        mean=checkpoint.statistics[0],
        std=checkpoint.statistics[1],
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

_MASK_RCNN = (
    '''"""Mask R-CNN of torchvision with batch norm in FPN and heads, from the weights beside this file."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from torchvision.models import {resnet}
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

def build_backbone():
    """ResNet and FPN with batch norm; torchvision's resnet_fpn_backbone would leave it out of the FPN."""
    body = {resnet}(weights=None){conv1}
    levels = {{f"layer{{stage + 1}}": str(stage) for stage in range(4)}}
    return BackboneWithFPN(body, levels, {channels}, {width}, LastLevelMaxPool(), nn.BatchNorm2d)


def build_detector(num_classes={classes}, **options):
    """num_classes counts the background; options are MaskRCNN's."""
    anchors = AnchorGenerator({anchors}, ({aspects},) * 5)
    heads = dict(
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead({width}, anchors.num_anchors_per_location()[0], conv_depth={rpn_convs}),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], {pool}, {sampling}),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], {mask_pool}, {sampling}),
        box_head=FastRCNNConvFCHead(({width}, {pool}, {pool}), [{width}] * {convs}, [{fc}], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor({fc}, num_classes),
        mask_head=MaskRCNNHeads({width}, [{width}] * {mask_convs}, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor({width}, {width}, num_classes),
        image_mean={mean},
        image_std={std},
    )
    model = MaskRCNN(build_backbone(), **(heads | options))'''
    + _LOAD
)

_RETINANET = (
    '''"""RetinaNet of torchvision with batch norm in the FPN, from the weights beside this file."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from torchvision.models import {resnet}
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


def build_backbone():
    """ResNet and FPN with batch norm; torchvision's resnet_fpn_backbone would leave it out of the FPN."""
    body = {resnet}(weights=None){conv1}
    levels = {{f"layer{{stage + 1}}": str(stage) for stage in range(1, 4)}}
    backbone = BackboneWithFPN(body, levels, {channels}, {width}, LastLevelP6P7({last}, {width}), nn.BatchNorm2d)
    backbone.fpn.extra_blocks.use_P5 = False  # P6 is made of C5, as in detectron2
    return backbone


def build_detector(num_classes={classes}, **options):
    """options are RetinaNet's."""
    statistics = dict(image_mean={mean}, image_std={std})
    anchors = AnchorGenerator({anchors}, ({aspects},) * 5)
    model = RetinaNet(build_backbone(), num_classes, anchor_generator=anchors, **(statistics | options))'''
    + _LOAD
)
