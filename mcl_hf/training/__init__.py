"""Pre-training: arguments -> `pretrain` -> loop -> checkpoints and the finished model."""

from .arguments import PretrainArguments, load_arguments
from .course import RunResult
from .health import NonFiniteLossError
from .optim import LARS, build_optimizer, parameter_groups
from .pretrain import pretrain
from .run import Callback, Run

__all__ = [
    "LARS",
    "Callback",
    "NonFiniteLossError",
    "PretrainArguments",
    "Run",
    "RunResult",
    "build_optimizer",
    "load_arguments",
    "parameter_groups",
    "pretrain",
]
