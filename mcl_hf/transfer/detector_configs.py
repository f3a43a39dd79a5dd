"""What a detector needs beside weights, as text: without these settings names match and results are silently wrong.

Where it sits: to_detectors -> **detector_configs**. Stride in the 3x3 convolution, RGB, mean and std, nothing frozen,
batch norm in FPN and heads, a box head of four convolutions and one fully connected layer.

Source: detectron2 `config/defaults.py` and `configs/Base-RCNN-FPN.yaml`; mmdet `configs/_base_/models`; torchvision
`models/detection`.
"""

import json
from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import Any

import yaml

from .checkpoint import Checkpoint

ANCHORS = "WholePixelAnchors"
ANCHORS_FILE = "mcl_anchors.py"
"""Class of the file beside the config that gives a fine-tuned detector its anchors (`mcl_anchors.py.jinja`)."""

RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}


def _pixels(values: list[float]) -> list[float]:
    """Statistics of images in [0, 1] -> in [0, 255]."""
    return [round(255 * value, 6) for value in values]


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
        model["MASK_ON"] = detector == "mask_rcnn"
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
            "NUM_CONV": box_convs,
            "CONV_DIM": width,
            "NUM_FC": 1,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 7,
        }
    if detector == "mask_rcnn":
        model["ROI_MASK_HEAD"] = {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "CONV_DIM": width,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 14,
        }
    whole: dict[str, Any] = {
        "MODEL": model,
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800]},
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
        "VERSION": 2,
    }
    names = class_names(checkpoint)
    for path, value in _detectron2_settings(settings(checkpoint, detector), detector, names).items():
        *parents, last = path.split(".")
        place = whole
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    text = yaml.safe_dump(whole, sort_keys=False, default_flow_style=None, width=110)
    return text if names is None else f"# MetadataCatalog.get(DATA_SET).thing_classes = {json.dumps(names)}\n{text}"


