"""`--recipe auto`: detector, schedule, learning rate, image size, freezing and early stopping from the data.

Flow: annotated data + options -> **auto_rules** -> options without gaps -> fine-tuning. An option that was given stays
as it is. The rules, `RULES`, are for hundreds to tens of thousands of images.

Nothing is frozen where the backbone starts at random or was pre-trained on images below 224 px, whose first stages know
no objects of the size that detectors see. A random start takes three times as many epochs (He et al., arXiv
1811.08883). The detector is Mask R-CNN where the annotations have masks, else Faster R-CNN: they take all that was pre-
trained, pyramid and head too, and learn in those epochs. Those of transformers take the backbone alone and were
published with several times as many; they are taken where they are named, with their own rate and nothing frozen. A
step has 16 images, 8 where there are fewer than 1,000, never more than half of the data. Images are trained at the
shorter side that half of them reach, 320 to 800 px, and at down to 0.8 of it; the longer side may be 5/3 of that.
"""

from typing import Any, NamedTuple

import numpy as np


class Rule(NamedTuple):
    """What is done with up to `most_images` images of training."""

    most_images: float
    epochs: int
    base_learning_rate: float  # for 16 images a step
    small: bool  # stem, stage 1 and batch norm are frozen
    evaluate_every: int  # epochs
    patience: int  # evaluations without a better AP, after which the run ends; 0: it does not


RULES = (
    Rule(500, 60, 0.01, True, 6, 4),
    Rule(2_000, 36, 0.01, True, 3, 4),
    Rule(10_000, 24, 0.02, False, 2, 4),
    Rule(float("inf"), 12, 0.02, False, 1, 0),
)
RANDOM_START_FACTOR = 3
SMALLEST_SIDE, LARGEST_SIDE = 320, 800
LEAST_FROZEN_SIDE = 224
"""Px of the images that a backbone was pre-trained on, below which nothing of it is frozen."""


def choose_sizes(smallest: int, largest: int) -> list[int]:
    """Shorter sides from `smallest` to `largest` px, both included: detectron2's 640, 672, ..., 800."""
    return [*range(smallest, largest, 32), largest]


def choose(
    num_images: int,
    widths: np.ndarray,
    heights: np.ndarray,
    random_start: bool,
    has_masks: bool = True,
    start_side: int | None = None,
) -> dict[str, Any]:
    """Options for a data set, values by name.

    Args:
        num_images, widths, heights: of training; px.
        random_start: whether nothing of the network was trained before.
        has_masks: whether the annotations have masks.
        start_side: of the images that the backbone was pre-trained on, px; None: not known.
    """
    rule = next(rule for rule in RULES if num_images <= rule.most_images)
    batch = max(2, min(16 if num_images >= 1000 else 8, num_images // 2))
    epochs = rule.epochs * (RANDOM_START_FACTOR if random_start else 1)
    side = int(np.clip(np.median(np.minimum(widths, heights)) // 32 * 32, SMALLEST_SIDE, LARGEST_SIDE))
    frozen = rule.small and not random_start and not _is_small(start_side)
    return {
        "detector": "mask_rcnn" if has_masks else "faster_rcnn",
        "global_batch_size": batch,
        "max_steps": max(1, epochs * num_images // batch),
        "base_learning_rate": rule.base_learning_rate,
        "min_size_train": choose_sizes(int(0.8 * side) // 32 * 32, side),
        "max_size_train": side * 5 // 3,
        "min_size_test": side,
        "max_size_test": side * 5 // 3,
        "freeze_at": 2 if frozen else 0,
        "frozen_bn": frozen,
        "eval_every_steps": max(1, rule.evaluate_every * num_images // batch),
        "early_stopping_patience": rule.patience,
    }


def freezing_line(num_images: int, random_start: bool, start_side: int | None) -> str:
    """What the rules say of freezing for this start, and what they would for another, so that two runs on the same data
    can be told apart; empty where no start would be frozen."""
    if not next(rule for rule in RULES if num_images <= rule.most_images).small:
        return ""
    if random_start:
        why = "nothing is frozen, as the start is random; stem, stage 1 and batch norm of a pre-trained one would be"
    elif _is_small(start_side):
        why = (
            f"nothing is frozen, as the start was pre-trained on images of {start_side} px; stem, stage 1 and batch "
            f"norm of one of {LEAST_FROZEN_SIDE} px would be"
        )
    else:
        why = (
            f"stem, stage 1 and batch norm are frozen, as there are {num_images} images and the start is pre-trained; "
            f"nothing of a random start, or of one of images below {LEAST_FROZEN_SIDE} px, would be"
        )
    return f"auto: {why} (--freeze-at, --frozen-bn)"


def _is_small(start_side: int | None) -> bool:
    return start_side is not None and start_side < LEAST_FROZEN_SIDE
