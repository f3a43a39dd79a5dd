"""What people give to commands and Python calls, as plain values."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def plain_value(value: Any) -> Any:
    """A value as a command would have it: numbers, arrays and tensors of numpy and torch as Python's own, paths as
    texts, tuples and whatever gives one item after the other as lists, also within lists and mappings."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range | Iterator):
        return [plain_value(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def from_home(path: str) -> str:
    """A path whose `~` is the home folder: shells leave it as it is in `--out=~/a.png`, and so do YAML and Python."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path
