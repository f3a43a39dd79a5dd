"""Batch-norm statistics that matter."""

import torch
from torch import nn


def randomise_norms(model: nn.Module, trained: tuple[str, ...] | None = None) -> None:
    """Statistics as training leaves them, in all norms or in those whose names start so."""
    generator = torch.Generator().manual_seed(1)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and (trained is None or name.startswith(trained)):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            module.num_batches_tracked.fill_(7)
