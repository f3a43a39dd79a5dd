"""Where and how this process computes: device, precision, denormal numbers, TensorFloat-32, memory, copies.

Where it sits: a run sets it once, before the model is built; `evaluate` and `predict` take parts. These switches belong
to the process, not to a model, and stay as they were set when the run ends.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from ..errors import InputError
from .options import Precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of mallopt, from glibc's malloc.h
_LARGEST_INT, _LARGEST_THRESHOLD = 2**31 - 1, 2**25  # bytes; the second is what glibc allows


def set_arithmetic(device: torch.device, tf32: bool, fixed_shapes: bool, spare_memory: bool = False) -> None:
    """Set the process up for training on `device`.

    On the CPU, denormal numbers become zero: they slow a step down several times. And freed memory is kept
    (`keep_freed_memory`). On CUDA, `tf32` lets products and convolutions in fp32 round their inputs to TensorFloat-32
    (8 bits of exponent, 10 of mantissa), several times as fast from Ampere on; with `fixed_shapes`, cuDNN tries its
    algorithms once for each shape, which pays where shapes are few, as in pre-training: a detector's images come in
    hundreds of sizes.
    """
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        keep_freed_memory(os.environ, spare_memory)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = fixed_shapes


def keep_freed_memory(environment: Mapping[str, str], spare_memory: bool = False) -> bool:
    """Let the C library keep the memory of freed tensors for the next ones; whether this is a glibc, and was told.

    glibc gives each large block back to the system and asks for a new one, whose pages are zeroed at their first touch,
    thousands of them a step: a tenth to a fifth of its time (docs/speed.md). Where `environment` sets glibc's allocator
    (`MALLOC_...`, `GLIBC_TUNABLES`), all is left as it is. With `spare_memory`, blocks above 32 MiB still go back: kept
    ones do not fit each other exactly, which costs large networks a tenth to a third more memory in fp32.
    """
    told = any(name.startswith("MALLOC_") for name in environment) or "malloc" in environment.get("GLIBC_TUNABLES", "")
    if told or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    large = {_M_MMAP_THRESHOLD: _LARGEST_THRESHOLD} if spare_memory else {_M_MMAP_MAX: 0}
    settings = {**large, _M_TRIM_THRESHOLD: _LARGEST_INT}
    return all(library.mallopt(name, value) == 1 for name, value in settings.items())


def chosen_device(device: str) -> torch.device:
    """What `--device auto | cpu` means here: the accelerator where there is one, else the CPU. Another word is an
    InputError."""
    if device not in ("auto", "cpu"):
        raise InputError(f"device must be one of auto, cpu, got {device!r}; CUDA_VISIBLE_DEVICES chooses among GPUs")
    there = device != "cpu" and torch.accelerator.is_available()  # a torch built for GPUs names one where there is none
    return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")


def chosen_precision(precision: Precision, device: torch.device) -> Precision:
    """What `--precision` means on a device: `auto` is bf16 where the device computes in it, else fp16 on GPUs that have
    tensor cores for it (Volta, Turing), else fp32. Another word is an InputError."""
    known = get_args(Precision)
    if precision not in known:
        raise InputError(f"precision must be one of {', '.join(known)}, got {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "bf16" if computes_bf16(device) else "fp32"
    if device.type != "cuda":  # of no other accelerator is known here what it is good at
        return "fp32"
    if computes_bf16(device):
        return "bf16"
    return "fp16" if torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 by itself. For a CPU, whether oneDNN, which torch's convolutions and products
    run on, has kernels for it; True where torch or the device does not say."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN
        return True


def emulation_warning(device: torch.device, precision: str) -> list[str]:
    """A line for a run in bf16 on a device that has no instructions for it; else none."""
    if precision != "bf16" or computes_bf16(device):
        return []
    name = "CPU" if device.type == "cpu" else "GPU"
    return [
        f"warning: this {name} has no bf16 instructions, and bf16 without them is many times slower than fp32: give "
        f"--precision {chosen_precision('auto', device)}"
    ]


def peak_memory_gib(device: torch.device) -> float:
    """The most memory so far, GiB: of tensors on the GPU, or of the whole process (imports included, data workers not)
    on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, ready for whatever the current stream does next.

    The host is about one step ahead of a GPU, so a copy out of pinned memory that is queued on a stream of its own runs
    while the device still computes the step before.
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
