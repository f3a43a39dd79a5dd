"""Counts where the host would wait for the device, on a machine without one.

Tensors on torch's meta device have shapes and no values. Code that runs on them never asks for a value; code that does
is caught here, with the line that asked. On a GPU the same line would stall the host until the device has caught up.
"""

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class HostSyncs(TorchDispatchMode):
    """Inside it, `found` collects "operation at file:line" whenever the host asks the meta device for a value.

    The host gets zeros, so that a run goes on after it was caught.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return function(*args, **kwargs)
        if function is torch.ops.aten._local_scalar_dense.default:
            self._record(function)
            return torch.zeros((), dtype=args[0].dtype).item()
        if function is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or DEVICE) != DEVICE:
            self._record(function)
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        try:
            return function(*args, **kwargs)
        except (NotImplementedError, RuntimeError):  # nonzero, masked selection, ...: shapes that depend on values
            self._record(function)
            raise

    def _record(self, function: Any) -> None:
        lines = [
            f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack() if "mcl_hf" in frame.filename
        ]
        self.found.append(f"{function} at {lines[-1] if lines else 'unknown'}")
