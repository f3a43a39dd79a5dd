"""Which columns of a table mean what: the images, and the ids that labels and groups become.

Flow: order -> local_tables + **columns** -> sources -> decode -> views -> loader.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, Features

_SHOWN_OF_A_TEXT = 60


def find_image_column(features: "Features", data: str, asked: str | None) -> str:
    """The column that holds images: `asked`, or the only one that can. These are `datasets`' Image, a struct of bytes
    and path, or plain bytes; texts are taken for paths in a column that is called `image` or asked for by name."""
    from datasets import Image, Value

    ready, binary, texts = [], [], []
    for name, kind in features.items():
        if isinstance(kind, Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"}):
            ready.append(name)
        elif isinstance(kind, Value) and kind.dtype in ("binary", "large_binary"):
            binary.append(name)
        elif is_text(features, name):
            texts.append(name)
    if asked is not None:
        require_columns(features, data, image_column=asked)
        if asked not in ready + binary + texts:
            raise InputError(f"image_column '{asked}' of {data} holds {features[asked]}, not images, bytes or paths")
        return asked
    candidates = ready or binary or [name for name in texts if name == "image"]
    if len(candidates) == 1 or "image" in candidates:
        return "image" if "image" in candidates else candidates[0]
    if candidates:
        raise InputError(f"{data}: columns {', '.join(candidates)} could all be the images; give one as image_column")
    raise InputError(f"{data}: no column holds images; its columns are {', '.join(features)}. Give one as image_column")


def require_paths(features: "Features", data: str, column: str, read_first: Callable[[], str | None]) -> None:
    """Raise `InputError` where a column of images holds texts that are no paths of files: a caption or an address on
    the web is none."""
    if not is_text(features, column):
        return
    first = read_first()
    try:
        is_file = first is not None and Path(first).is_file()
    except (OSError, ValueError):  # a caption longer than a path may be
        is_file = False
    if not is_file:
        shown = "no text at all" if first is None else f"'{first[:_SHOWN_OF_A_TEXT]}'"
        raise InputError(
            f"image_column '{column}' of {data} holds texts that are no paths of files ({shown} is the first): it is "
            "not the column of the images"
        )


def require_columns(features: "Features", data: str, **asked: str | None) -> None:
    """Raise `InputError`, naming the columns that exist, where one that an option asked for does not."""
    for option, column in asked.items():
        if column is not None and column not in features:
            raise InputError(f"{option} '{column}' is not in {data}: its columns are {', '.join(features)}")


def is_text(features: "Features", column: str) -> bool:
    """Whether `column` holds texts."""
    return getattr(features[column], "dtype", None) in ("string", "large_string")


def class_conflicts(files: Iterable[tuple[object, Any]]) -> dict[str, str]:
    """Columns whose classes the files of a table number differently, which no reader of tables sees, with a line each;
    `files` are a file, for the line, and the features of its columns."""
    first: dict[str, tuple[object, list[str]]] = {}
    conflicts: dict[str, str] = {}
    for file, features in files:
        for column, names in _class_names(features).items():
            other, before = first.setdefault(column, (file, names))
            if names != before:
                conflicts[column] = (
                    f"{file} and {other} number the classes of column '{column}' differently: write both with the "
                    "same names (two sources of a pre-training are joined by name)"
                )
    return conflicts


def _class_names(kind: Any, column: str = "") -> dict[str, list[str]]:
    """Names of every ClassLabel among features, in structs and lists too, by its column."""
    if hasattr(kind, "names"):
        return {column: kind.names}
    parts = kind if isinstance(kind, dict) else {"": kind.feature} if hasattr(kind, "feature") else {}
    inner = [_class_names(part, f"{column}.{name}".strip(".")) for name, part in parts.items()]
    return {place: names for found in inner for place, names in found.items()}


def label_ids(table: "Dataset", column: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels as int64 `(num_images,)` from 0, and their names, None for a column of plain integers; texts are numbered
    in alphabetical order."""
    places, values = _distinct(table, column)
    if not all(isinstance(value, int | str) for value in values):
        raise InputError(f"label_column '{column}' holds {table.features[column]}; labels are integers or texts")
    if isinstance(values[0], str):
        names = sorted(values)
        number = {name: index for index, name in enumerate(names)}
        return np.array([number[value] for value in values], dtype=np.int64)[places], names
    if min(values) < 0:
        raise InputError(f"label_column '{column}' holds {min(values)}, which means 'no label': remove such rows")
    class_names = getattr(table.features[column], "names", None)
    return np.array(values, dtype=np.int64)[places], None if class_names is None else list(class_names)


def group_ids(table: "Dataset", column: str) -> tuple[np.ndarray, list[str] | None]:
    """Groups as int64 `(num_images,)`, numbered from 0 in order of first appearance, and their names where they are
    texts; equal values are one group."""
    places, values = _distinct(table, column)
    return places, values if isinstance(values[0], str) else None


def _distinct(table: "Dataset", column: str) -> tuple[np.ndarray, list[Any]]:
    """Each row's place in the list of distinct values, int64 `(num_images,)`, and that list."""
    import pyarrow

    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    if values.null_count:
        raise InputError(
            f"column '{column}' has {values.null_count} empty rows: fill them in, or go without the column"
        )
    if pyarrow.types.is_nested(values.type):
        raise InputError(f"column '{column}' holds {values.type}; labels and groups are single numbers or texts")
    encoded = values.dictionary_encode().unify_dictionaries()
    places = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    return places.astype(np.int64), encoded.chunk(0).dictionary.to_pylist()
