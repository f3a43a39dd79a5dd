"""Pre-training: arguments -> `pretrain` -> step -> the finished model."""

from typing import Any

from ..lazy import load_name

_HOME = {
    "PretrainArguments": "arguments",
    "load_arguments": "arguments",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, _HOME, name)
