"""The most memory that training has taken so far.

Where it sits: the loop logs it; `rehearsal.py` plans with it.
"""

import resource
import sys

import torch


def peak_memory_gib(device: torch.device) -> float:
    """GiB: of tensors on the GPU, or of the whole process (imports included, data workers not) on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
