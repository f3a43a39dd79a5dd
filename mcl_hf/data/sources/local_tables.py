"""Data as `datasets` tables: the embedded photos, parquet and arrow files, the Hub's data sets; `folders` are apart.

Flow: order -> **local_tables** + folders + columns -> sources -> decode -> views -> loader. Each kind gives a
`LocalTable`, and nothing in here decodes an image.
"""

import glob
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...hub_token import is_unknown_token, mend_the_token, show_a_token
from .columns import class_conflicts

if TYPE_CHECKING:
    from datasets import Dataset

PHOTOS_FOLDER = Path(__file__).parents[1] / "photos"
"""Parquet shards of freely licensed photos that come with the package."""

BCCD_MINI = "bccd-mini"
BCCD_MINI_FOLDER = Path(__file__).parents[1] / "bccd_mini"
"""Annotated pictures in COCO's format that come with the package; a folder of one's own is `./bccd-mini`."""

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
)

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True)
class LocalTable:
    """A table whose image column is not decoded yet.

    Attributes:
        kind: what it is, for the log.
        files: (name, size-bearing path) of what it was made from, for the fingerprint.
        image_column: set where the kind of data says which one it is.
        roots: the folders that paths in it belong into, where it has any.
        conflicts: columns whose classes cannot be told, with a line each.
        listed: rows of all splits, where a column chose some.
    """

    table: "Dataset"
    kind: str
    files: list[tuple[str, str]]
    image_column: str | None = None
    roots: tuple[Path, ...] = ()
    conflicts: dict[str, str] = field(default_factory=dict)
    listed: int | None = None


def embedded_folder(data: str) -> str:
    """The folder of `bccd-mini`; any other data as they were given."""
    if not data:  # it would be the current folder
        raise InputError("data is empty: name a folder, files, an address or a data set")
    if data != BCCD_MINI:
        return data
    if not BCCD_MINI_FOLDER.is_dir():
        raise InputError(f"the embedded data are missing from {BCCD_MINI_FOLDER}: install the package again")
    return str(BCCD_MINI_FOLDER)


def matching(pattern: str) -> list[str]:
    """Files that a glob names, by name; what exists as it stands is no pattern, whatever brackets its name has."""
    fixed = Path(pattern)
    while not fixed.exists():
        fixed = fixed.parent
    rest = Path(pattern).relative_to(fixed) if fixed != Path() else Path(pattern)
    # Path.glob knows no absolute patterns
    return sorted(glob.glob(str(Path(glob.escape(str(fixed))) / rest), recursive=True))  # noqa: PTH207


def photos_table(split: str = "train") -> LocalTable:
    """The embedded photos. Column `source_image` names the photo that a crop was taken from."""
    files = sorted(PHOTOS_FOLDER.glob("*.parquet"))
    if not files:
        raise InputError(f"the embedded photos are missing from {PHOTOS_FOLDER}: install the package again")
    opened = files_table("photos", files, None)
    return LocalTable(opened.table, f"embedded photos{split_note(split)}", opened.files)


def files_table(data: str, files: list[Path], split: str | None) -> LocalTable:
    """Parquet files, or arrow files as `datasets` writes them, as one memory-mapped table; `split` chooses where every
    name tells its part, as train-00000-of-00004.parquet; None takes all."""
    from datasets import Dataset, Features, concatenate_datasets, load_dataset
    from pyarrow import parquet

    kind = "arrow" if files and files[0].suffix.lower() == ".arrow" else "parquet"
    files, note = files_of_split(data, files, split, f".{kind}")
    if kind == "parquet":
        files = [file for file in files if _num_rows(file)]  # `datasets` stumbles over a file without rows
    no_rows = f"{data} holds no images: its tables have no rows"
    if not files:
        raise InputError(no_rows)
    try:
        if kind == "parquet":
            # `datasets` would read brackets in a path as a pattern
            escaped = [glob.escape(str(file.resolve())) for file in files]
            table = load_dataset("parquet", data_files={"train": escaped}, split="train")
        else:
            table = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
            table.data.table.validate(full=True)  # reads through wrong offsets, which nobody checks, end the process
    except Exception as error:  # `datasets` wraps whatever the reader met; its cause names what is wrong
        raise InputError(f"{data} cannot be read as {kind}: {one_line(error.__cause__ or error)}") from error
    if not len(table):
        raise InputError(no_rows)
    told = files if kind == "parquet" else []  # arrow files of different classes do not become one table
    conflicts = class_conflicts((file, Features.from_arrow_schema(parquet.read_schema(file))) for file in told)
    kind = f"{kind} file" if len(files) == 1 else f"{len(files)} {kind} files"
    named = [(file.name, str(file)) for file in files]
    return LocalTable(table, kind + note, named, roots=folders_of(data, files), conflicts=conflicts)


