"""Tables beside the images of a folder: `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, by the convention
of `datasets`' imagefolder (https://huggingface.co/docs/datasets/image_dataset).

Flow: order -> folders (**folder_metadata**) + columns -> sources -> decode -> views -> loader. A row belongs to the
image whose path, from the table's own folder, stands in its column `file_name`; its other columns become columns of
the source, such as labels and groups. An image without a row has empty ones.
"""

import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...plain_text import plain_text

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
_OWN_COLUMNS = (FILE_NAME, "image", "folder")  # the last two are the folder's own


def read_metadata(root: Path, tables: Sequence[str], images: Sequence[str]) -> tuple[dict[str, list[Any]], str]:
    """Columns of the metadata tables of a folder.

    Args:
        root: the folder.
        tables: paths of the tables, relative to it.
        images: paths of the images, relative to it.

    Returns:
        Columns in the images' order, None where an image has no row; and what a log should say of the tables.

    Raises:
        InputError: a table that cannot be read, has no column `file_name`, names not one of the images, or says other
            things than one before it.
    """
    place = {name: number for number, name in enumerate(images)}
    columns: dict[str, list[Any]] = {}
    rows = missing = 0
    for name in tables:
        table = _read(root / name)
        if FILE_NAME not in table:
            raise InputError(
                f"{root / name} has no column '{FILE_NAME}' that says which image a row belongs to: its columns are "
                f"{', '.join(table)}"
            )
        folder = name.rpartition("/")[0]
        files = [posixpath.normpath(posixpath.join(folder, str(file))) for file in table[FILE_NAME]]
        twice = next((file for file, count in Counter(files).items() if count > 1 and file in place), None)
        if twice is not None:
            raise InputError(f"{root / name} has two rows or more for {plain_text(twice)}: an image takes one")
        found = [(row, place[file]) for row, file in enumerate(files) if file in place]
        rows, missing = rows + len(files), missing + len(files) - len(found)
        if files and not found:
            raise InputError(f"{root / name}: no row belongs to an image; the first names '{files[0]}', not there")
        for column, values in table.items():
            if column in _OWN_COLUMNS:
                continue
            target = columns.setdefault(column, [None] * len(images))
            for row, number in found:
                before, value = target[number], values[row]
                if before is not None and before != value and repr(before) != repr(value):  # NaN is not equal to itself
                    raise InputError(
                        f"{root / name} has {plain_text(column)} {value!r:.60} for {plain_text(images[number])}, where "
                        f"another of {', '.join(tables)} has {before!r:.60}: leave one of them"
                    )
                target[number] = value
    note = f", columns from {tables[0] if len(tables) == 1 else f'{len(tables)} metadata tables'}" if tables else ""
    if missing:
        note += f" ({missing} of {rows} rows name files that are not among the images)"
    return columns, note


def _read(path: Path) -> dict[str, list[Any]]:
    """Columns by name."""
    import pyarrow
    from pyarrow import csv, json, parquet

    try:
        read = {".csv": csv.read_csv, ".jsonl": json.read_json, ".parquet": parquet.read_table}[path.suffix]
        table = read(path)
        if FILE_NAME in table.column_names and table.schema.field(FILE_NAME).type == "binary":  # of another encoding
            raise ValueError(f"column '{FILE_NAME}' is no text in UTF-8")
        return table.to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # the last: names or texts that are no UTF-8
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
