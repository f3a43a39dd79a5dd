"""Folders and files on a disk: which files there are, and what they make: a table, or shards to be streamed.

Flow: order -> local_tables + **folders** + columns -> sources -> decode -> views -> loader.

Tables beside the images, `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, go by the convention of `datasets`'
imagefolder (https://huggingface.co/docs/datasets/image_dataset): a row belongs to the image whose path, from the
table's own folder, stands in its column `file_name`; its other columns become columns of the source, such as labels and
groups. An image without a row has empty ones.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...plain_text import plain_text
from .addresses import SHARD_SUFFIXES, Shards, matching_files
from .local_tables import (
    IMAGE_SUFFIXES,
    LocalTable,
    canonical_split,
    files_of_split,
    files_table,
    one_line,
    split_note,
    split_of_folder,
    without_caches,
)

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
_OWN_COLUMNS = (FILE_NAME, "image", "folder")  # the last two are the folder's own
_LEFTOVERS = ("__MACOSX", "@eaDir", "lost+found")  # of macOS' archives, network drives and file systems
_UNKNOWN_IMAGES = ("heic", "heif", "jxl", "dng", "nef", "cr2", "cr3", "arw", "raw", "psd", "svg")
_WANTED = (*IMAGE_SUFFIXES, ".parquet", ".arrow", ".tar")


def local_files(data: str, files: list[Path], split: str | None, streaming: bool) -> LocalTable | Shards:
    """Parquet, arrow or tar files, of one kind, as a table or as shards."""
    suffix = files[0].suffix.lower() if files else ""
    if suffix == ".tar" or (streaming and suffix in SHARD_SUFFIXES):
        chosen, note = files_of_split(data, files, split, suffix)
        count = f"local {suffix[1:]} file" if len(chosen) == 1 else f"{len(chosen)} local {suffix[1:]} files"
        return Shards(count + note, [str(file.resolve()) for file in chosen])
    return files_table(data, files, split)


def folder_files(data: str, folder: Path, patterns: Sequence[str], streaming: bool) -> LocalTable | Shards:
    """The files of a folder that match a pattern, whatever split they belong to."""
    names, metadata = _files_below(folder, Counter())
    chosen = matching_files(names, patterns, data)
    images = [name for name in chosen if name.lower().endswith(IMAGE_SUFFIXES)]
    if images and len(images) < len(chosen):
        raise InputError(f"data_files of {data} match both images and other files: name those of one kind")
    if images:
        return _image_table(folder, images, metadata, f"folder of images, {len(images)} files chosen")
    return local_files(data, [folder / name for name in chosen], None, streaming)


def open_folder(folder: Path, split: str, streaming: bool) -> LocalTable | Shards:
    """What a folder holds at any depth: shards (`local_files`), or images as a table with columns `image` (path) and
    `folder` (relative), and those of metadata tables beside the images.

    Where two of the folders with images in it, or all of them, are named like splits, `split` chooses one. Column
    `label` is there where all images lie equally deep, below at least two differently named folders, or where a
    metadata table has it."""
    left_out: Counter[str] = Counter()
    names, metadata = _files_below(folder, left_out)
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
        shards = without_caches([folder / name for name in names])
        if shards:
            return local_files(str(folder), shards, split, streaming)
    packed = [name for name in names if name.lower().endswith((".arrow", ".tar"))]
    left_out.update(f"{Path(name).suffix} file(s)" for name in packed)  # what the images came in, often
    names = sorted({*names}.difference(packed)) if packed else names
    root, kind = folder, "folder of images"
    above = _folder_of_all(names)
    inside = [name.removeprefix(above) for name in names]
    children = sorted({name.partition("/")[0] for name in inside if "/" in name})
    splits = [name for name in children if split_of_folder(name)]
    loose = any("/" not in name for name in inside)
    if splits and not loose and (splits == children or len({split_of_folder(name) for name in splits}) > 1):
        matching = [name for name in splits if split_of_folder(name) == canonical_split(split)]
        if not matching:
            raise InputError(f"{folder} has no split '{split}': its folders are {', '.join(children)}")
        if len(matching) > 1:
            raise InputError(f"{folder}: {', '.join(matching)} could all be split '{split}': give one of them as data")
        start = f"{above}{matching[0]}/"
        root, kind = folder / start, f"folder of images, split {matching[0]}"
        names = [name.removeprefix(start) for name in names if name.startswith(start)]
        metadata = [name.removeprefix(start) for name in metadata if name.startswith(start)]
        others = [name for name in children if name not in splits]
        kind += f", {', '.join(others)} left out" if others else ""
    elif canonical_split(folder.name) != canonical_split(split):
        kind += split_note(split)
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise InputError(f"{root} holds no images: no file below it ends in {', '.join(IMAGE_SUFFIXES)} or .parquet")
    if len(images) < len(names):
        raise InputError(
            f"{folder} holds both images and parquet files: give one of the two, such as '{folder}/*.parquet'"
        )
    kind += "".join(f", {count} {reason} left out" for reason, count in sorted(left_out.items()))
    return _image_table(root, images, metadata, kind)


def _image_table(root: Path, images: list[str], tables: list[str], kind: str) -> LocalTable:
    import pyarrow
    from datasets import ClassLabel, Dataset, Features, Value

    columns: dict[str, list[Any]] = {
        "image": [f"{root}/{name}" for name in images],
        "folder": [name.rpartition("/")[0] for name in images],
    }
    features: dict[str, Any] = {"image": Value("string"), "folder": Value("string")}
    files = list(zip(images, columns["image"], strict=True))
    described, note = _read_metadata(root, tables, images)
    depths = {name.count("/") for name in images}
    parents = [name.rpartition("/")[2] for name in columns["folder"]]
    classes = sorted(set(parents))
    if len(classes) > 1 and len(depths) == 1 and "label" not in described:
        features["label"] = ClassLabel(names=classes)
        columns["label"] = features["label"].str2int(parents)
        kind += f" by class, {len(classes)} classes"
    table = Dataset(pyarrow.table(columns, Features(features).arrow_schema))
    for name, values in described.items():
        table = table.add_column(name, values)
    files += [(name, f"{root}/{name}") for name in tables]
    return LocalTable(table, kind + note, files, image_column="image")


def _read_metadata(root: Path, tables: Sequence[str], images: Sequence[str]) -> tuple[dict[str, list[Any]], str]:
    """Columns of the metadata tables of a folder, in the order of `images`, and what a log should say of the tables."""
    place = {name: number for number, name in enumerate(images)}
    columns: dict[str, list[Any]] = {}
    rows = missing = 0
    for name in tables:
        table = _read_table(root / name)
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


def _read_table(path: Path) -> dict[str, list[Any]]:
    import pyarrow
    from pyarrow import csv, json, parquet

    try:
        read = {".csv": csv.read_csv, ".jsonl": json.read_json, ".parquet": parquet.read_table}[path.suffix]
        table = read(path)
        if FILE_NAME in table.column_names and table.schema.field(FILE_NAME).type == "binary":  # of another encoding
            raise ValueError(f"column '{FILE_NAME}' is no text in UTF-8")
        return table.to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # the last: names or texts that are no UTF-8
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error


def _folder_of_all(names: list[str]) -> str:
    """The folder that all of these lie in, with /, as `images/` of YOLO data; never one whose name tells a split."""
    above = ""
    while len(children := {name[len(above) :].partition("/")[0] for name in names}) == 1:
        (child,) = children
        if split_of_folder(child) or f"{above}{child}" in names:
            break
        above += f"{child}/"
    return above


def _files_below(root: Path, left_out: Counter[str]) -> tuple[list[str], list[str]]:
    """Paths, relative to `root` and sorted, of all images and shards, and of the tables of metadata beside them. Linked
    folders are followed after all others, each real folder once, so that a link to a parent ends and no image comes
    twice. What cannot be read or decoded is counted in `left_out`, by what it is; hidden files are passed over."""
    found, metadata = list[str](), list[str]()
    seen = set[tuple[int, int]]()
    waiting, linked = [""], list[str]()
    while waiting or linked:
        prefix = waiting.pop() if waiting else linked.pop(0)
        try:
            status = (root / prefix).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / prefix) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise InputError(f"{root} cannot be read: {error.strerror or error}") from error
            left_out["unreadable folder(s)"] += 1
            continue
        for entry in listed:
            name = entry.name
            if name.startswith(".") or name in _LEFTOVERS:
                continue
            try:
                is_folder = entry.is_dir()
                is_file = not is_folder and (entry.is_file() or not (root / prefix / name).exists())
            except OSError:  # a link to itself
                is_folder, is_file = False, True
            small = name.lower()
            if is_folder:
                (linked if entry.is_symlink() else waiting).append(f"{prefix}{name}/")
            elif small.endswith(_WANTED) or name in METADATA_NAMES:
                if not is_file:
                    left_out["pipe(s) or device(s)"] += 1
                elif not name.isascii() and name != name.encode(errors="replace").decode():
                    left_out["file(s) whose names are no UTF-8"] += 1
                else:
                    (metadata if name in METADATA_NAMES else found).append(prefix + name)
            elif (ending := small.rpartition(".")[2]) in _UNKNOWN_IMAGES:
                left_out[f".{ending} file(s), which cannot be decoded,"] += 1
    return sorted(found), sorted(metadata)
