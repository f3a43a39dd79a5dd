"""Boxes and masks lie where they belong, in their class's colour, and the curves' picture holds what it says."""

import numpy as np
import pytest

from mcl_hf.viz.detections import DrawnImage, DrawnObjects, class_colour, detections_picture, draw_objects
from mcl_hf.viz.montage_grid import GAP, MARGIN
from mcl_hf.viz.precision_recall import precision_recall_picture

NOTHING = DrawnObjects(np.zeros((0, 4)), np.zeros(0, np.int64), [])


def objects(**changes) -> DrawnObjects:
    given = {"boxes": np.array([[20, 30, 60, 70]]), "labels": np.array([2]), "names": ["cat"]} | changes
    return DrawnObjects(**given)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_box_is_drawn_at_its_place_in_its_colour(scale):
    picture = draw_objects(np.full((80, 100, 3), 255, np.uint8), objects(), (100 * scale, 80 * scale))
    for x, y in ((20, 50), (60, 50), (40, 70)):
        assert picture.getpixel((x * scale, y * scale)) == class_colour(2)
    assert picture.getpixel((40 * scale, 50 * scale)) == (255, 255, 255)
    gray = draw_objects(np.full((80, 100, 3), 255, np.uint8), objects(ignored=np.array([True])), (100, 80))
    assert gray.getpixel((20, 50)) == (150, 150, 158)


def test_a_mask_tints_its_pixels_only():
    mask = np.zeros((1, 80, 100), np.uint8)
    mask[0, 35:45, 25:35] = 1
    pixels = np.full((80, 100, 3), 255, np.uint8)
    picture = draw_objects(pixels, objects(masks=mask), (100, 80))
    expected = tuple(round(0.6 * 255 + 0.4 * part) for part in class_colour(2))
    assert picture.getpixel((30, 40)) == pytest.approx(expected, abs=2) and picture.getpixel((50, 40)) == (255,) * 3
    assert (pixels == 255).all()  # the caller's own are left alone


def test_annotations_left_and_predictions_right():
    pixels = np.full((80, 100, 3), 200, np.uint8)
    images = [DrawnImage(pixels, "a.jpg", objects(), NOTHING), DrawnImage(pixels, "b" * 200, NOTHING, objects())]
    picture = detections_picture(images, "test", panel_width=100)
    top = 46
    left, right = MARGIN, MARGIN + 100 + GAP
    second = MARGIN + 2 * 100 + GAP + 2 * GAP
    assert picture.getpixel((left + 20, top + 50)) == class_colour(2)
    assert picture.getpixel((right + 20, top + 50)) == (200,) * 3 == picture.getpixel((second + 20, top + 50))
    assert picture.getpixel((second + 100 + GAP + 20, top + 50)) == class_colour(2)
    assert detections_picture(images[:1], "test", panel_width=100).width < picture.width


def test_a_strip_does_not_make_the_picture_endless():
    strip = DrawnImage(np.full((3000, 1, 3), 200, np.uint8), "strip.png", objects(), NOTHING)
    assert detections_picture([strip], "test", panel_width=10).height < 200


def test_neighbouring_classes_look_different():
    colours = np.array([class_colour(label) for label in range(80)], float)
    assert len(np.unique(colours, axis=0)) == 80
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100


def test_curves_of_few_and_of_many_classes():
    pytest.importorskip("matplotlib")
    recalls = np.linspace(0, 1, 101)
    few = {"cat": 1 - recalls, "dog": 1 - recalls**2}
    many = {f"class {n}": np.clip(n / 40 - recalls * 0.2, 0, 1) for n in range(40)}
    one = precision_recall_picture({"box, IoU 0.5": few}, recalls)
    two = precision_recall_picture({"box, IoU 0.5": few, "mask, IoU 0.5": many}, recalls, "a detector")
    assert two.width == 2 * one.width
    assert np.asarray(one).std() > 5
    assert precision_recall_picture({"box": {}}, recalls).size == one.size
    dollars = {r"5$ \frac$ note": few["cat"]}  # between dollar signs, matplotlib would read a formula
    assert precision_recall_picture({"box": dollars}, recalls, "$_$").size == one.size
