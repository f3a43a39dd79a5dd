"""Pascal VOC's figures against numbers worked out by hand, and its rules for difficult and doubled ones."""

from pathlib import Path

import numpy as np
import pytest

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.evaluation.evaluate import evaluate_detections
from mcl_hf.evaluation.results import ground_truth_results
from mcl_hf.evaluation.voc_metrics import area_under_curve, box_iou, eleven_point_mean, voc_average_precision
from tests.annotations.test_datasets import write_voc

DOG = 12  # VOC's class number


@pytest.fixture
def data(tmp_path: Path):
    objects = {
        "a": [("dog", (1, 1, 10, 10), 0), ("dog", (21, 1, 30, 10), 0), ("dog", (1, 21, 10, 30), 1)],
        "b": [("dog", (1, 1, 10, 10), 0), ("cat", (1, 1, 10, 10), 0)],
    }
    return open_detection_data(write_voc(tmp_path, "2007", "test", objects), split="test")


def result(image: str, x: float, y: float, score: float, category: int = DOG) -> dict:
    return {"image_id": image, "category_id": category, "bbox": [x, y, 10.0, 10.0], "score": score}


def test_by_hand(data):
    """In order of scores: found, found again (false), difficult (neither), nothing there (false), found; of three."""
    found = [
        result("b", 0, 0, 0.2), result("a", 0, 0, 0.9), result("a", 1, 0, 0.8), result("a", 0, 20, 0.7),
        result("a", 0, 20, 0.65), result("b", 25, 15, 0.5),
    ]  # fmt: skip
    figures = voc_average_precision(data, found)
    # precision 1 up to a recall of 1/3, then 2/4 up to 2/3, then none
    assert figures["AP50"][DOG - 1] == pytest.approx(1 / 3 + 0.5 / 3)
    assert figures["AP50_11"][DOG - 1] == pytest.approx((4 * 1 + 3 * 0.5) / 11)  # recalls 0-0.3 and 0.4-0.6
    assert figures["AP50"][7] == 0 and figures["AP50"][0] is None  # cats: none found; no aeroplanes there


def test_the_object_of_largest_overlap_decides(data):
    """A detection whose best object is taken is false, even where it overlaps a second one by half."""
    near = [result("a", 0, 0, 0.9), result("a", 0, 0, 0.8)]
    assert voc_average_precision(data, near)["AP50"][DOG - 1] == pytest.approx(1 / 3)


def test_half_is_enough(data):
    half = {**result("b", 0, 0, 0.9), "bbox": [0, 0, 10.0, 5.0]}
    less = {**half, "bbox": [0, 0, 10.0, 4.9]}
    assert voc_average_precision(data, [half])["AP50"][DOG - 1] == pytest.approx(1 / 3)
    assert voc_average_precision(data, [less])["AP50"][DOG - 1] == 0


def test_in_an_evaluation_of_voc_data(data):
    metrics = evaluate_detections(data, ground_truth_results(data))
    assert metrics.voc["AP50"] == metrics.voc["AP50_11"] == 1.0
    assert metrics.voc["per_class"]["dog"]["AP50"] == 1.0 and metrics.voc["per_class"]["sheep"]["AP50"] is None
    assert metrics.lines()[-1] == "Pascal VOC AP50: 100.0 by area, 100.0 by 11 points"
    assert metrics.box.per_class["dog"]["AP"] == pytest.approx(1)


def test_curves():
    assert area_under_curve(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])) == pytest.approx(0.5 + 1 / 3)
    assert area_under_curve(np.zeros(0), np.zeros(0)) == eleven_point_mean(np.zeros(0), np.zeros(0)) == 0
    assert eleven_point_mean(np.array([1.0]), np.array([0.5])) == 0.5
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 5, 5], [0, 0, 0, 0]], np.float64)
    assert box_iou(boxes[0], boxes) == pytest.approx([1, 1 / 3, 0, 0])
