"""Detections come back in px of the originals, for the right image and class, alone and in batches and from workers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection, MCLImageProcessor
from mcl_hf.annotations.masks import decode_masks
from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.detectors.open_detector import open_detector
from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from mcl_hf.errors import InputError
from mcl_hf.evaluation.predict_data import (
    MOST_DETECTIONS,
    inputs_of,
    match_categories,
    predict,
    predict_data,
)
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_scenes(tmp_path_factory.mktemp("mixed"), 5)
    for number, size in ((1, (150, 60)), (3, (60, 100))):  # other shapes, so that a batch has padding
        file = folder / "train" / f"{number:04d}.png"
        Image.open(file).resize(size).save(file)
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    for number, (width, height) in ((1, (150, 60)), (3, (60, 100))):
        content["images"][number] |= {"width": width, "height": height}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return open_detection_data(folder)


def config(detector: str, names: dict[int, str]) -> MCLDetectorConfig:
    return MCLDetectorConfig(
        detector=detector, backbone="resnet10t", fpn_channels=16, box_fc_dim=32, id2label=names, min_size=64,
        max_size=128, box_score_thresh=0.0, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def detector(data):
    torch.manual_seed(0)
    made = config("mask_rcnn", data.id2label)
    return MCLForInstanceSegmentation(made).eval(), MCLImageProcessor.from_config(made)


def test_batches_and_workers_change_nothing(data, detector):
    alone = predict_data(*detector, data).detections
    batched = predict_data(*detector, data, batch_size=3, num_workers=1).detections
    assert [image.image_id for image in alone] == [image.image_id for image in batched] == data.image_ids
    for one, other in zip(alone, batched, strict=True):
        assert np.array_equal(one.labels, other.labels) and one.masks == other.masks
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_boxes_and_masks_are_those_of_the_model_in_px_of_the_original(data, detector):
    model, processor = detector
    for item in (data[0], data[3]):
        (found,) = predict(model, processor, [item])
        inputs = processor([item.decode()], return_tensors="pt")
        height, width = (int(side) for side in inputs.pixel_mask[0].nonzero().max(0).values + 1)
        with torch.no_grad():
            (direct,) = model.detections(inputs.pixel_values, [(height, width)])
        scale = torch.tensor([item.width / width, item.height / height] * 2)
        np.testing.assert_allclose(found.boxes, direct["boxes"] * scale, atol=1e-3)
        assert found.scores.tolist() == direct["scores"].tolist() and found.labels.tolist() == direct["labels"].tolist()
        assert (np.diff(found.scores) <= 0).all() and 0 < len(found.scores) <= MOST_DETECTIONS
        masks = decode_masks(found.masks, item.height, item.width)
        for mask, (x0, y0, x1, y1) in zip(masks, found.boxes, strict=True):
            ys, xs = mask.nonzero()
            if len(xs):
                assert xs.min() >= x0 - 2 and xs.max() <= x1 + 2 and ys.min() >= y0 - 2 and ys.max() <= y1 + 2


@pytest.mark.parametrize("height", [1, 3, 4])
@pytest.mark.parametrize("kind", ["mask_rcnn", "rt_detr_v2"])
def test_rows_of_a_low_image_are_no_channels(data, detector, kind, height):
    processor = detector[1]
    if kind != "mask_rcnn":
        processor = TRANSFORMERS_DETECTORS[kind].image_processor([0.5] * 3, [0.5] * 3, 64, 64)
    columns = np.linspace(0, 255, 60).astype(np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    row = inputs_of(processor, [columns])["pixel_values"][0, 0, 0, :60]  # brighter from left to right
    assert (row.diff() >= 0).all() and row[-1] > row[0] + 1


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet", "mask_rcnn"])
def test_saved_detectors_open_as_what_they_are(data, tmp_path, kind):
    made = config(kind, data.id2label)
    model = (MCLForInstanceSegmentation if kind == "mask_rcnn" else MCLForObjectDetection)(made)
    model.save_pretrained(tmp_path)
    MCLImageProcessor.from_config(made).save_pretrained(tmp_path)
    opened, processor = open_detector(str(tmp_path))
    assert type(opened) is type(model) and not opened.training
    (found,) = predict(opened, processor, [data[0]])
    assert (found.masks is not None) == (kind == "mask_rcnn")


def test_detectors_of_transformers_go_the_same_way(data, tmp_path):
    """A small Conditional-DETR-like output: no scores of its own, logits with a class for nothing."""
    from transformers import DetrImageProcessor

    class Detr(torch.nn.Module):
        config = SimpleNamespace(id2label={0: "N/A", 1: "triangle", 2: "ellipse", 3: "rectangle"})

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values, pixel_mask=None):
            logits = torch.tensor([[[0, 0, 9.0, 0, 0], [9.0, 0, 0, 0, 0], [0, 5.0, 0, 0, 0]]])
            boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.5]]])
            n = len(pixel_values)
            return SimpleNamespace(logits=logits.repeat(n, 1, 1), pred_boxes=boxes.repeat(n, 1, 1))

    processor = DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    predicted = predict_data(Detr(), processor, data, batch_size=2)
    first = predicted.detections[0]
    assert first.labels.tolist() == [0, 1]  # ellipse, triangle; what the data do not know is left out
    np.testing.assert_allclose(first.boxes, [[32, 24, 96, 72], [0, 0, 64, 48]], atol=1e-3)


def test_an_image_that_does_not_decode_stops_the_run_or_is_named(data, detector, tmp_path):
    folder = write_scenes(tmp_path, 3)
    file = folder / "train" / "0001.png"
    file.write_bytes(file.read_bytes()[:2000])  # the header is whole
    broken = open_detection_data(folder, check_files=False)
    with pytest.raises(InputError, match=r"0001\.png: .*--skip-broken"):
        predict_data(*detector, broken, batch_size=2)
    predicted = predict_data(*detector, broken, batch_size=2, skip_broken=True)
    assert list(predicted.broken) == [1] and [image.image_id for image in predicted.detections] == [1, 3]


def test_a_detector_that_was_saved_in_half_precision_detects(data, tmp_path):
    made = config("retinanet", data.id2label)
    MCLForObjectDetection(made).half().save_pretrained(tmp_path)
    MCLImageProcessor.from_config(made).save_pretrained(tmp_path)
    opened, processor = open_detector(str(tmp_path))
    assert opened.dtype == torch.float32 and len(predict(opened, processor, [data[0]])) == 1


def test_classes_are_matched_by_name(data):
    assert match_categories({0: "rectangle", 1: "dog", 2: "ellipse", 3: "triangle"}, data).tolist() == [2, -1, 0, 1]
    assert match_categories({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, data).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="knows the classes dog, but not ellipse, triangle, rectangle of"):
        match_categories({0: "dog"}, data)


def test_what_is_no_detector_is_refused(tmp_path):
    from mcl_hf import MCLConfig

    MCLConfig(backbone="resnet10t").save_pretrained(tmp_path / "pretrained")
    with pytest.raises(InputError, match="is a pre-training checkpoint, which detects nothing yet"):
        open_detector(str(tmp_path / "pretrained"))
    with pytest.raises(InputError, match="cannot be opened as a checkpoint"):
        open_detector(str(tmp_path / "nothing"))
    MCLDetectorConfig(backbone="resnet10t", num_channels=4).save_pretrained(tmp_path / "satellite")
    with pytest.raises(InputError, match="takes 4 channels; pictures are read in colour or in gray"):
        open_detector(str(tmp_path / "satellite"))
    MCLDetectorConfig(backbone="resnet10t").save_pretrained(tmp_path / "config_only")
    with pytest.raises(InputError, match="cannot be opened as a detector"):
        open_detector(str(tmp_path / "config_only"))
