"""Batch-norm statistics of the weights as they are now, averaged over batches: before evaluation or export, since the
running averages that training leaves behind belong to weights that have moved on.

Source: detectron2's `TEST.PRECISE_BN` (fvcore's `update_bn_stats`).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

B = TypeVar("B")


def training_norms(model: nn.Module) -> list[Any]:
    """Batch norms whose statistics training moves; not those that are frozen (in eval mode)."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    ]


@torch.no_grad()
def update_statistics(model: nn.Module, forward: Callable[[B], object], batches: Iterable[B]) -> int:
    """Replace the running statistics of every trained batch norm by their mean over `batches`. All ranks.

    Args:
        model: in train mode; its weights stay.
        forward: runs the model on a batch.
        batches: the more the better; detectron2 takes 200.

    Returns:
        How many batch norms were updated: those that any batch has reached.
    """
    norms = training_norms(model)
    momenta = [norm.momentum for norm in norms]
    counts, reached = [0] * len(norms), [False] * len(norms)
    means = [torch.zeros_like(norm.running_mean) for norm in norms]
    variances = [torch.zeros_like(norm.running_var) for norm in norms]
    handles = [norm.register_forward_hook(partial(_note, reached, index)) for index, norm in enumerate(norms)]
    try:
        for norm in norms:
            norm.momentum = 1.0  # running statistics are those of the last batch
        for batch in batches:
            reached[:] = [False] * len(norms)
            forward(batch)
            for index, norm in enumerate(norms):
                if reached[index]:  # a mask head sees nothing where no image has an object
                    counts[index] += 1
                    means[index] += norm.running_mean
                    variances[index] += norm.running_var
    finally:
        for norm, momentum, handle in zip(norms, momenta, handles, strict=True):
            norm.momentum = momentum
            handle.remove()
    for norm, count, mean, variance in zip(norms, counts, means, variances, strict=True):
        if count:
            norm.running_mean.copy_(mean / count)
            norm.running_var.copy_(variance / count)
    return sum(count > 0 for count in counts)


def _note(reached: list[bool], index: int, *_: object) -> None:
    """A forward hook: this module has run."""
    reached[index] = True
