"""Pre-training: arguments -> `pretrain` -> step -> the finished model."""

from ..lazy import names_of

_HOME = {"PretrainArguments": "arguments", "load_arguments": "arguments"}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