def folders_of(data: str, files: Sequence[str | Path]) -> tuple[Path, ...]:
    """The folder of data: itself where it is one, else those of its files."""
    return (Path(data),) if Path(data).is_dir() else tuple(dict.fromkeys(Path(file).parent for file in files))


def files_of_split(data: str, files: list[Path], split: str | None, suffix: str) -> tuple[list[Path], str]:
    """Those of `files` that belong to `split`: all, unless names tell parts apart, as train-00000-of-00004.parquet
    or test/0000.parquet; and what a log should say of it."""
    if not files:
        raise InputError(f"no file matches '{data}'")
    other = [file.name for file in files if file.suffix.lower() != suffix]
    if other:
        raise InputError(
            f"{data}: '{other[0]}' is no {suffix[1:]} file. Give a .parquet, .arrow or .tar file, a folder or "
            "glob of one kind of them, or a folder of images"
        )
    files = without_caches(files)
    if not files:
        raise InputError(f"{data} holds caches of `datasets` only, no data: give the folder that save_to_disk wrote")
    splits = splits_of_files(files, Path(data))
    told = {name for name in splits if name}
    by_chance = None in splits and len(told) == 1 and canonical_split(split or "train") == "train"
    if split is None or not told or by_chance:
        return files, "" if split is None else split_note(split)
    if canonical_split(split) not in told:
        raise InputError(f"{data} has no split '{split}': its files belong to {', '.join(sorted(told))}")
    chosen = [file for file, name in zip(files, splits, strict=True) if name == canonical_split(split)]
    left = splits.count(None)
    return chosen, f", {left} files that tell no split left out" if left else ""


def splits_of_files(files: Sequence[Path], root: Path) -> list[str | None]:
    """The split that each file's name begins with, or else the name of the nearest folder below `root` that is one;
    None where nothing tells it. For a glob the root is what all files share."""
    if files and not root.is_dir():
        root = Path(os.path.commonpath([file.parent for file in files]))

    def split_of(file: Path) -> str | None:
        folders = file.parent.relative_to(root).parts if file.parent.is_relative_to(root) else ()
        return next(filter(None, (split_in_name(file.name), *map(split_of_folder, reversed(folders)))), None)

    return [split_of(file) for file in files]


def without_caches(files: Sequence[Path]) -> list[Path]:
    """Files less what `datasets` keeps beside its data: caches of `map` and `filter`, and whatever the `state.json`
    of a data set that `save_to_disk` wrote does not list."""
    listed: dict[Path, frozenset[str] | None] = {}

    def is_cache(file: Path) -> bool:
        if file.parent not in listed:
            try:
                content = json.loads((file.parent / "state.json").read_text(encoding="utf-8"))
                listed[file.parent] = frozenset(str(entry["filename"]) for entry in content["_data_files"])
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                listed[file.parent] = None  # no such data set
        saved = listed[file.parent]
        return file.name.startswith(("cache-", "tmp")) or (saved is not None and file.name not in saved)

    return [file for file in files if file.suffix.lower() != ".arrow" or not is_cache(file)]


def hub_table(name: str, split: str, patterns: list[str] | None = None) -> LocalTable:
    """A data set of the Hub, downloaded by `datasets` or taken from its cache; `patterns` choose some of its files."""
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import constants

    try:
        chosen = {} if patterns is None else {"data_files": {split: patterns}}
        table = load_dataset(name, split=split, **chosen)
    except Exception as error:  # as in `files_table`
        reason = one_line(error)
        if is_unknown_token(error):
            reason = f"it does not know your token; {mend_the_token()}."
        elif isinstance(error, DatasetNotFoundError):
            reason += f" Check the name, and {show_a_token()} if it is private."
        raise InputError(
            f"'{name}' is no local file or folder, and could not be loaded as a data set of the Hub: {reason}"
        ) from error
    if not len(table):
        raise InputError(f"the data set {name} has no rows in split {split}")
    part = f"split {split}" if patterns is None else f"files {', '.join(patterns)}"
    caches = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    return LocalTable(table, f"Hub data set {name}, {part}", [], roots=tuple(map(Path, caches)))


def _num_rows(file: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as parquet: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def split_note(split: str) -> str:
    """What to say of a split where no name tells parts apart; nothing of the default one."""
    return "" if canonical_split(split) == "train" else f" (split '{split}' has no effect: no name tells parts apart)"


def canonical_split(split: str) -> str:
    """`val` as `validation` and so on; other names as they are."""
    return SPLIT_OF.get(split.lower(), split)


def split_of_folder(name: str) -> str | None:
    """Split that a folder's name tells, as train, Valid and val2017 do; train1 may as well be a class."""
    return SPLIT_OF.get(re.sub(r"(19|20)\d\d$", "", name.lower()))


def split_in_name(file_name: str) -> str | None:
    """Split that a file's name begins with, as in train-00000-of-00004.parquet."""
    match = re.match(r"([a-z]+)[-_.]", file_name.lower())
    return SPLIT_OF.get(match[1]) if match else None
