"""Public names of release 0.1.0's `mcl_hf.training`, which is `mcl_hf.engine` and `mcl_hf.pretraining` now."""

from . import engine, pretraining
from .lazy import names_of

_HOME = {name: f"engine.{file}" for name, file in engine._HOME.items()}
_HOME |= {name: f"pretraining.{file}" for name, file in pretraining._HOME.items()}
_HOME["pretrain"] = "callbacks"

__all__ = sorted(_HOME)
__getattr__ = names_of("mcl_hf", _HOME)
