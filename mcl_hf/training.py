"""Public names of release 0.1.0's `mcl_hf.training`, which is `mcl_hf.engine` and `mcl_hf.pretraining` now."""

from .lazy import names_of

_HOME = {
    "Callback": "engine.run",
    "LARS": "engine.optim",
    "NonFiniteLossError": "engine.health",
    "PretrainArguments": "pretraining.arguments",
    "Run": "engine.run",
    "RunResult": "engine.lifecycle",
    "build_optimizer": "engine.optim",
    "load_arguments": "pretraining.arguments",
    "parameter_groups": "engine.optim",
    "pretrain": "callbacks",
}

__all__ = sorted(_HOME)
__getattr__ = names_of("mcl_hf", _HOME)
