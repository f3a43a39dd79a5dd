"""Floating-point operations of forward and backward passes: torch's counter, right for grouped convolutions, too.

Flow: starts (a visit), setting (a detector's step) -> **flops**.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counting_flops() -> FlopCounterMode:
    """A context whose `get_total_flops()` are those of convolutions and products within, 2 a multiply-add.

    torch (2.14) counts the weights' gradient of a convolution in groups as that of a dense one: a depthwise one of 32
    channels for 11 times what it takes.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _of_a_backward_pass})


def _of_a_backward_pass(
    gradient: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """Each of the gradients of inputs and weights takes what the forward pass takes; shapes `(N, C, H, W)` and
    `(C_out, C_in / groups, h, w)`."""
    places = (inputs if transposed else gradient)[2:]
    return sum(wanted[:2]) * 2 * gradient[0] * math.prod(places) * math.prod(weight)
