"""Tables with a column of images and a column of objects, as most detection data sets on the Hub are, and folders of
images with a `metadata.jsonl` (or .csv, .parquet) whose rows have `file_name` and `objects`.

Flow: open_data -> **object_tables** -> annotation_check. `objects` holds, for each image, a list of `bbox` and one of
`category` (or a list of objects with both); `id`, `area`, `iscrowd` and `segmentation` are taken where they are there.
Layout: https://huggingface.co/docs/datasets/image_dataset#object-detection
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..data.sources.columns import find_image_column, require_columns
from ..data.sources.folders import FILE_NAME, METADATA_NAMES
from ..data.sources.image_source import row_name
from ..data.sources.local_tables import LocalTable
from ..data.sources.split_column import find_split_column, rows_of_word, split_cell, splits_of_column
from ..errors import InputError
from .annotation_files import Part, by_split, parse_json, read_text, split_word
from .detection_data import FileImages, TableImages
from .raw_data import RawData, RawImage, Reading, image_id_of, shown, side_in_px

_CATEGORY_NAMES = ("category", "category_id", "label", "labels", "categories")
_BOX_NAMES = ("bbox", "bboxes", "boxes")
_OPTIONAL = ("id", "bbox_id", "area", "iscrowd", "is_crowd", "segmentation", "difficult")
_RENAMED = {"bbox_id": "id", "is_crowd": "iscrowd"}

Row = tuple[str, dict[str, Any]]
"""Path of an image from the data's folder, and what a table of metadata says of it."""


def read_object_table(opened: LocalTable, data: str, how: Reading, only: str | None = None) -> RawData:
    """Images and objects of a table; `data` is what the user gave, for messages, and `only` the value of the column
    of splits whose rows are wanted.

    Raises:
        InputError: a column or a part of one is missing, or the boxes are evidently of the other format.
    """
    from datasets import Image
    from pyarrow import compute

    table = opened.table
    if only is not None:
        table = rows_of_word(table, only)
    image_column, objects_column = find_image_column(table.features, data, how.image_column), how.objects_column
    if objects_column not in table.column_names:
        raise InputError(
            f"{data} has no column '{objects_column}': its columns are {', '.join(table.column_names)}; detection "
            "needs one with bbox and category for each image"
        )
    require_columns(table.features, data, group_column=how.group_column)
    for column, line in opened.conflicts.items():
        if column.partition(".")[0] == objects_column:
            raise InputError(line)
    names = _class_names(table.features, data, objects_column)
    pictures = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    wanted = ("image_id", "width", "height", objects_column, how.group_column)
    others = table.select_columns([name for name in dict.fromkeys(wanted) if name in table.column_names])
    stored = pictures.with_format("arrow")[:].column(image_column)  # chunks of the file, of which no bytes are copied
    paths = compute.struct_field(stored, "path").to_pylist()
    has_bytes = compute.is_valid(compute.struct_field(stored, "bytes")).to_pylist()
    files = [None if inside else path for path, inside in zip(paths, has_bytes, strict=True)]
    raw = RawData(opened.kind, data, [], {}, TableImages(pictures, image_column, files), roots=[*opened.roots])
    raw.listed = None if only is None else len(opened.table)
    rows = (row for piece in others.with_format("arrow").iter(1000) for row in piece.to_pylist())
    named = (
        (row_name({"path": path, "bytes": b"" if inside else None}, f"row {number}"), row)
        for number, (path, inside, row) in enumerate(zip(paths, has_bytes, rows, strict=True))
    )
    _collect(raw, named, how, names)
    return raw


