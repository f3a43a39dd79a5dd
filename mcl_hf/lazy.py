"""Public names of a package that are loaded on first use, so that importing the package imports nothing else."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which raises an AttributeError for a name that it does not have.

    Args:
        package: its `__name__`.
        home: public name -> the module below the package that defines it.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{home[name]}", package), name)

    return load
