"""Public names of a package that are loaded on first use, so that importing the package imports nothing else."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which loads a public name from the module below `package` that `home` names for it."""

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{home[name]}", package), name)

    return load
