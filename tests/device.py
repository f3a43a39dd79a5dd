"""A device made of CPU tensors, for machines without one.

Tensors on "npy:0" wrap CPU tensors: every operation runs for real, backward and data-dependent ones too, and gives the
CPU's bits. What a device does otherwise is kept: an operation that mixes its tensors with host tensors (of one value
and more dimensions than none) raises, as on CUDA, and whatever makes the host wait is noted with the line that asked.

    with Device() as device:
        output = model(device.put(pixels))
    device.waits       # Counter: "nonzero at detectors/proposals.py" -> how often

What it does not have are CUDA's own rules: kernels, autocast, and numbers in an index assignment, which CUDA alone
copies from the host.
"""

import collections
import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("npy")
torch.npy.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]

DEVICE = torch.device("npy:0")
_ATEN = torch.ops.aten
_READS = {
    _ATEN._local_scalar_dense.default: "item",
    _ATEN.nonzero.default: "nonzero",
    _ATEN.equal.default: "equal",
    _ATEN.masked_select.default: "masked_select",
    _ATEN._unique2.default: "unique",
}
_INDEXING = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `host` is what it wraps."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.host = host
        return made

    def __repr__(self) -> str:
        return f"OnDevice({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, collections.Counter())


def host(tree: Any) -> Any:
    """Tensors of a tree as what they wrap."""
    return tree_map(lambda leaf: leaf.detach().host if isinstance(leaf, OnDevice) else leaf, tree)


class Device:
    """Inside it, "npy:0" is a device; `waits` counts what made the host wait for it."""

    def __init__(self) -> None:
        self.waits: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> "Device":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_Functions(self.waits))
        self._stack.enter_context(_Operations(self.waits))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What is asked for in here does not count."""
        before = self.waits.copy()
        yield
        self.waits.clear()
        self.waits.update(before)

    @staticmethod
    def put(tree: Any) -> Any:
        """Tensors of a tree, or a module's parameters and buffers in place, on the device."""
        if not isinstance(tree, nn.Module):
            return tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, tree)
        moved: dict[torch.Tensor, torch.Tensor] = {}  # what several modules share stays shared
        for module in tree.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter not in moved:
                    copy = OnDevice(parameter.detach().clone())
                    moved[parameter] = nn.Parameter(copy, parameter.requires_grad)
                module._parameters[name] = None if parameter is None else moved[parameter]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnDevice(buffer.clone())
        return tree


def _line() -> str:
    """The innermost line of the library, without its number, and of what it calls below it."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("mcl_hf/", "torchvision/", "timm/", "transformers/"):
            if f"/{package}" in frame.filename:
                return (
                    frame.filename.rpartition(f"/{package}")[2]
                    if package == "mcl_hf/"
                    else (package + frame.filename.rpartition(f"/{package}")[2])
                )
    return "elsewhere"


def _run(function: Any, args: Any, kwargs: dict[str, Any], waits: collections.Counter[str]) -> Any:
    def note(what: str) -> None:
        waits[f"{what} at {_line()}"] += 1

    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    theirs = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    unwrap = lambda tree: tree_map(lambda x: x.host if isinstance(x, OnDevice) else x, tree)  # noqa: E731
    if function is _ATEN._to_copy.default:
        source, target = args[0], wanted or args[0].device
        copied = function(unwrap(source), **{name: value for name, value in kwargs.items() if name != "device"})
        if isinstance(source, OnDevice) and target.type == "cpu":
            note("copy to the host")
        return OnDevice(copied) if target.type == DEVICE.type else copied
    if function is _ATEN.copy_.default:
        if isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
            note("copy_ across")
        function(*unwrap(args[:2]), *args[2:])
        return args[0]
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if not ours:
        made = function(*args, **kwargs)
        return Device.put(made) if wanted is not None and wanted.type == DEVICE.type else made
    if function in _READS:
        note(_READS[function])
    masked = function in _INDEXING and any(x is not None and x.dtype == torch.bool for x in args[1])
    # One value under a mask is filled in without a look; anything else asks how many there are.
    if masked and (function is _ATEN.index.Tensor or args[2].numel() > 1):
        note("boolean index")
    mixed = [tensor for tensor in theirs if tensor.dim() > 0]
    if mixed:
        indices = args[1] if function in _INDEXING and isinstance(args[0], OnDevice) else ()
        if not all(any(tensor is index for index in indices) for tensor in mixed):
            raise RuntimeError(f"{function} at {_line()} mixes devices: {[tuple(x.shape) for x in mixed]} on the host")
        note("index from the host")
    made = function(*unwrap(args), **unwrap(kwargs))
    if wanted is not None and wanted.type == "cpu":
        return made
    known = {id(tensor.host): tensor for tensor in ours}  # what was changed in place stays the tensor that it was
    wrapped = lambda x: known[id(x)] if id(x) in known else OnDevice(x)  # noqa: E731
    return tree_map(lambda x: wrapped(x) if isinstance(x, torch.Tensor) else x, made)


class _Operations(TorchDispatchMode):
    def __init__(self, waits: collections.Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, self.waits)


class _Functions(TorchFunctionMode):
    """What makes its tensor or its list below the dispatcher: on CUDA, each is a copy that the host waits for."""

    def __init__(self, waits: collections.Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        ours = bool(args) and isinstance(args[0], OnDevice)
        if function is torch.Tensor.new_tensor and ours:
            self.waits[f"new_tensor at {_line()}"] += 1
            return OnDevice(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        if function is torch.Tensor.tolist and ours:
            self.waits[f"tolist at {_line()}"] += 1
            return args[0].host.tolist()
        if function is torch.Tensor.numpy and ours:
            raise TypeError(f"numpy() of a tensor on {DEVICE} at {_line()}")
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            kwargs.pop("device")
            self.waits[f"tensor(device=) at {_line()}"] += 1
            return OnDevice(function(*args, **kwargs))
        return function(*args, **kwargs)