def metadata_parts(folder: Path, files: list[str], how: Reading) -> list[Part]:
    """The tables beside the images of a folder, by the splits that folders tell (`train`, `val`): those of the tables,
    or of a single table's paths; else by those of its column `split`. `files` are all that the folder holds."""
    tables = [name for name in files if name.rpartition("/")[2] in METADATA_NAMES and name.count("/") < 3]
    found = by_split(tables)

    def read(names: list[str]) -> RawData:
        return _read_metadata(folder, _metadata_rows(folder, names, how.objects_column), how)

    if [*found] != [None]:
        return [Part(split, ", ".join(names), partial(read, names)) for split, names in found.items()]
    rows = _metadata_rows(folder, tables, how.objects_column)
    words = [split_word(path.partition("/")[0] if "/" in path else "") for path, _ in rows]
    if None in words:
        columns = dict.fromkeys(name for _, row in rows for name in row)
        _, cells = find_split_column(columns, lambda name: [row.get(name) for _, row in rows])
        is_told = bool(splits_of_column(cells, str(folder)))
        words = [split_cell(cell) for cell in cells] if is_told else [None] * len(rows)
    of_split: dict[str | None, list[Row]] = defaultdict(list)
    for word, row in zip(words, rows, strict=True):
        of_split[word].append(row)
    listed = None if None in of_split else len({path for path, _ in rows})
    read_rows = partial(_read_metadata, folder, how=how, listed=listed)
    return [Part(word, ", ".join(tables), partial(read_rows, chosen)) for word, chosen in of_split.items()]


