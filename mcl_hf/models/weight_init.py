"""Initialisers shared by FPN, region head and predictors.

`torch.nn.init` on every tensor, buffers too: transformers swaps it for functions that leave a loaded tensor as it is.
"""

from torch import nn


def init_norm(norm: nn.Module) -> None:
    """Batch norm at its start: scale 1, shift 0, running mean 0, running variance 1."""
    if norm.weight is not None:
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    if norm.running_mean is not None:
        nn.init.zeros_(norm.running_mean)
        nn.init.ones_(norm.running_var)
        nn.init.zeros_(norm.num_batches_tracked)


def init_linear(linear: nn.Linear, std: float | None = None) -> None:
    """Weights normal with the given standard deviation, or kaiming normal fan-in when None; bias 0."""
    if std is None:
        nn.init.kaiming_normal_(linear.weight, mode="fan_in", nonlinearity="relu")
    else:
        nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
