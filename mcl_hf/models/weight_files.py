"""Files of weights and what describes them, read without running anything; what is none is called what it is."""

import argparse
import errno
import json
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

# Types that hold values and run nothing: training programs put them beside the weights (options, a learning rate).
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")},
    np._core.multiarray.scalar,  # type: ignore[attr-defined]  # where numpy 2 keeps it; the line below is numpy 1's
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
]
# How other files begin that are found under the name of a checkpoint.
_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"version https://git-lfs"), "it is a Git LFS pointer: fetch the file itself with git lfs pull"),
    (
        re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!|html|head|\?xml)", re.I),
        "it is an HTML page: a refused download, or a login",
    ),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf"), "it is a packed archive: unpack it first"),
    (re.compile(rb"\0{16}"), "it begins with zeros: the download or the copy was cut off"),
    (re.compile(rb"[\t\r\n -~]{16}|[\t\r\n -~]*\Z"), "it is a text"),
)


def what_it_is(path: Path) -> str | None:
    """What is seen of a file that is no checkpoint, None where it may be one."""
    with path.open("rb") as file:
        beginning = file.read(64)
    if not beginning:
        return "it is empty"
    return next((words for pattern, words in _BEGINNINGS if pattern.match(beginning)), None)


def read_json(path: Path) -> Any:
    """Content of a JSON file. OSError: it cannot be read; ValueError: it is no JSON, in one line."""
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises as `read_json` does, and ValueError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    return content


def check_safetensors(path: Path) -> None:
    """Refuse a .safetensors file whose header cannot be read, or that is shorter or longer than that says, by a
    ValueError in one line."""
    with _called_what_it_is(path), safe_open(path, framework="pt"):
        pass


def weights_in(folder: Path) -> list[Path]:
    """Files that hold the weights of a model's folder: the one that transformers opens, or all where there is none; not
    those of an optimizer, nor what other systems hide beside each file (`._model.safetensors` of macOS)."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith((".", "training_state")))


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file. FileNotFoundError: no such file; ValueError: it is none, or damaged; one line."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    with _called_what_it_is(path):
        return load_file(path)


@contextmanager
def _called_what_it_is(path: Path) -> Iterator[None]:
    """Let a .safetensors file that cannot be read be a ValueError that says what is seen."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
        seen = what_it_is(path) or f"it is damaged, or was cut off ({said})"
        raise ValueError(f"{path} is no checkpoint: {seen}") from error


def read_pickled(path: str | Path) -> Any:
    """Content of a file that `torch.save` wrote: tensors and plain values. FileNotFoundError: no such file; ValueError:
    it is none, or would have to run code to be read; one line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    seen = what_it_is(path)
    if seen is not None:
        raise ValueError(f"{path} is no checkpoint: {seen}")
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch's own reader of pickles raises whatever odd bytes lead it to
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (needed or path.open("rb").read(1) == b"\x80"):
            raise ValueError(
                f"{path} cannot be read without running code from it ({needed[1] if needed else 'a bare pickle'}); "
                "save its tensors alone with torch.save(checkpoint['state_dict'], ...) on a machine that trusts it"
            ) from error
        raise ValueError(f"{path} is no checkpoint: it was cut off, is damaged, or is no file of torch.save") from error


def not_finite(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite numbers."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
