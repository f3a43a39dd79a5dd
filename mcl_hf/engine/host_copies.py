"""Copies from the host to the device, beside the computation.

Where it sits: `step.py` sends a batch's uint8 views and ids through it. The host is about one step ahead of a GPU, so a
copy that is queued on a stream of its own runs while the device still computes the step before.
"""

from functools import cache

import torch
from torch import Tensor


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, ready for whatever the current stream does next.

    Args:
        tensor: On the host; in pinned memory if the copy is to run beside computation.
        device: Where it is wanted.
    """
    if device.type != "cuda":
        return tensor.to(device)
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        copy = tensor.to(device, non_blocking=True)
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    copy.record_stream(current)  # its memory must not be given out again before the computation has read it
    return copy


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
