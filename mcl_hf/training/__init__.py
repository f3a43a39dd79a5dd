"""Pre-training: arguments -> `pretrain` -> loop -> checkpoints and the finished model."""

import importlib
from typing import Any

_HOME = {
    "Callback": "run",
    "LARS": "optim",
    "NonFiniteLossError": "health",
    "PretrainArguments": "arguments",
    "Run": "run",
    "RunResult": "course",
    "build_optimizer": "optim",
    "load_arguments": "arguments",
    "parameter_groups": "optim",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
