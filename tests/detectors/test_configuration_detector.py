"""The detector's configuration: defaults of each kind, checks, and the way to disk and back."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from mcl_hf import MCLConfig, MCLDetectorConfig, MCLForInstanceSegmentation, MCLModel
from tests.models.tiny import tiny_config as tiny_mcl_config
from tests.tiny_detector import DETECTORS, tiny_config


@pytest.mark.parametrize("detector", DETECTORS)
def test_round_trip_with_every_field(detector: str, tmp_path: Path) -> None:
    config = tiny_config(detector, id2label={0: "cup", 1: "spoon"}, num_labels=None)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for name in ("detector", "backbone", "fpn_channels", "anchor_sizes", "box_bg_iou_thresh", "min_size", "image_mean"):
        assert written[name] is not None, name
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is MCLDetectorConfig
    assert {**again.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert again.num_labels == 2 and again.id2label == {0: "cup", 1: "spoon"}


def test_defaults_follow_the_detector() -> None:
    mask_rcnn, retinanet = MCLDetectorConfig(), MCLDetectorConfig(detector="retinanet")
    assert mask_rcnn.anchor_sizes == [[32], [64], [128], [256], [512]] and mask_rcnn.box_bg_iou_thresh == 0.5
    assert retinanet.anchor_sizes[0] == [32, 40, 50] and retinanet.box_bg_iou_thresh == 0.4
    assert (mask_rcnn.min_size, mask_rcnn.max_size, mask_rcnn.size_divisible) == (800, 1333, 32)
    assert mask_rcnn.image_mean == [0.485, 0.456, 0.406]


def test_another_detector_of_a_folder_has_its_own_anchors(tmp_path: Path) -> None:
    sizes = [[16], [32], [64], [128], [256]]
    MCLDetectorConfig(backbone="resnet18", anchor_sizes=sizes).save_pretrained(tmp_path)
    dense = MCLDetectorConfig.from_pretrained(tmp_path, detector="retinanet", num_channels=1, num_labels=3)
    assert (dense.anchor_sizes[0], dense.box_bg_iou_thresh) == ([32, 40, 50], 0.4)
    assert (dense.image_mean, dense.image_std, dense.num_labels) == ([0.5], [0.25], 3)
    assert MCLDetectorConfig.from_pretrained(tmp_path, detector="faster_rcnn").anchor_sizes == sizes
    with pytest.raises(ValueError, match="min_size 2000 is above"):
        MCLDetectorConfig.from_pretrained(tmp_path, min_size=2000)


def test_fields_of_a_pretrained_model() -> None:
    mcl = MCLConfig(backbone="resnet18", fpn_channels=32, num_channels=1, image_mean=[0.3], region_convs=2)
    config = MCLDetectorConfig.from_mcl(mcl, detector="faster_rcnn", num_labels=5, fpn_channels=64)
    assert (config.backbone, config.num_channels, config.image_mean) == ("resnet18", 1, [0.3])
    assert (config.box_head_convs, config.fpn_channels, config.num_labels) == (2, 64, 5)


def test_a_pretraining_folder_is_no_detector(tmp_path: Path) -> None:
    MCLModel(tiny_mcl_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="start a detector from it with from_pretraining"):
        MCLForInstanceSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"detector": "yolo"}, "detector must be one of"),
        ({"backbone": "resnet51"}, "is not a timm architecture"),
        ({"box_nms_thresh": 1.5}, "box_nms_thresh must be within 0 and 1"),
        ({"rpn_batch_size_per_image": 0}, "rpn_batch_size_per_image must be at least 1"),
        ({"rpn_bg_iou_thresh": 0.8}, "rpn_bg_iou_thresh 0.8 is above rpn_fg_iou_thresh 0.7"),
        ({"min_size": 2000}, "min_size 2000 is above max_size 1333"),
        ({"size_divisible": 48}, "multiple of 32"),
        ({"anchor_sizes": [[32], [64]]}, "needs five levels"),
        ({"anchor_sizes": [[32], [64], [128], [256], [0]]}, "above 0"),
        ({"bbox_reg_weights": [1, 2]}, "four values"),
        ({"id2label": {1: "cat"}}, "must number the classes 0 to 0"),
        ({"roi_sampling_ratio": -1}, "must not be negative"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCLDetectorConfig(**fields)
