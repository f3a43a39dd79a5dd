"""Batch-norm statistics made anew for an evaluation while fine-tuning, and put back after it.

Flow: fine-tuning -> **restored_statistics** around an evaluation; `models/precise_bn` makes the statistics.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def statistics_restored(model: nn.Module) -> Iterator[None]:
    """Put the statistics of all batch norms back at the end, so that an evaluation leaves no trace in training."""
    kept = {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])
