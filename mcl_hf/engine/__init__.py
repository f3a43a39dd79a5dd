"""A run of any task: options -> launch -> folder -> loop -> checkpoints -> resume. It knows no network and no data."""

from ..lazy import names_of

_HOME = {
    "Callback": "run",
    "LARS": "optim",
    "NonFiniteLossError": "health",
    "Run": "run",
    "RunResult": "lifecycle",
    "build_optimizer": "optim",
    "parameter_groups": "optim",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