def _metadata_rows(folder: Path, tables: list[str], objects_column: str) -> list[Row]:
    import pyarrow
    from pyarrow import csv, parquet

    found: list[Row] = []
    for name in tables:
        file, rows = folder / name, []
        try:
            if name.endswith(".jsonl"):
                lines = [line for line in read_text(file).split("\n") if line.strip()]
                rows = [parse_json(line, str(file)) for line in lines]
            else:
                rows = (csv.read_csv(file) if name.endswith(".csv") else parquet.read_table(file)).to_pylist()
        except InputError:
            raise
        except (ValueError, RecursionError, pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not isinstance(row.get(FILE_NAME), str) or "\0" in row[FILE_NAME]:
                raise InputError(f"{file}, row {number}, has no '{FILE_NAME}' that says which image it belongs to")
            if isinstance(row.get(objects_column), str):  # in a CSV
                try:
                    row[objects_column] = parse_json(row[objects_column], str(file))
                except InputError:
                    raise
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{file}, row {number}: its {objects_column} are no JSON: {error}") from error
            path = posixpath.join(name.rpartition("/")[0], row[FILE_NAME].replace("\\", "/"))
            found.append((posixpath.normpath(path), row))
        if rows and not any(objects_column in row for row in rows):
            raise InputError(f"{file} has no column '{objects_column}': its columns are {', '.join(map(str, rows[0]))}")
    return found


def _read_metadata(folder: Path, rows: Iterable[Row], how: Reading, listed: int | None = None) -> RawData:
    """One image a path, in the order of paths; a second row for a file is a fault."""
    first: dict[str, dict[str, Any]] = {}
    twice: list[str] = []
    for path, row in rows:
        if path in first:
            twice.append(f"{folder / path}: a second row, with objects {shown(row.get(how.objects_column))}")
        first.setdefault(path, row)
    named = [(str(folder / path), first[path]) for path in sorted(first)]
    reader = FileImages([name for name, _ in named])
    kind = "folder of images with metadata"
    raw = RawData(kind, str(folder), [], {}, reader, faults=twice, roots=[folder], listed=listed)
    _collect(raw, named, how)
    return raw


def _collect(raw: RawData, rows: Iterable[Row], how: Reading, names: list[str] | None = None) -> None:
    """Put the image of each row, its objects in any of the usual forms, and their classes into `raw`; `names` are those
    of classes that are numbered from 0; without them, classes are texts, in alphabetical order, or numbers."""
    for position, (name, row) in enumerate(rows):
        image = RawImage(position, name, group=how.group_column and row.get(how.group_column))
        raw.images.append(image)
        try:
            if row.get("image_id") is not None:
                image.image_id = image_id_of(row["image_id"])
            image.width, image.height = side_in_px(row.get("width")), side_in_px(row.get("height"))
        except ValueError as error:
            image.fault = str(error)
        try:
            entries = list(_entries(row.get(how.objects_column)))
        except ValueError as error:
            raw.faults.append(f"{name}: {error}")
            continue
        for entry in entries:
            annotation = {_RENAMED.get(name, name): entry[name] for name in _OPTIONAL if entry.get(name) is not None}
            annotation["category_id"] = next((entry[name] for name in _CATEGORY_NAMES if name in entry), None)
            box: Any = next((entry[name] for name in _BOX_NAMES if name in entry), None)
            if how.box_format == "xyxy" and _is_box(box):
                box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            image.objects.append(annotation | {"bbox": box})
    given = [entry["category_id"] for _, entry in raw.objects]
    if any(isinstance(category, str) for category in given):
        raw.number_classes()
    elif names is not None:
        raw.categories = dict(enumerate(names))
    else:  # plain numbers: their own names; what is none is refused by name later
        numbers = {number for number in given if isinstance(number, int | float) and number % 1 == 0}  # nor infinite
        raw.categories = {number: str(number) for number in sorted(map(int, numbers)) if abs(number) < 2**63}
    if how.box_format == "xywh":
        refuse_corners(raw)


def _class_names(features: Mapping[str, Any], data: str, column: str) -> list[str] | None:
    """Names of the classes, where the category of objects has some; a struct of lists and a list of structs are alike.
    An `InputError` where objects have no boxes or no category."""
    parts = _inside(features[column])
    if not isinstance(parts, dict):
        raise InputError(f"column '{column}' holds {parts}, not objects with bbox and category")
    for wanted in (_BOX_NAMES, _CATEGORY_NAMES):
        if not any(name in parts for name in wanted):
            raise InputError(f"{data}: column '{column}' has no {wanted[0]}: its parts are {', '.join(parts)}")
    return getattr(_inside(next(parts[name] for name in _CATEGORY_NAMES if name in parts)), "names", None)


def _inside(feature: Any) -> Any:
    """What a list holds, in whichever way `datasets` says so; anything else as it is."""
    feature = getattr(feature, "feature", feature)  # List, LargeList
    return feature[0] if isinstance(feature, list) else feature


def _entries(value: Any) -> Iterator[dict[str, Any]]:
    """One dict an object, from a list of them or from a dict of lists; raises `ValueError` for anything else."""
    if isinstance(value, list):
        if not all(isinstance(entry, dict) for entry in value):
            raise ValueError(f"its objects {shown(value)} are not a list of objects")
        yield from value
    elif isinstance(value, dict):
        lists = {name: part for name, part in value.items() if part is not None}
        if not all(isinstance(part, list) for part in lists.values()):
            raise ValueError("its objects are one object: a list of them belongs there, or lists of their parts")
        if len({len(part) for part in lists.values()}) > 1:
            counts = ", ".join(f"{len(part)} {name}" for name, part in lists.items())
            raise ValueError(f"the parts of its objects are not equally many: {counts}")
        for parts in zip(*lists.values(), strict=True):
            yield dict(zip(lists, parts, strict=True))
    elif value is not None:
        raise ValueError(f"its objects {shown(value)} are neither a list of objects nor lists of their parts")


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)


def refuse_corners(raw: RawData) -> None:
    """Boxes of which most, read as x y width height, leave the image, and none does as two corners, are corners."""
    leaving = total = 0
    for image, annotation in raw.objects:
        box = annotation["bbox"]
        if image.width is None or image.height is None or not _is_box(box):
            continue
        if box[2] > image.width + 1 or box[3] > image.height + 1 or box[2] < box[0] or box[3] < box[1]:
            return
        total += 1
        leaving += box[0] + box[2] > image.width + 1 or box[1] + box[3] > image.height + 1
    if total and leaving > 0.3 * total:
        raise InputError(
            f"{raw.source}: {leaving} of {total} boxes leave their image when read as x, y, width, height, and none as "
            "two corners: give --box-format xyxy"
        )
