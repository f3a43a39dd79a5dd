"""The part of an optimizer step that is every task's: passes that accumulate, clipping, the guarded update.

Where it sits: a task's step sets the learning rate, calls this, and does what is its own afterwards. Nothing here waits
for the device.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .run import Run
from .timed_batches import DataError

LARGEST_SCALE = 2.0**14
"""Of fp16's loss, that of the published code: torch's scaler, left to itself, goes on doubling it."""


def optimizer_step(
    run: Run,
    batches: Iterator[Any],
    step: int,
    broken: list[str],
    forward_backward: Callable[[Any, int, Callable[[bool], contextlib.AbstractContextManager[Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """Take `gradient_accumulation_steps` batches through the network and change the weights once.

    Args:
        run: with the learning rates of this step set.
        batches: of the run's loader.
        step: 0-based.
        broken: names of unreadable images are appended.
        forward_backward: takes a batch, its 0-based position over all steps, and a function; runs and back-propagates
            the batch, each backward pass inside `function(last)`, where `last` says whether it is the batch's last
            one; returns what the log shows.

    Returns:
        What the last batch gave, and `grad_norm`, the total L2 norm over all ranks before clipping.

    Raises:
        DataError: there is no further batch; weights and buffers are as they were.
    """
    parts = run.arguments.gradient_accumulation_steps
    outputs: dict[str, Any] = {}
    before = [buffer.clone() for buffer in run.network.buffers()] if parts > 1 else []
    for part in range(parts):
        try:
            batch = next(batches)
        except DataError:
            if part:  # as if the passes of this step so far had not been
                for buffer, value in zip(run.network.buffers(), before, strict=True):
                    buffer.copy_(value)
            raise
        broken += batch.broken
        run.guard.remember(step, batch.sample_ids)

        def gradients_meet(last: bool, part: int = part) -> contextlib.AbstractContextManager[Any]:
            """Gradients are averaged over the ranks in the last backward pass of a step only."""
            meet = last and part == parts - 1
            return contextlib.nullcontext() if meet else run.accelerator.no_sync(run.model)

        outputs = forward_backward(batch, step * parts + part, gradients_meet)

    grad_norm = run.accelerator.clip_grad_norm_(run.model.parameters(), run.arguments.clip_grad_norm)
    mask = run.guard.update_mask(grad_norm, step)
    if run.accelerator.scaler is None:  # with a scaler, its own flag does the same
        run.optimizer.optimizer.found_inf = mask
    run.optimizer.step()
    if run.accelerator.scaler is not None:
        run.guard.count_overflow(run.optimizer.step_was_skipped)
        run.accelerator.scaler._scale.clamp_(max=LARGEST_SCALE)
    run.optimizer.zero_grad()
    return {**outputs, "grad_norm": grad_norm}
