"""An exponential moving average of a detector's weights, which is evaluated and kept in place of the weights.

Averages are slots of the optimizer's state (`ema` of each trained parameter; statistics of a batch norm beside those of
its scale), so checkpoints hold them and resume exactly without a format of their own.

Source: RT-DETR and D-FINE, whose decay 0.9999 rises from 0 over 2,000 and 1,000 steps.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.run import Run

DECAY, RISE = 0.9999, 2000
_SLOT = "ema"


@torch.no_grad()
def update(run: Run, step: int) -> None:
    """Move the averages towards the weights, after the optimizer's 0-based step; the first time they are copies."""
    kind = TRANSFORMERS_DETECTORS.get(run.arguments.detector)
    decay = DECAY * (1 - math.exp(-(step + 1) / (RISE if kind is None else kind.ema_rise)))
    averages, values = [], []
    for state, slot, value in _tracked(run):
        if slot in state:
            averages.append(state[slot])
            values.append(value)
        else:
            state[slot] = value.detach().clone()
    if averages:
        torch._foreach_lerp_(averages, values, 1 - decay)


@torch.no_grad()
def take_averages(run: Run) -> None:
    """Let the network have the averages for good."""
    for state, slot, value in _tracked(run):
        if slot in state:
            value.copy_(state[slot])


@contextlib.contextmanager
def averaged(run: Run) -> Iterator[None]:
    """The network with the averages inside of the block, and with its own weights again after it."""
    if not run.arguments.ema:
        yield
        return
    with put_back(value for *_, value in _tracked(run)):
        take_averages(run)
        yield


@contextlib.contextmanager
def put_back(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors that are as they were again after the block."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)


def _tracked(run: Run) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(state of the optimizer, slot, tensor of the network) of all that is averaged. Parameters that no gradient has
    reached yet have no state, and keep none: optimizers take an empty one for the sign of a first step."""
    states = run.optimizer.optimizer.state
    for group in run.optimizer.optimizer.param_groups:
        for parameter in group["params"]:
            if states.get(parameter):
                yield states[parameter], _SLOT, parameter
    for module in run.network.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and states.get(module.weight):
            for name in ("running_mean", "running_var"):
                yield states[module.weight], f"{_SLOT}_{name}", getattr(module, name)
