"""Folders and files on a disk: which files there are, and what they make: a table, or shards to be streamed.

Flow: order -> local_tables + **folders** (folder_metadata) + columns -> sources -> decode -> views -> loader.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcl_hf.data.addresses import SHARD_SUFFIXES, Shards, matching_files
from mcl_hf.data.folder_metadata import METADATA_NAMES, read_metadata
from mcl_hf.data.local_tables import (
    IMAGE_SUFFIXES,
    SPLIT_OF,
    LocalTable,
    arrow_table,
    canonical_split,
    files_of_split,
    parquet_table,
    split_note,
)
from mcl_hf.errors import InputError

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
    return shards if len(shards) == len(names) else []


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

    Where the folder's only children are named like splits, ``split`` chooses one. Column ``label`` is there where all
    images lie equally deep, below at least two differently named folders, or where a metadata table has it.

    Raises:
        InputError: no images, both images and parquet files, no such split, or metadata that cannot be read.
    """
    root, kind = folder, "folder of images"
    with os.scandir(folder) as entries:
        children = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if children and all(name.lower() in SPLIT_OF for name in children):
        matching = [name for name in children if SPLIT_OF[name.lower()] == canonical_split(split)]
        if not matching:
            raise InputError(f"{folder} has no split '{split}': its folders are {', '.join(children)}.")
        root, kind = folder / matching[0], f"folder of images, split {matching[0]}"
    elif canonical_split(folder.name) != canonical_split(split):
        kind += split_note(split)
    names = [name for name in _files_below(root, (*IMAGE_SUFFIXES, ".parquet")) if not _is_metadata(name)]
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
    return LocalTable(table, kind + metadata.note, files)


def _is_metadata(name: str) -> bool:
    return name.rpartition("/")[2] in METADATA_NAMES


def _files_below(root: Path, wanted: tuple[str, ...]) -> list[str]:
    """Paths, relative to ``root`` and sorted, of all files of the ``wanted`` endings; hidden ones are left out.

    Linked folders are followed, each real folder once, so that a link to a parent ends.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(root / prefix) as entries:
            listed = sorted(entries, key=_name_of)
        for entry in listed:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                stat = entry.stat()
                if (stat.st_dev, stat.st_ino) not in seen:
                    seen.add((stat.st_dev, stat.st_ino))
                    waiting.append(f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(wanted):
                found.append(prefix + entry.name)
    return sorted(found)


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name
