"""Pre-training: arguments -> `pretrain` -> loop -> checkpoints and the finished model."""

from typing import Any

from ..lazy import load_name

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
    return load_name(__name__, _HOME, name)
