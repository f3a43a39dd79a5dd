"""Folders of images with a `metadata.jsonl` (or .csv, .parquet) whose rows have `file_name` and `objects`.

Flow: open_data -> **metadata_folder** -> object_tables (`collect`) -> annotation_check. The layout: `datasets`'
imagefolder (https://huggingface.co/docs/datasets/image_dataset#object-detection). Tables in folders such as `train`
and `val` are those splits; so are the rows of a single table whose paths begin with such folders, or whose column
`split` says so.
"""

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ..data.sources.folder_metadata import FILE_NAME, METADATA_NAMES
from ..data.sources.split_column import find_split_column, split_cell, splits_of_column
from ..errors import InputError
from .annotation_files import Part, by_split, keys_once, read_text, split_word
from .detection_data import FileImages
from .object_tables import collect
from .raw_data import RawData, Reading, shown

Row = tuple[str, dict[str, Any]]
"""Path of an image from the data's folder, and what the table says of it."""


def metadata_parts(folder: Path, files: list[str], how: Reading) -> list[Part]:
    """The tables of a folder, by the splits that folders tell; `files` are all that it holds."""
    tables = [name for name in files if name.rpartition("/")[2] in METADATA_NAMES and name.count("/") < 3]
    found = by_split(tables)

    def rows_of(names: list[str]) -> list[Row]:
        return [row for name in names for row in _rows(folder, name, how.objects_column)]

    if [*found] == [None]:
        rows = rows_of(tables)
        told: dict[str | None, list[Row]] = defaultdict(list)
        for row in rows:
            told[split_word(row[0].partition("/")[0] if "/" in row[0] else "")].append(row)
        if None in told:
            told = _by_column(rows, folder)
        listed = None if None in told else len({path for path, _ in rows})
        return [
            Part(split, ", ".join(tables), partial(_read, folder, chosen, how, listed))
            for split, chosen in told.items()
        ]
    return [
        Part(split, ", ".join(names), lambda names=names: _read(folder, rows_of(names), how))  # type: ignore[misc]
        for split, names in found.items()
    ]


def _by_column(rows: list[Row], folder: Path) -> dict[str | None, list[Row]]:
    """Rows by the value of the column that tells their splits; all under None where no column does."""
    names = dict.fromkeys(name for _, row in rows for name in row)
    _, cells = find_split_column(names, lambda name: [row.get(name) for _, row in rows])
    if not splits_of_column(cells, str(folder)):
        return {None: rows}
    told: dict[str | None, list[Row]] = defaultdict(list)
    for row, cell in zip(rows, cells, strict=True):
        told[split_cell(cell)].append(row)
    return told


def _rows(folder: Path, name: str, objects_column: str) -> list[Row]:
    """Rows with the path of their image from the data's folder."""
    import pyarrow
    from pyarrow import csv, parquet

    file = folder / name
    rows: list[Any]
    try:
        if name.endswith(".jsonl"):
            lines = [line for line in read_text(file).split("\n") if line.strip()]
            rows = [json.loads(line, object_pairs_hook=keys_once(str(file))) for line in lines]
        else:
            rows = (csv.read_csv(file) if name.endswith(".csv") else parquet.read_table(file)).to_pylist()
    except (ValueError, RecursionError, pyarrow.ArrowException, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    found = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get(FILE_NAME), str) or "\0" in row[FILE_NAME]:
            raise InputError(f"{file}, row {number}, has no '{FILE_NAME}' that says which image it belongs to")
        if isinstance(row.get(objects_column), str):  # in a CSV
            try:
                row[objects_column] = json.loads(row[objects_column], object_pairs_hook=keys_once(str(file)))
            except InputError:
                raise
            except (ValueError, RecursionError) as error:
                raise InputError(f"{file}, row {number}: its {objects_column} are no JSON: {error}") from error
        path = posixpath.normpath(posixpath.join(name.rpartition("/")[0], row[FILE_NAME].replace("\\", "/")))
        found.append((path, row))
    if found and not any(objects_column in row for _, row in found):
        raise InputError(f"{file} has no column '{objects_column}': its columns are {', '.join(map(str, found[0][1]))}")
    return found


def _read(folder: Path, rows: Iterable[Row], how: Reading, listed: int | None = None) -> RawData:
    """One image a path, in the order of paths; a second row for a file is a fault."""
    first: dict[str, dict[str, Any]] = {}
    twice: list[str] = []
    for path, row in rows:
        if path in first:
            twice.append(f"{folder / path}: a second row, with objects {shown(row.get(how.objects_column))}")
        first.setdefault(path, row)
    paths = sorted(first)
    reader = FileImages([str(folder / path) for path in paths])
    kind = "folder of images with metadata"
    raw = RawData(kind, str(folder), [], {}, reader, faults=twice, roots=[folder], listed=listed)
    collect(raw, ((str(folder / path), first[path]) for path in paths), how)
    return raw