def _detectron2_settings(given: Mapping[str, Any], detector: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Keys of detectron2's config -> what a fine-tuned detector's configuration says of them."""
    dense = detector == "retinanet"
    head = "MODEL.RETINANET" if dense else "MODEL.ROI_HEADS"
    found: dict[str, Any] = {} if names is None else {f"{head}.NUM_CLASSES": len(names)}
    if given.get("min_size"):
        found |= {
            "INPUT.MIN_SIZE_TRAIN": [given["min_size"]],
            "INPUT.MAX_SIZE_TRAIN": given["max_size"],
            "INPUT.MIN_SIZE_TEST": given["min_size"],
            "INPUT.MAX_SIZE_TEST": given["max_size"],
        }
    if "anchor_sizes" not in given:
        return found
    thresholds = [given["box_bg_iou_thresh"], given["box_fg_iou_thresh"]]
    found |= {
        "MODEL.ANCHOR_GENERATOR.NAME": ANCHORS,
        "MODEL.ANCHOR_GENERATOR.SIZES": given["anchor_sizes"],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [given["aspect_ratios"]],
        "TEST.DETECTIONS_PER_IMAGE": given["box_detections_per_img"],
        f"{head}.SCORE_THRESH_TEST": given["box_score_thresh"],
        f"{head}.NMS_THRESH_TEST": given["box_nms_thresh"],
        f"{head}.IOU_THRESHOLDS": thresholds if dense else thresholds[1:],
    }
    if dense:
        return found | {"MODEL.RETINANET.TOPK_CANDIDATES_TEST": given["topk_candidates"]}
    rpn, box, mask = "MODEL.RPN", "MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD"
    found |= {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": given["box_batch_size_per_image"],
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": given["box_positive_fraction"],
        f"{rpn}.PRE_NMS_TOPK_TRAIN": given["rpn_pre_nms_top_n_train"],
        f"{rpn}.PRE_NMS_TOPK_TEST": given["rpn_pre_nms_top_n_test"],
        f"{rpn}.POST_NMS_TOPK_TRAIN": given["rpn_post_nms_top_n_train"],
        f"{rpn}.POST_NMS_TOPK_TEST": given["rpn_post_nms_top_n_test"],
        f"{rpn}.NMS_THRESH": given["rpn_nms_thresh"],
        f"{rpn}.IOU_THRESHOLDS": [given["rpn_bg_iou_thresh"], given["rpn_fg_iou_thresh"]],
        f"{rpn}.BATCH_SIZE_PER_IMAGE": given["rpn_batch_size_per_image"],
        f"{rpn}.POSITIVE_FRACTION": given["rpn_positive_fraction"],
        f"{rpn}.CONV_DIMS": [-1] * given["rpn_conv_depth"],
        f"{box}.FC_DIM": given["box_fc_dim"],
        f"{box}.POOLER_RESOLUTION": given["box_pool_size"],
        f"{box}.POOLER_SAMPLING_RATIO": given["roi_sampling_ratio"],
        f"{box}.BBOX_REG_WEIGHTS": given["bbox_reg_weights"],
    }
    if detector == "mask_rcnn":
        found |= {
            f"{mask}.NUM_CONV": given["mask_head_convs"],
            f"{mask}.POOLER_RESOLUTION": given["mask_pool_size"],
            f"{mask}.POOLER_SAMPLING_RATIO": given["roi_sampling_ratio"],
        }
    return found


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
        model["bbox_head"] = {"in_channels": width, "feat_channels": width}
    else:
        model["rpn_head"] = {"in_channels": width, "feat_channels": width}
        model["roi_head"] = {
            "bbox_roi_extractor": {"out_channels": width},
            "bbox_head": {
                "type": "Shared4Conv1FCBBoxHead",
                "in_channels": width,
                "conv_out_channels": width,
                "norm_cfg": norm,
            },
        }
    if detector == "mask_rcnn":
        model["roi_head"] |= {
            "mask_roi_extractor": {"out_channels": width},
            "mask_head": {"in_channels": width, "conv_out_channels": width, "norm_cfg": norm},
        }
    given, names = settings(checkpoint, detector), class_names(checkpoint)
    if names is not None:
        for head in [model["bbox_head"]] if dense else [model["roi_head"][n] for n in _HEADS if n in model["roi_head"]]:
            head["num_classes"] = len(names)
    if "anchor_sizes" in given:
        _set_dense(model, given) if dense else _set_rcnn(model, given, detector)
    if given.get("size_divisible"):
        model["data_preprocessor"]["pad_size_divisor"] = given["size_divisible"]
    parts: dict[str, Any] = {"load_from": "model.pth", "model": model}
    if "anchor_sizes" in given:
        parts["custom_imports"] = {"imports": [ANCHORS_FILE.removesuffix(".py")], "allow_failed_imports": False}
    parts |= _mmdet_data(given, names, detector)
    return (
        "# Laid over a stock config: add the line below with the path of your mmdet, and train with this file.\n"
        f"# _base_ = '.../mmdetection/configs/{_STOCK[detector]}'\n"
        f"# Stock configs freeze the first stage and all batch norm statistics; pre-trained weights want neither.\n"
        + "".join(f"{name} = {pformat(part, width=110, sort_dicts=False)}\n" for name, part in parts.items())
    )


_HEADS = ("bbox_head", "mask_head")
_STOCK = {
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}


def _mmdet_anchors(given: Mapping[str, Any], strides: Sequence[int]) -> dict[str, Any]:
    """Anchors of a fine-tuned detector."""
    return {
        "_delete_": True,
        "type": ANCHORS,
        "sizes": given["anchor_sizes"],
        "ratios": given["aspect_ratios"],
        "strides": list(strides),
    }


def _nms(threshold: float) -> dict[str, Any]:
    return {"type": "nms", "iou_threshold": threshold}


def _set_dense(model: dict[str, Any], given: Mapping[str, Any]) -> None:
    """A RetinaNet's settings; P7 is made of P6 behind a ReLU, as everywhere else."""
    model["neck"]["relu_before_extra_convs"] = True
    model["bbox_head"]["anchor_generator"] = _mmdet_anchors(given, (8, 16, 32, 64, 128))
    model["train_cfg"] = {
        "assigner": {"pos_iou_thr": given["box_fg_iou_thresh"], "neg_iou_thr": given["box_bg_iou_thresh"]}
    }
    model["test_cfg"] = {
        "nms_pre": given["topk_candidates"],
        "score_thr": given["box_score_thresh"],
        "nms": _nms(given["box_nms_thresh"]),
        "max_per_img": given["box_detections_per_img"],
    }


def _set_rcnn(model: dict[str, Any], given: Mapping[str, Any], detector: str) -> None:
    """An R-CNN's settings."""
    box, sampling = model["roi_head"]["bbox_head"], given["roi_sampling_ratio"]
    canonical = given["roi_canonical_size"] // 4

    def extractor(side: int) -> dict[str, Any]:
        return {"roi_layer": {"output_size": side, "sampling_ratio": sampling}, "finest_scale": canonical}

    model["rpn_head"] |= {
        "num_convs": given["rpn_conv_depth"],
        "anchor_generator": _mmdet_anchors(given, (4, 8, 16, 32, 64)),
    }
    model["roi_head"]["bbox_roi_extractor"] |= extractor(given["box_pool_size"])
    box |= {
        "roi_feat_size": given["box_pool_size"],
        "fc_out_channels": given["box_fc_dim"],
        "bbox_coder": {"target_stds": [1 / weight for weight in given["bbox_reg_weights"]]},
    }
    if detector == "mask_rcnn":
        model["roi_head"]["mask_roi_extractor"] |= extractor(given["mask_pool_size"])
        model["roi_head"]["mask_head"]["num_convs"] = given["mask_head_convs"]
    model["train_cfg"] = {
        "rpn": {
            "assigner": {"pos_iou_thr": given["rpn_fg_iou_thresh"], "neg_iou_thr": given["rpn_bg_iou_thresh"]},
            "sampler": {"num": given["rpn_batch_size_per_image"], "pos_fraction": given["rpn_positive_fraction"]},
        },
        "rpn_proposal": {
            "nms_pre": given["rpn_pre_nms_top_n_train"],
            "max_per_img": given["rpn_post_nms_top_n_train"],
            "nms": _nms(given["rpn_nms_thresh"]),
        },
        "rcnn": {
            "assigner": {
                "pos_iou_thr": given["box_fg_iou_thresh"],
                "neg_iou_thr": given["box_bg_iou_thresh"],
                "min_pos_iou": given["box_fg_iou_thresh"],
            },
            "sampler": {"num": given["box_batch_size_per_image"], "pos_fraction": given["box_positive_fraction"]},
        },
    }
    model["test_cfg"] = {
        "rpn": {
            "nms_pre": given["rpn_pre_nms_top_n_test"],
            "max_per_img": given["rpn_post_nms_top_n_test"],
            "nms": _nms(given["rpn_nms_thresh"]),
        },
        "rcnn": {
            "score_thr": given["box_score_thresh"],
            "nms": _nms(given["box_nms_thresh"]),
            "max_per_img": given["box_detections_per_img"],
        },
    }


def _mmdet_data(given: Mapping[str, Any], names: Sequence[str] | None, detector: str) -> dict[str, Any]:
    """Image size and names of classes, which mmdet keeps with the data."""
    if names is None:
        return {}
    resize = {"type": "Resize", "scale": (given["max_size"], given["min_size"]), "keep_ratio": True}
    load = [{"type": "LoadImageFromFile"}]
    labels = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": detector == "mask_rcnn"}
    meta = {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")}
    flip = {"type": "RandomFlip", "prob": 0.5}
    test = {"dataset": {"metainfo": {"classes": tuple(names)}, "pipeline": [*load, resize, labels, meta]}}
    train = {
        "dataset": {
            "metainfo": {"classes": tuple(names)},
            "pipeline": [*load, labels, resize, flip, {"type": "PackDetInputs"}],
        }
    }
    return {"train_dataloader": train, "val_dataloader": test, "test_dataloader": test}
