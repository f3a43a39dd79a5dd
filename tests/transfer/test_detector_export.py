"""A fine-tuned detector goes whole to torchvision, where its heads have a place, and in part to the others."""

import importlib.util
import runpy
from pathlib import Path

import pytest
import torch

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection
from mcl_hf.transfer import export_checkpoint
from tests.transfer.norms import randomise_norms

_spec = importlib.util.spec_from_file_location(
    "benchmark_detector", Path(__file__).parents[2] / "scripts" / "benchmark_detector.py"
)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


@torch.no_grad()
@pytest.mark.parametrize(("detector", "heads"), [("mask_rcnn", 40), ("faster_rcnn", 12), ("retinanet", 24)])
def test_a_detector_goes_whole_to_torchvision(tmp_path: Path, capsys, detector: str, heads: int) -> None:
    torch.manual_seed(0)
    config = MCLDetectorConfig(
        detector=detector, backbone="resnet18", fpn_channels=8, box_fc_dim=16, num_labels=4, rpn_post_nms_top_n_test=40,
        box_score_thresh=0.005,
    )  # fmt: skip
    ours = (MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection)(config).eval()
    randomise_norms(ours)
    ours.save_pretrained(tmp_path / "detector")
    coverage = export_checkpoint(tmp_path / "detector", tmp_path / "out", "torchvision")
    parts = ("fc1", "box predictor", "mask head", "RPN", "P6 and P7", "RetinaNet head")
    assert sum(coverage.parts.get(part, (0, 0))[0] for part in parts) == heads and not coverage.left_out
    options = {"rpn_post_nms_top_n_test": 40, "box_score_thresh": 0.005} if detector != "retinanet" else {}
    if detector == "retinanet":
        options = {"score_thresh": 0.005, "detections_per_img": config.box_detections_per_img}
    build = runpy.run_path(str(tmp_path / "out" / "build_detector.py"))["build_detector"]
    theirs = build(min_size=128, max_size=128, image_mean=[0.0] * 3, image_std=[1.0] * 3, **options).eval()
    assert f"{coverage.given} of" in capsys.readouterr().out
    image = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(3))
    with benchmark.aligned_torchvision():
        found = theirs([image])[0]
    expected = ours.detections(image[None])[0]
    first_class = int(found["labels"].min() - expected["labels"].min())  # torchvision's R-CNNs count the background
    assert first_class == (0 if detector == "retinanet" else 1)
    assert len(found["boxes"]) == len(expected["boxes"]) > 0
    assert torch.equal(found["labels"] - first_class, expected["labels"])
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-3)
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    other = "mask_rcnn" if detector == "retinanet" else "retinanet"
    export_checkpoint(tmp_path / "detector", tmp_path / "other", "torchvision", detector=other)
    script = (tmp_path / "other" / "build_detector.py").read_text()
    anchors, classes = ("((32,), (64,),", 5) if other == "mask_rcnn" else ("((32, 40, 50), (64, 80, 101),", 4)
    assert anchors in script and f"num_classes={classes}," in script, "not those of another kind of detector"
    partial = export_checkpoint(tmp_path / "detector", tmp_path / "d2", "detectron2")
    assert partial.parts["backbone"] == (120, 120) and "without a place" in str(partial)
