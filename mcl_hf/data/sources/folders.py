"""Folders and files on a disk: which files there are, and what they make: a table, or shards to be streamed.

Flow: order -> local_tables + **folders** (folder_metadata) + columns -> sources -> decode -> views -> loader.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from .addresses import SHARD_SUFFIXES, Shards, matching_files
from .folder_metadata import METADATA_NAMES, read_metadata
from .local_tables import (
    IMAGE_SUFFIXES,
    SPLIT_OF,
    LocalTable,
    arrow_table,
    canonical_split,
    files_of_split,
    parquet_table,
    split_note,
    without_caches,
)

_LEFTOVERS = ("__MACOSX", "@eaDir", "lost+found")  # of macOS' archives, network drives and file systems
_UNKNOWN_IMAGES = ("heic", "heif", "jxl", "dng", "nef", "cr2", "cr3", "arw", "raw", "psd", "svg")
_TABLE_SUFFIXES = (".parquet", ".arrow", ".tar")


def local_files(data: str, files: list[Path], split: str | None, streaming: bool) -> LocalTable | Shards:
    """Parquet, arrow or tar files, of one kind, as a table or as shards.

    Raises:
        InputError: no files, several kinds, no such split, or files that cannot be read.
    """
    suffix = files[0].suffix.lower() if files else ""
    if suffix == ".arrow":
        return arrow_table(data, files, split)
    if suffix == ".tar" or (streaming and suffix in SHARD_SUFFIXES):
        chosen, note = files_of_split(data, files, split, (suffix,))
        count = f"local {suffix[1:]} file" if len(chosen) == 1 else f"{len(chosen)} local {suffix[1:]} files"
        return Shards(count + note, [str(file.resolve()) for file in chosen])
    return parquet_table(data, files, split)


def shards_in(folder: Path) -> list[Path]:
    """Parquet, arrow and tar files at any depth of a folder, sorted; empty where images lie there too."""
    names = [name for name in _files_below(folder, (*IMAGE_SUFFIXES, *_TABLE_SUFFIXES)) if not _is_metadata(name)]
    shards = [folder / name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    return without_caches(shards) if len(shards) == len(names) else []


def folder_files(data: str, folder: Path, patterns: Sequence[str], streaming: bool) -> LocalTable | Shards:
    """The files of a folder that match a pattern, whatever split they belong to.

    Raises:
        InputError: nothing matches, or files of several kinds do.
    """
    names = _files_below(folder, (*IMAGE_SUFFIXES, *_TABLE_SUFFIXES))
    chosen = matching_files([name for name in names if not _is_metadata(name)], patterns, data)
    images = [name for name in chosen if name.lower().endswith(IMAGE_SUFFIXES)]
    if images and len(images) < len(chosen):
        raise InputError(f"data_files of {data} match both images and other files: name those of one kind.")
    if images:
        return _image_table(folder, images, f"folder of images, {len(images)} files chosen")
    return local_files(data, [folder / name for name in chosen], None, streaming)


def folder_table(folder: Path, split: str) -> LocalTable:
    """A folder of images at any depth (or of parquet files), with columns ``image`` (path) and ``folder`` (relative),
    and those of metadata tables beside the images.

    Where two of the folders with images in it, or all of them, are named like splits, ``split`` chooses one. Column
    ``label`` is there where all images lie equally deep, below at least two differently named folders, or where a
    metadata table has it.

    Raises:
        InputError: no images, both images and parquet files, no such split, or metadata that cannot be read.
    """
    root, kind = folder, "folder of images"
    left_out: Counter[str] = Counter()
    names = [
        name for name in _files_below(folder, (*IMAGE_SUFFIXES, ".parquet"), left_out) if not _is_metadata(name)
    ]  # fmt: skip
    children = sorted({name.partition("/")[0] for name in names if "/" in name})
    splits = [name for name in children if name.lower() in SPLIT_OF]
    loose = any("/" not in name for name in names)
    if splits and not loose and (splits == children or len({SPLIT_OF[name.lower()] for name in splits}) > 1):
        matching = [name for name in splits if SPLIT_OF[name.lower()] == canonical_split(split)]
        if not matching:
            raise InputError(f"{folder} has no split '{split}': its folders are {', '.join(children)}.")
        if len(matching) > 1:
            raise InputError(f"{folder}: {', '.join(matching)} could all be split '{split}': give one of them as data.")
        root, kind = folder / matching[0], f"folder of images, split {matching[0]}"
        names = [name.partition("/")[2] for name in names if name.startswith(f"{matching[0]}/")]
        others = [name for name in children if name not in splits]
        kind += f", {', '.join(others)} left out" if others else ""
    elif canonical_split(folder.name) != canonical_split(split):
        kind += split_note(split)
    kind += "".join(f", {count} {reason} left out" for reason, count in sorted(left_out.items()))
    images = [name for name in names if not name.lower().endswith(".parquet")]
    if images and len(images) < len(names):
        raise InputError(
            f"{folder} holds both images and parquet files: give one of the two, such as '{folder}/*.parquet'."
        )
    if names and not images:
        return parquet_table(str(folder), [root / name for name in names], split)
    if not images:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"{root} holds no images: no file below it ends in {suffixes} or .parquet.")
    return _image_table(root, images, kind)


def _image_table(root: Path, images: list[str], kind: str) -> LocalTable:
    from datasets import ClassLabel, Dataset, Features, Value

    columns: dict[str, list[Any]] = {
        "image": [f"{root}/{name}" for name in images],
        "folder": [name.rpartition("/")[0] for name in images],
    }
    features: dict[str, Any] = {"image": Value("string"), "folder": Value("string")}
    files = list(zip(images, columns["image"], strict=True))
    tables = _files_below(root, METADATA_NAMES)
    metadata = read_metadata(root, [name for name in tables if _is_metadata(name)], images)
    depths = {name.count("/") for name in images}
    parents = [name.rpartition("/")[2] for name in columns["folder"]]
    classes = sorted(set(parents))
    if len(classes) > 1 and len(depths) == 1 and "label" not in metadata.columns:
        number = {name: index for index, name in enumerate(classes)}
        columns["label"] = [number[name] for name in parents]
        features["label"] = ClassLabel(names=classes)
        kind += f" by class, {len(classes)} classes"
    table = Dataset.from_dict(columns, features=Features(features))
    for name, values in metadata.columns.items():
        table = table.add_column(name, values)
    files += [(name, f"{root}/{name}") for name in tables]
    return LocalTable(table, kind + metadata.note, files, image_column="image")


def _is_metadata(name: str) -> bool:
    return name.rpartition("/")[2] in METADATA_NAMES


def _files_below(root: Path, wanted: tuple[str, ...], left_out: Counter[str] | None = None) -> list[str]:
    """Paths, relative to ``root`` and sorted, of all files of the ``wanted`` endings; hidden ones, and what macOS and
    network drives leave behind, are passed over.

    Linked folders are followed after all others, each real folder once, so that a link to a parent ends and no image
    comes twice. Pipes, devices, folders that cannot be read, names that are no UTF-8 and kinds of images that cannot be
    decoded are counted in ``left_out``, by what they are.
    """
    found: list[str] = []
    counted = Counter[str]() if left_out is None else left_out
    start = root.stat()
    seen = {(start.st_dev, start.st_ino)}
    waiting, linked = [""], list[str]()
    while waiting or linked:
        prefix = waiting.pop() if waiting else linked.pop(0)
        try:
            if prefix:
                status = (root / prefix).stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / prefix) as entries:
                listed = sorted(entries, key=_name_of)
        except OSError as error:
            if not prefix:
                raise InputError(f"{root} cannot be read: {error.strerror or error}") from error
            counted["unreadable folder(s)"] += 1
            continue
        for entry in listed:
            name = entry.name
            if name.startswith(".") or name in _LEFTOVERS:
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file() or not (root / prefix / name).exists()
            except OSError:  # a link to itself
                is_folder, is_file = False, True
            ending = name.lower().rpartition(".")[2]
            if is_folder:
                (linked if entry.is_symlink() else waiting).append(f"{prefix}{name}/")
            elif name.lower().endswith(wanted):
                if not is_file:
                    counted["pipe(s) or device(s)"] += 1
                elif not _is_utf8(name):
                    counted["file(s) whose names are no UTF-8"] += 1
                else:
                    found.append(prefix + name)
            elif ending in _UNKNOWN_IMAGES:
                counted[f".{ending} file(s), which cannot be decoded,"] += 1
    return sorted(found)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name
