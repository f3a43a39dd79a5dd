"""Learning rate and target momentum as pure functions of the step.

Where it sits: a task's step asks for the values it needs at its start; nothing is stored, so a resumed run needs
only its step.

Source: cosine learning rate with linear warm-up and the momentum hook of the published code (GuoQiushan/MCL @1912aa9).
Warm-up multiplies the cosine that is *already decaying*, so the peak is a little below the base value.
"""

import math
from collections.abc import Sequence

WARMUP_RATIO = 1e-4  # published: the first step runs at one ten-thousandth of the cosine's value


def learning_rate(
    step: int,
    max_steps: int,
    base_lr: float,
    min_lr: float = 1e-4,
    warmup_steps: int = 0,
    warmup_ratio: float = WARMUP_RATIO,
) -> float:
    """Learning rate in effect during 0-based `step` of `max_steps`.

    `c(k) = min_lr + (base_lr - min_lr) (1 + cos(pi k / K)) / 2`; for `k < warmup_steps` it is multiplied by
    `1 - (1 - k / warmup_steps) (1 - warmup_ratio)`.
    """
    cosine = min_lr + 0.5 * (base_lr - min_lr) * (1.0 + math.cos(math.pi * step / max_steps))
    if step < warmup_steps:
        cosine *= 1.0 - (1.0 - step / warmup_steps) * (1.0 - warmup_ratio)
    return cosine


def target_momentum(step: int, max_steps: int, base_momentum: float = 0.99) -> float:
    """Momentum of the target's moving average at 0-based `step`: from `base_momentum` to 1 along half a cosine."""
    return 1.0 - (1.0 - base_momentum) * (math.cos(math.pi * step / max_steps) + 1.0) / 2.0


def step_learning_rate(
    step: int,
    base_lr: float,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_steps: int = 0,
    warmup_factor: float = 1e-3,
) -> float:
    """Learning rate in effect during 0-based `step` of a detector's schedule, detectron2's `WarmupMultiStepLR`.

    It rises along a line from `warmup_factor * base_lr`, and is multiplied by `gamma` from each milestone on.
    """
    lr = base_lr * gamma ** sum(1 for milestone in milestones if step >= milestone)
    if step < warmup_steps:
        lr *= warmup_factor + (1.0 - warmup_factor) * step / warmup_steps
    return lr
