"""The smallest detectors that still have every part, and batches for them."""

from typing import Any

import torch

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection

FEW_REGIONS = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 30,
    "rpn_batch_size_per_image": 32,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 10,
    "topk_candidates": 20,
}
DETECTORS = ("mask_rcnn", "faster_rcnn", "retinanet")


def tiny_config(detector: str = "mask_rcnn", **overrides: Any) -> MCLDetectorConfig:
    """ResNet-10 of 8 to 32 channels, P of 8; fields given as None are left out."""
    fields: dict[str, Any] = {
        "detector": detector,
        "backbone": "resnet10t",
        "backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 4},
        "fpn_channels": 8,
        "box_head_convs": 1,
        "mask_head_convs": 1,
        "box_fc_dim": 16,
        "num_labels": 3,
        "min_size": 64,
        "max_size": 96,
        "box_score_thresh": 0.0 if detector != "retinanet" else 0.001,
        **FEW_REGIONS,
    }
    given = {name: value for name, value in {**fields, **overrides}.items() if value is not None}
    return MCLDetectorConfig(**given)


def tiny_detector(
    detector: str = "mask_rcnn", seed: int = 0, **overrides: Any
) -> MCLForInstanceSegmentation | MCLForObjectDetection:
    """In eval mode. RetinaNet's classes are told apart as after training: as initialised (Gaussian of 0.01), all its
    scores are 0.01 to six digits, and which detection is first is a matter of rounding."""
    torch.manual_seed(seed)
    model_class = MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection
    model = model_class(tiny_config(detector, **overrides)).eval()
    if detector == "retinanet":
        for name, weight in model.retinanet.head.classification_head.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.kaiming_normal_(weight)
    return model


def tiny_labels(height: int, width: int, objects: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Labels of one image in transformers' form; masks fill the boxes."""
    generator = torch.Generator().manual_seed(seed)
    centres = 0.3 + 0.4 * torch.rand(objects, 2, generator=generator)
    sides = 0.2 + 0.3 * torch.rand(objects, 2, generator=generator)
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    for mask, (x, y), (w, h) in zip(masks, centres.tolist(), sides.tolist(), strict=True):
        mask[
            int((y - h / 2) * height) : int((y + h / 2) * height), int((x - w / 2) * width) : int((x + w / 2) * width)
        ] = 1
    return {
        "class_labels": torch.randint(0, 3, (objects,), generator=generator),
        "boxes": torch.cat([centres, sides], dim=1),
        "masks": masks,
    }
