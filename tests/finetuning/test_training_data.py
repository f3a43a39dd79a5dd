"""Order, transforms and batches of fine-tuning: pure functions of the seed and the step."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_hf.annotations import detection_data, masks
from mcl_hf.annotations.masks import decode_masks
from mcl_hf.comparison.run_job import shown_detections
from mcl_hf.detection import ground_truth_results, open_detection_data
from mcl_hf.detectors.targets import pixel_boxes
from mcl_hf.errors import InputError
from mcl_hf.evaluation.evaluation_files import drawn_images
from mcl_hf.finetuning.auto_rules import choose_sizes
from mcl_hf.finetuning.train_loader import DetectionLoader, TrainOrder
from mcl_hf.finetuning.train_transform import TrainTransform, augment, resized
from mcl_hf.viz.detections import draw_objects
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), 12)


@pytest.fixture(scope="module")
def data(folder):
    return open_detection_data(folder)


def transform(**changes):
    return TrainTransform(**{"min_sizes": (64, 96), "max_size": 128, "flip": 0.5, "masks": True, "seed": 3, **changes})


@settings(deadline=None)
@given(
    wide=st.lists(st.booleans(), min_size=1, max_size=60),
    images_per_step=st.integers(1, 8),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_takes_each_image_at_most_once_and_keeps_kinds_apart(wide, images_per_step, seed):
    if len(wide) < images_per_step:
        return
    wide = np.array(wide)
    order = TrainOrder(wide, images_per_step, seed)
    for epoch in (0, 3):
        steps = [order.indices(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        taken = np.concatenate(steps)
        assert len(taken) == len(set(taken.tolist())) == len(wide) // images_per_step * images_per_step
        mixed = sum(0 < wide[step].sum() < images_per_step for step in steps)
        assert mixed <= 1  # the remainders of both kinds are fewer than two steps


def test_epochs_differ_and_seeds_differ():
    wide = np.ones(40, bool)
    one, other = TrainOrder(wide, 4, seed=0), TrainOrder(wide, 4, seed=1)
    assert not np.array_equal(one.indices(0), one.indices(one.steps_per_epoch))
    assert not np.array_equal(one.indices(0), other.indices(0))
    assert np.array_equal(one.indices(7), TrainOrder(wide, 4, seed=0).indices(7))


def test_too_few_images_are_one_clear_line():
    with pytest.raises(InputError, match="a step needs 16 different images, but there are 12"):
        TrainOrder(np.ones(12, bool), 16, seed=0)


def test_boxes_masks_and_pixels_move_together(data):
    item = data[0]
    plain = transform(min_sizes=(96,), flip=0.0)(item, position=0)
    mirrored = transform(min_sizes=(96,), flip=1.0)(item, position=0)
    assert torch.equal(plain.pixels.flip(2), mirrored.pixels)
    assert torch.equal(plain.masks.flip(2), mirrored.masks)
    for image in (plain, mirrored):
        for box, mask in zip(image.boxes, image.masks, strict=True):
            rows, columns = torch.where(mask > 0)
            inside = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (inside - box).abs().max() <= 1.5  # a mask is of whole pixels


def test_masks_are_made_one_at_a_time(data, monkeypatch):
    """Those of hundreds of objects in a large image do not fit into memory together."""
    item = max(data, key=lambda item: len(item.boxes))
    assert len(item.boxes) > 1

    def one(segmentations, height, width):
        assert len(segmentations) == 1
        return decode_masks(segmentations, height, width)

    whole = torch.from_numpy(item.masks())
    monkeypatch.setattr(masks, "decode_masks", one)
    monkeypatch.setattr(detection_data, "decode_masks", one)
    same_size = transform(min_sizes=(96,), flip=0.0)(item, position=0)
    assert torch.equal(same_size.masks, whole)
    results = ground_truth_results(data)
    (drawn,) = drawn_images(data.select([data.image_ids.index(item.image_id)]), results, 1, 0.5)
    for objects in (drawn.annotated, drawn.predicted):
        assert draw_objects(drawn.pixels, objects, (128, 96)).size == (128, 96) and len(objects.masks) == len(whole)


def test_a_picture_in_which_nothing_scores_enough_says_what_comes_closest(data):
    weak = [{**result, "score": 0.125 + 0.01 * n} for n, result in enumerate(ground_truth_results(data)[:2])]
    best = {result["image_id"]: result["score"] for result in weak}
    first = data.select([data.image_ids.index(weak[0]["image_id"])])
    for results, least, note in [
        (weak, 0.5, f"none of score 0.5 or more, the highest is {best[weak[0]['image_id']]:.3g}"),
        ([], 0.5, "none of score 0.5 or more"),
        (weak[:1], 0.1, "1 of score 0.1 or more"),
    ]:
        (drawn,) = drawn_images(first, results, 1, least)
        assert drawn.note == note and len(drawn.predicted.boxes) == (least < 0.2)
    shown = shown_detections(first, weak)[str(weak[0]["image_id"])]
    assert [row[-1] for row in shown] == [round(best[weak[0]["image_id"]], 3)]  # the best one alone
    strong = [{**weak[0], "score": 0.4}, {**weak[0], "score": 0.3}, *weak]
    assert [row[-1] for row in shown_detections(first, strong)[str(weak[0]["image_id"])]] == [0.4, 0.3]


def test_scales_are_bounded_and_listed():
    assert resized(480, 640, 800, 1333) == (800, 1067)
    assert resized(480, 1280, 800, 1333) == (500, 1333)
    assert choose_sizes(640, 800) == [640, 672, 704, 736, 768, 800]


def test_both_scales_and_both_directions_come_up(data):
    images = [transform()(data[0], position) for position in range(16)]
    assert {min(image.pixels.shape[1:]) for image in images} == {64, 96}
    assert len({int(image.boxes[0, 0] / image.pixels.shape[2] * 100) for image in images}) >= 2


def test_crops_are_detrs(data):
    """Half of the images are of one of three sizes, and cut to 384 to 600 px; boxes go with them."""
    pixels = torch.arange(90 * 120).view(1, 90, 120).expand(3, -1, -1).remainder(251).to(torch.uint8)
    boxes, labels = torch.tensor([[10.0, 20.0, 100.0, 80.0]]), torch.tensor([2])
    shapes = []
    for seed in range(24):
        image, found, kinds, _ = augment("crop", pixels, boxes, labels, None, seed)
        height, width = image.shape[1:]
        shapes.append((height, width))
        assert len(found) == 1 and kinds.tolist() == [2]
        assert (found >= 0).all() and found[0, 2] <= width and found[0, 3] <= height
    cut = [shape for shape in shapes if shape != (90, 120)]
    assert 6 <= len(cut) <= 18 and all(384 <= side <= 600 for shape in cut for side in shape)
    assert len(set(cut)) > 4


def test_squares_are_of_one_side_once_nothing_is_augmented(data):
    transform = TrainTransform((64, 96, 128), 128, 0.5, False, 0, 4, "strong", augment_until=16, last_side=160)
    sides = [transform(data[position % len(data)], position).pixels.shape[1:] for position in range(24)]
    assert all(height == width for height, width in sides)
    assert {side[0] for side in sides[:16]} <= {64, 96, 128} and {side[0] for side in sides[16:]} == {160}
    assert all(len(set(sides[start : start + 4])) == 1 for start in range(0, 24, 4))


def test_batches_are_what_the_models_take(data):
    loader = DetectionLoader(data, transform(), batch_size=4, seed=0)
    batch = next(iter(loader))
    assert batch.pixels.dtype == torch.uint8 and len(batch.labels) == len(batch.image_sizes) == 4
    for index, (label, (height, width)) in enumerate(zip(batch.labels, batch.image_sizes, strict=True)):
        assert not batch.pixels[index, :, height:].any() and not batch.pixels[index, :, :, width:].any()
        boxes = pixel_boxes(label["boxes"], (height, width))
        assert (boxes[:, 2] <= width + 1e-3).all() and (boxes[:, :2] >= -1e-3).all()
        assert label["masks"].shape == (len(label["class_labels"]), height, width)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_another_stopped(data, num_workers):
    def options(**more):
        return {"batch_size": 2, "seed": 5, "num_workers": num_workers, **more}

    whole = list(itertools.islice(DetectionLoader(data, transform(), **options(num_workers=0)), 9))
    rest = list(itertools.islice(DetectionLoader(data, transform(), **options(start_step=6)), 3))
    for expected, batch in zip(whole[6:], rest, strict=True):
        assert batch.step == expected.step and torch.equal(batch.pixels, expected.pixels)
        assert torch.equal(batch.sample_ids, expected.sample_ids)
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(expected.labels, batch.labels, strict=True))


def test_ranks_share_a_step(data):
    whole = next(iter(DetectionLoader(data, transform(), batch_size=4, seed=0)))
    halves = [
        next(iter(DetectionLoader(data, transform(), batch_size=2, seed=0, rank=rank, world_size=2))) for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([half.sample_ids for half in halves]), whole.sample_ids)
    height, width = whole.image_sizes[3]
    assert halves[1].image_sizes[1] == (height, width)
    assert torch.equal(halves[1].pixels[1, :, :height, :width], whole.pixels[3, :, :height, :width])


def test_a_broken_image_costs_itself(tmp_path):
    folder = write_scenes(tmp_path, 8)
    data = open_detection_data(folder)
    victim = sorted((folder / "train").glob("*.png"))[2]
    victim.write_bytes(victim.read_bytes()[:200])  # damaged after the check
    batches = list(itertools.islice(DetectionLoader(data, transform(), batch_size=8, seed=0, max_broken=1.0), 2))
    for batch in batches:
        assert batch.broken and all(victim.name in line for line in batch.broken)  # a stand-in may be itself once more
        assert len(batch.labels) == 8


def test_a_box_that_float32_cannot_hold_is_left_out_of_training(data):
    width = data[0].width
    item = replace(
        data[0],
        boxes=np.array([[width - 1e-5, 10, width + 20, 40], [5.0, 5.0, 40.0, 40.0]]),
        labels=np.array([0, 1]),
        iscrowd=np.zeros(2, bool),
        difficult=np.zeros(2, bool),
        areas=np.ones(2),
        segmentations=[[[width - 1e-5, 10, width + 20, 10, width + 20, 40]], [[5.0, 5, 40, 5, 40, 40]]],
    )
    image = transform()(item, 0)
    assert image.labels.tolist() == [1] and len(image.boxes) == len(image.masks) == 1
