"""From pictures to boxes in original pixels: the image processor's two halves and transformers' pipelines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from mcl_hf import MCLImageProcessor
from mcl_hf.detection import MCLDetectorOutput, pixel_boxes, relative_boxes
from mcl_hf.detectors.targets import pack_detections
from tests.tiny_detector import DETECTORS, tiny_config, tiny_detector


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture(scope="module", params=DETECTORS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_detector(request.param, id2label={0: "cup", 1: "fork", 2: "spoon"}, num_labels=None)
    model.save_pretrained(folder)
    MCLImageProcessor.from_config(model.config).save_pretrained(folder)
    return folder


def test_object_detection_pipeline(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = pipeline("object-detection", model=str(folder))
    image = picture(80, 120)
    found = detector(image, threshold=0.0)
    assert "not supported" not in caplog.text
    # the same by hand
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(image, return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(80, 120)])[0]
    assert len(found) == len(expected["scores"]) > 0
    for one, score, label, box in zip(found, expected["scores"], expected["labels"], expected["boxes"], strict=True):
        assert one["score"] == score.item() and one["label"] == ["cup", "fork", "spoon"][label]
        assert list(one["box"].values()) == box.int().tolist()
        assert 0 <= one["box"]["xmin"] <= one["box"]["xmax"] <= 120 and one["box"]["ymax"] <= 80
    batched = detector([image, picture(80, 120, seed=1)], threshold=0.0, batch_size=2)[0]
    assert [one["box"] for one in batched] == [one["box"] for one in found]


def test_image_segmentation_pipeline(folder: Path) -> None:
    if not folder.name.startswith("mask_rcnn"):
        pytest.skip("it finds boxes alone")
    segments = pipeline("image-segmentation", model=str(folder))(
        picture(80, 120), threshold=0.0, mask_threshold=0.3, overlap_mask_area_threshold=0.0
    )
    assert segments and all(segment["mask"].size == (120, 80) for segment in segments)
    assert {segment["label"] for segment in segments} <= {"cup", "fork", "spoon"}


def test_pictures_become_a_padded_batch() -> None:
    processor = MCLImageProcessor.from_config(tiny_config())  # shorter side 64, longer at most 96
    inputs = processor([picture(80, 120), picture(40, 200), picture(100, 50)], return_tensors="pt")
    assert inputs.pixel_values.shape == (3, 3, 96, 96) and inputs.pixel_mask.shape == (3, 96, 96)
    sizes = [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in inputs.pixel_mask]
    assert sizes == [(64, 96), (19, 96), (96, 48)]
    outside = inputs.pixel_values * (1 - inputs.pixel_mask[:, None])
    assert not outside.any()
    strip = processor(picture(500, 1), return_tensors="pt")  # whose shorter side rounds to 0
    assert (int(strip.pixel_mask.any(2).sum()), int(strip.pixel_mask.any(1).sum())) == (96, 1)
    # another size in training: as the loop draws it
    larger = processor(picture(80, 120), return_tensors="pt", size={"shortest_edge": 100, "longest_edge": 400})
    assert larger.pixel_values.shape[-2:] == (128, 160) and larger.pixel_mask[0].any(0).sum() == 150


def packed(detections: list[dict], sizes: list[tuple[int, int]]) -> MCLDetectorOutput:
    return MCLDetectorOutput(**pack_detections(detections, sizes, num_labels=3))


def test_boxes_return_to_original_pixels() -> None:
    boxes = torch.tensor([[8.0, 16.0, 32.0, 48.0], [0.0, 0.0, 64.0, 64.0]])
    detections = [
        {"boxes": boxes, "scores": torch.tensor([0.9, 0.3]), "labels": torch.tensor([2, 0])},
        {"boxes": boxes[:0], "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    outputs = packed(detections, [(64, 64), (64, 96)])
    processor = MCLImageProcessor.from_config(tiny_config())
    first, second = processor.post_process_object_detection(
        outputs, threshold=0.2, target_sizes=torch.tensor([[128, 192], [10, 10]])
    )
    assert torch.equal(first["boxes"], torch.tensor([[24.0, 32.0, 96.0, 96.0], [0.0, 0.0, 192.0, 128.0]]))
    assert torch.equal(first["scores"], torch.tensor([0.9, 0.3])) and first["labels"].tolist() == [2, 0]
    assert len(second["scores"]) == 0
    assert len(processor.post_process_object_detection(outputs, target_sizes=[(128, 192), (10, 10)])[0]["scores"]) == 1
    relative = processor.post_process_object_detection(outputs, threshold=0.0)[0]["boxes"]
    assert relative[0].tolist() == [0.125, 0.25, 0.5, 0.75]
    # transformers' Trainer gathers logits and boxes only
    gathered = MCLDetectorOutput(logits=outputs.logits, pred_boxes=outputs.pred_boxes)
    again = processor.post_process_object_detection(gathered, threshold=0.2, target_sizes=[(128, 192), (10, 10)])[0]
    assert again["labels"].tolist() == [2, 0] and torch.allclose(again["scores"], first["scores"])
    with pytest.raises(ValueError, match="target_sizes of 1 images for outputs of 2"):
        processor.post_process_object_detection(outputs, target_sizes=[(1, 1)])


def test_relative_boxes_and_back() -> None:
    boxes = torch.rand(5, 4) * 50
    boxes[:, 2:] += boxes[:, :2]
    assert torch.allclose(pixel_boxes(relative_boxes(boxes, (99, 131)), (99, 131)), boxes, atol=1e-4)


def test_masks_are_pasted_and_stacked() -> None:
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [16.0, 0.0, 48.0, 32.0], [2.0, 2.0, 20.0, 20.0]])
    full = torch.ones(3, 28, 28)
    detections = [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([0, 1, 2])}]
    detections[0]["masks"] = full
    outputs = packed(detections, [(64, 64)])
    processor = MCLImageProcessor.from_config(tiny_config())
    options = {"threshold": 0.5, "target_sizes": [(128, 128)]}
    binary = processor.post_process_instance_segmentation(outputs, return_binary_maps=True, **options)[0]
    assert binary["segmentation"].shape == (3, 128, 128) and binary["segmentation"].dtype == torch.bool
    assert binary["segmentation"][0, 2:62, 2:62].all() and not binary["segmentation"][0, 70:].any()
    assert [segment["label_id"] for segment in binary["segments_info"]] == [0, 1, 2]
    stacked = processor.post_process_instance_segmentation(outputs, overlap_mask_area_threshold=0.3, **options)[0]
    # the best lies on top, the second shows half of itself, the third nothing
    assert [segment["id"] for segment in stacked["segments_info"]] == [0, 1]
    assert stacked["segmentation"][10, 10] == 0 and stacked["segmentation"][10, 90] == 1
    assert stacked["segmentation"][100, 100] == -1
    strict = processor.post_process_instance_segmentation(outputs, overlap_mask_area_threshold=0.6, **options)[0]
    assert [segment["id"] for segment in strict["segments_info"]] == [0]
    runs = processor.post_process_instance_segmentation(outputs, return_coco_annotation=True, **options)[0]
    assert len(runs["segmentation"]) == len(runs["segments_info"])
    none = processor.post_process_instance_segmentation(outputs, threshold=0.95, target_sizes=[(128, 128)])[0]
    assert none["segments_info"] == [] and (none["segmentation"] == -1).all()
    with pytest.raises(ValueError, match="no pred_masks"):
        outputs.pred_masks = None
        processor.post_process_instance_segmentation(outputs, **options)
