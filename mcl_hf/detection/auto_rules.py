"""`--recipe auto`: schedule, learning rate, image size, freezing and early stopping from the size of the data.

Flow: annotated data + options -> **auto_rules** -> options without gaps -> fine-tuning. An option that was given stays
as it is. The rules, for hundreds to tens of thousands of images:

    images of training   epochs   learning rate (16 images)   frozen                         evaluations   patience
    up to 500            60       0.01                        stem, stage 1, batch norm      every 6th     4
    up to 2,000          36       0.01                        stem, stage 1, batch norm      every 3rd     4
    up to 10,000         24       0.02                        nothing                        every 2nd     4
    above                12       0.02                        nothing                        every 1st     none

Evaluations are so many epochs apart; after as many of them as the patience says without a better AP, the run ends.
Nothing is frozen where the backbone starts at random, and such a run takes three times as many epochs (He et al.,
arXiv 1811.08883). A step has 16 images, 8 where there are fewer than 1,000, never more than half of the data. Images
are trained at the shorter side that half of them reach, 320 to 800 px, and at down to 0.8 of it; the longer side may be
5/3 of that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    most_images: float
    epochs: int
    base_learning_rate: float
    small: bool
    evaluate_every: int
    patience: int


RULES = (
    Rule(500, 60, 0.01, True, 6, 4),
    Rule(2_000, 36, 0.01, True, 3, 4),
    Rule(10_000, 24, 0.02, False, 2, 4),
    Rule(float("inf"), 12, 0.02, False, 1, 0),
)
RANDOM_START_FACTOR = 3
SMALLEST_SIDE, LARGEST_SIDE = 320, 800


def choose_sizes(smallest: int, largest: int, step: int = 32) -> list[int]:
    """Shorter sides from `smallest` to `largest` px, both included: detectron2's 640, 672, ..., 800."""
    return [*range(smallest, largest, step), largest]


def choose(num_images: int, widths: np.ndarray, heights: np.ndarray, random_start: bool) -> dict[str, Any]:
    """Options for a data set.

    Args:
        num_images: of training.
        widths: of each image, px.
        heights: of each image, px.
        random_start: whether nothing of the network was trained before.

    Returns:
        Values by the option's name.
    """
    rule = next(rule for rule in RULES if num_images <= rule.most_images)
    batch = 16 if num_images >= 1000 else 8
    batch = max(2, min(batch, num_images // 2))
    epochs = rule.epochs * (RANDOM_START_FACTOR if random_start else 1)
    steps = max(1, epochs * num_images // batch)
    side = int(np.clip(np.median(np.minimum(widths, heights)) // 32 * 32, SMALLEST_SIDE, LARGEST_SIDE))
    smallest = int(0.8 * side) // 32 * 32
    frozen = rule.small and not random_start
    return {
        "global_batch_size": batch,
        "max_steps": steps,
        "base_learning_rate": rule.base_learning_rate,
        "min_size_train": [*range(smallest, side, 32), side],
        "max_size_train": side * 5 // 3,
        "min_size_test": side,
        "max_size_test": side * 5 // 3,
        "freeze_at": 2 if frozen else 0,
        "frozen_bn": frozen,
        "eval_every_steps": max(1, rule.evaluate_every * num_images // batch),
        "early_stopping_patience": rule.patience,
    }
