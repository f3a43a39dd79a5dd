"""Public names of a package that are loaded on first use, so that importing the package imports nothing else."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load_name(package: str, home: Mapping[str, str], name: str) -> Any:
    """What a package's `__getattr__` returns.

    Args:
        package: its `__name__`.
        home: public name -> the module below the package that defines it.
        name: that is asked for.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f".{home[name]}", package), name)
