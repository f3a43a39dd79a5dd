"""Data as `datasets` tables: the embedded photos, parquet and arrow files, folders of images, the Hub's data sets.

Flow: order -> **local_tables** + columns -> sources -> decode -> views -> loader. One function per kind; each gives a
`LocalTable`, and nothing in here decodes an image.
"""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcl_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

PHOTOS_FOLDER = Path(__file__).parent / "photos"
"""Parquet shards of freely licensed photos that come with the package."""

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
)

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}


@dataclass(frozen=True)
class LocalTable:
    """A table whose image column is not decoded yet.

    ``files`` are (name, size-bearing path) of what it was made from, for the fingerprint.
    """

    table: "Dataset"
    kind: str
    files: list[tuple[str, str]]


def photos_table() -> LocalTable:
    """The embedded photos. Column ``source_image`` names the photo that a crop was taken from.

    Raises:
        InputError: the package was installed without them.
    """
    files = sorted(PHOTOS_FOLDER.glob("*.parquet"))
    if not files:
        raise InputError(f"The embedded photos are missing from {PHOTOS_FOLDER}: install the package again.")
    opened = parquet_table("photos", files, "train")
    return LocalTable(opened.table, "embedded photos", opened.files)


def parquet_table(data: str, files: list[Path], split: str) -> LocalTable:
    """Parquet files as one table; ``split`` chooses where every name tells its part, as train-00000-of-00004.parquet.

    Raises:
        InputError: no files, another kind of file, no such split, or files that cannot be read.
    """
    from datasets import load_dataset

    files = files_of_split(data, files, split, (".parquet",))
    files = [file for file in files if _num_rows(file)]  # `datasets` stumbles over a file without rows
    if not files:
        raise InputError(f"{data} holds no images: its tables have no rows.")
    # `datasets` would read brackets in a path as a pattern
    escaped = [glob.escape(str(file.resolve())) for file in files]
    try:
        table = load_dataset("parquet", data_files={"train": escaped}, split="train")
    except Exception as error:  # `datasets` wraps whatever the reader met; its cause names what is wrong
        raise InputError(f"{data} cannot be read as parquet: {_one_line(error.__cause__ or error)}") from error
    kind = "parquet file" if len(files) == 1 else f"{len(files)} parquet files"
    return LocalTable(table, kind, [(file.name, str(file)) for file in files])


def files_of_split(data: str, files: list[Path], split: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Those of ``files`` that belong to ``split``: all, unless every name tells its part, as
    train-00000-of-00004.parquet.

    Raises:
        InputError: no files, a file of another kind than ``suffixes``, or no such split.
    """
    if not files:
        raise InputError(f"No file matches '{data}'.")
    other = [file.name for file in files if file.suffix.lower() not in suffixes]
    if other:
        raise InputError(
            f"{data}: '{other[0]}' is no {suffixes[0][1:]} file. Give a .parquet, .arrow or .tar file, a folder or "
            "glob of one kind of them, or a folder of images."
        )
    splits = [split_in_name(file.name) for file in files]
    if None in splits:
        return files
    if canonical_split(split) not in splits:
        found = ", ".join(sorted({name for name in splits if name}))
        raise InputError(f"{data} has no split '{split}': its files belong to {found}.")
    return [file for file, name in zip(files, splits, strict=True) if name == canonical_split(split)]


def arrow_table(data: str, files: list[Path], split: str) -> LocalTable:
    """Arrow files, as `datasets` writes them, as one memory-mapped table.

    Raises:
        InputError: no files, another kind of file, no such split, or files that cannot be read.
    """
    from datasets import Dataset, concatenate_datasets

    files = files_of_split(data, files, split, (".arrow",))
    try:
        table = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
    except Exception as error:  # as in parquet_table
        raise InputError(f"{data} cannot be read as arrow: {_one_line(error.__cause__ or error)}") from error
    if not len(table):
        raise InputError(f"{data} holds no images: its tables have no rows.")
    kind = "arrow file" if len(files) == 1 else f"{len(files)} arrow files"
    return LocalTable(table, kind, [(file.name, str(file)) for file in files])


def hub_table(name: str, split: str) -> LocalTable:
    """A data set of the Hub, downloaded by `datasets` or taken from its cache.

    Raises:
        InputError: there is no such data set or split, or it cannot be fetched.
    """
    from datasets import load_dataset

    try:
        table = load_dataset(name, split=split)
    except Exception as error:  # as in parquet_table
        raise InputError(
            f"'{name}' is no local file or folder, and could not be loaded as a data set of the Hub: {_one_line(error)}"
        ) from error
    if not len(table):
        raise InputError(f"The data set {name} has no rows in split {split}.")
    return LocalTable(table, f"Hub data set {name}, split {split}", [])


def shards_in(folder: Path) -> list[Path]:
    """Parquet, arrow and tar files at any depth of a folder, sorted; empty where images lie there too."""
    names = _files_below(folder, (*IMAGE_SUFFIXES, ".parquet", ".tar", ".arrow"))
    shards = [folder / name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    return shards if len(shards) == len(names) else []


def folder_table(folder: Path, split: str) -> LocalTable:
    """A folder of images at any depth (or of parquet files), with columns ``image`` (path) and ``folder`` (relative).

    Where the folder's only children are named like splits, ``split`` chooses one. Column ``label`` is there where all
    images lie equally deep, below at least two differently named folders.

    Raises:
        InputError: no images, both images and parquet files, or no such split.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    root, kind = folder, "folder of images"
    with os.scandir(folder) as entries:
        children = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if children and all(name.lower() in _SPLIT_OF for name in children):
        matching = [name for name in children if _SPLIT_OF[name.lower()] == canonical_split(split)]
        if not matching:
            raise InputError(f"{folder} has no split '{split}': its folders are {', '.join(children)}.")
        root, kind = folder / matching[0], f"folder of images, split {matching[0]}"
    names = _files_below(root)
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
    columns: dict[str, list[Any]] = {
        "image": [f"{root}/{name}" for name in images],
        "folder": [name.rpartition("/")[0] for name in images],
    }
    features: dict[str, Any] = {"image": Value("string"), "folder": Value("string")}
    depths = {name.count("/") for name in images}
    parents = [name.rpartition("/")[2] for name in columns["folder"]]
    classes = sorted(set(parents))
    if len(classes) > 1 and len(depths) == 1:
        number = {name: index for index, name in enumerate(classes)}
        columns["label"] = [number[name] for name in parents]
        features["label"] = ClassLabel(names=classes)
        kind += f" by class, {len(classes)} classes"
    table = Dataset.from_dict(columns, features=Features(features))
    return LocalTable(table, kind, list(zip(images, columns["image"], strict=True)))


def _files_below(root: Path, wanted: tuple[str, ...] = (*IMAGE_SUFFIXES, ".parquet")) -> list[str]:
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


def _num_rows(file: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as parquet: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def canonical_split(split: str) -> str:
    """``val`` as ``validation`` and so on; other names as they are."""
    return _SPLIT_OF.get(split.lower(), split)


def split_in_name(file_name: str) -> str | None:
    """Split that a file's name begins with, as in train-00000-of-00004.parquet."""
    match = re.match(r"([a-z]+)[-_.]", file_name.lower())
    return _SPLIT_OF.get(match[1]) if match else None
