import numpy as np
import pytest

from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.finetuning.auto_rules import choose, freezing_line


def rules(count, random_start=False, width=640, height=480, **start):
    return choose(count, np.full(count, width), np.full(count, height), random_start, **start)


def test_small_data_is_trained_long_frozen_and_stopped_early():
    small, large = rules(300), rules(50_000)
    assert small["freeze_at"] == 2 and small["frozen_bn"] and small["early_stopping_patience"] > 0
    assert large["freeze_at"] == 0 and not large["frozen_bn"] and large["early_stopping_patience"] == 0
    assert small["max_steps"] * small["global_batch_size"] / 300 > large["max_steps"] * 16 / 50_000


def test_a_random_start_freezes_nothing_and_trains_three_times_as_long():
    warm, cold = rules(300), rules(300, random_start=True)
    assert cold["freeze_at"] == 0 and not cold["frozen_bn"] and cold["max_steps"] == 3 * warm["max_steps"]


@pytest.mark.parametrize(("width", "height", "side"), [(4000, 3000, 800), (640, 480, 480), (200, 150, 320)])
def test_image_size_follows_the_data_within_bounds(width, height, side):
    chosen = rules(1000, width=width, height=height)
    assert chosen["min_size_test"] == max(chosen["min_size_train"]) == side
    assert chosen["max_size_test"] >= 1.6 * side


@pytest.mark.parametrize("count", [2, 3, 40, 999, 1000])
def test_a_step_never_takes_more_than_half_of_the_data(count):
    assert 1 <= rules(count)["global_batch_size"] <= max(2, count // 2)


def test_what_was_given_stays():
    arguments = FinetuneArguments(auto=True, freeze_at=0, epochs=3, batch_size=2, base_learning_rate=1e-3)
    filled = arguments.resolved(np.full(300, 640), np.full(300, 480))
    assert (filled.freeze_at, filled.epochs, filled.batch_size, filled.base_learning_rate) == (0, 3, 2, 1e-3)
    assert filled.max_steps is None and filled.global_batch_size is None and filled.frozen_bn is True


def test_a_start_of_small_images_is_not_frozen_and_what_differs_between_starts_is_said():
    for side, frozen in ((None, True), (224, True), (160, False), (64, False)):
        assert rules(300, start_side=side)["frozen_bn"] is frozen
        assert ("nothing is frozen" in freezing_line(300, False, side)) is not frozen
    assert "64 px" in freezing_line(300, False, 64) and "start is random" in freezing_line(300, True, None)
    assert "nothing of a random start" in freezing_line(300, False, 224)
    assert freezing_line(50_000, False, 224) == ""  # nothing is frozen of any start


def test_the_detector_is_one_that_the_annotations_allow():
    sides = np.full(300, 640), np.full(300, 480)
    assert FinetuneArguments(auto=True).resolved(*sides, has_masks=False).detector == "faster_rcnn"
    assert FinetuneArguments(auto=True).resolved(*sides, has_masks=True).detector == "mask_rcnn"
    assert FinetuneArguments(auto=True, detector="retinanet").resolved(*sides, has_masks=True).detector == "retinanet"
    assert FinetuneArguments().detector == "mask_rcnn"
