"""Where images come from: one way in, `open_source`, and one thing that comes out, an `ImageSource` of undecoded bytes
addressed by index.

Flow: order -> **sources** -> decode -> views -> loader. Tables are Hugging Face `datasets` (memory-mapped Arrow) with
decoding off, so that a broken file is met in the worker, by name, and nowhere else. Each kind of source has one
function, chosen in `open_source`.
"""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcl_hf.data.decode import BrokenImage, open_image
from mcl_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

PHOTOS_FOLDER = Path(__file__).parent / "photos"
"""Parquet shards of freely licensed photos that come with the package; column ``source_image`` names the photo that a
crop was taken from.
"""

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp".split()
)
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
                "test": "test", "testing": "test", "eval": "test"}  # fmt: skip
_FILES_IN_FINGERPRINT = 1000


@dataclass(frozen=True)
class RawSample:
    """One undecoded image. ``name`` is what a user can find it by; ``group`` counts the values of the group column."""

    bytes_: bytes
    label: int | None
    group: int | None
    name: str


class ImageSource:
    """Images by index, as undecoded bytes, with optional label and group.

    Attributes:
        description: kind, number of images, columns, an example's size and mode; a few lines for a run's log.
        fingerprint: equal for equal content (names, sizes, columns), so that a resumed run can tell that its data
            changed.
        label_names: names of the label ids, or None where the label column has none.
    """

    def __init__(self, table: "Dataset", kind: str, files: Sequence[tuple[str, str]], *, image_column: str,
                 label_column: str | None, group_column: str | None) -> None:  # fmt: skip
        from datasets import Image

        self.kind = kind
        columns = list(table.column_names)
        self.labels, self.label_names = _label_ids(table, label_column)  # (num_images,) int64 or None
        self.groups = _group_ids(table, group_column)  # (num_images,) int64 or None
        self.num_groups = 0 if self.groups is None else int(self.groups.max()) + 1
        self._column = image_column
        self._table = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        self.fingerprint = _fingerprint(kind, len(table), (image_column, label_column, group_column), files)
        self.description = "\n".join([
            f"{kind}: {len(table)} images",
            f"columns: {', '.join(columns)} (images from '{image_column}'"
            + (f", {self.num_labels} labels from '{label_column}'" if label_column else ", no labels")
            + (f", {self.num_groups} groups from '{group_column}')" if group_column else ")"),
            _describe_example(self),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self._table)

    @property
    def num_labels(self) -> int:
        """Number of classes; 0 without labels."""
        if self.label_names is not None:
            return len(self.label_names)
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def sample(self, index: int) -> RawSample:
        """The undecoded image at ``index`` in [0, len).

        Raises:
            BrokenImage: the row holds neither bytes nor the path of a file that can be read.
        """
        value = self._table[index][self._column]
        label = None if self.labels is None else int(self.labels[index])
        group = None if self.groups is None else int(self.groups[index])
        return RawSample(_read(value), label, group, self._name_of(value, index))

    def name(self, index: int) -> str:
        """What a user can find image ``index`` by: its path, or its row and the file name stored there."""
        return self._name_of(self._table[index][self._column], index)

    def _name_of(self, value: dict[str, Any] | None, index: int) -> str:
        path = value.get("path") if value else None
        if path and value and value.get("bytes") is None:
            return path
        return f"row {index} ({path})" if path else f"row {index}"


def open_source(
    data: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split: str = "train",
) -> ImageSource:
    """Open images for reading by index.

    Args:
        data: ``"photos"`` (the embedded photos), a folder of images (flat or by class, at any depth), or a parquet
            file, a folder of them, or a glob.
        image_column: column that holds the images; found by itself where there is only one candidate.
        label_column: column of class ids or names. By-class folders and tables with a ClassLabel column ``label`` give
            labels without it.
        group_column: column whose equal values mark images of one group (crops of one photo, frames of one video).
            Folders of images have ``folder``.
        split: which part to take where folder or file names tell parts apart (train, validation, test).

    Raises:
        InputError: nothing there, no images in it, a column that does not exist or does not fit.
    """
    if data == "photos":
        table, kind, files = _photos_table()
    elif glob.has_magic(data) and not os.path.exists(data):
        table, kind, files = _parquet_table(
            data, [Path(path) for path in sorted(glob.glob(data, recursive=True))], split
        )
    elif os.path.isdir(data):
        table, kind, files = _folder_table(Path(data), split)
    elif os.path.isfile(data):
        table, kind, files = _parquet_table(data, [Path(data)], split)
    else:
        raise InputError(
            f"Data '{data}' is no local file or folder, and only local data is supported so far: give 'photos', a folder of images, or parquet files."
        )
    image_column = _find_image_column(table, data, image_column)
    if label_column is None and _has_class_names(table, "label"):
        label_column = "label"
    for option, column in (("label_column", label_column), ("group_column", group_column)):
        if column is not None and column not in table.column_names:
            raise InputError(f"{option} '{column}' is not in {data}: its columns are {', '.join(table.column_names)}.")
    return ImageSource(
        table, kind, files, image_column=image_column, label_column=label_column, group_column=group_column
    )


# ---- one function per kind of source: (table, kind, [(file name, full path)]) ---------------------------------------


def _photos_table() -> "tuple[Dataset, str, list[tuple[str, str]]]":
    files = sorted(PHOTOS_FOLDER.glob("*.parquet"))
    if not files:
        raise InputError(
            f"The embedded photos are missing from {PHOTOS_FOLDER}: install the package again, or give a folder of images."
        )
    table, _, named = _parquet_table("photos", files, "train")
    return table, "embedded photos", named


def _parquet_table(data: str, files: list[Path], split: str) -> "tuple[Dataset, str, list[tuple[str, str]]]":
    from datasets import load_dataset

    if not files:
        raise InputError(f"No file matches '{data}'.")
    other = [file.name for file in files if file.suffix != ".parquet"]
    if other:
        raise InputError(
            f"{data}: '{other[0]}' is no parquet file; give a .parquet file, a folder or glob of them, or a folder of images."
        )
    parts = [_split_of(file.name) for file in files]
    if None not in parts:  # every file names its part, as in train-00000-of-00004.parquet
        wanted = _canonical_split(split)
        if wanted not in parts:
            raise InputError(
                f"{data} has no split '{split}': its files belong to {', '.join(sorted({p for p in parts if p}))}."
            )
        files = [file for file, part in zip(files, parts, strict=True) if part == wanted]
    try:
        # glob.escape: `datasets` would read brackets in a folder's name as a pattern
        table = load_dataset(
            "parquet", data_files={"train": [glob.escape(str(file.resolve())) for file in files]}, split="train"
        )
    except (
        Exception
    ) as error:  # `datasets` wraps whatever the reader met; the user needs the file's name and the last line
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{data} cannot be read as parquet: {reason}") from error
    return table, f"parquet, {len(files)} files", [(file.name, str(file)) for file in files]


def _folder_table(folder: Path, split: str) -> "tuple[Dataset, str, list[tuple[str, str]]]":
    from datasets import ClassLabel, Dataset, Features, Value

    root, kind = folder, "folder of images"
    children = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    if children and all(name.lower() in _SPLIT_NAMES for name in children):
        matching = [name for name in sorted(children) if _SPLIT_NAMES[name.lower()] == _canonical_split(split)]
        if not matching:
            raise InputError(f"{folder} has no split '{split}': its folders are {', '.join(sorted(children))}.")
        root, kind = folder / matching[0], f"folder of images, split {matching[0]}"
    images, tables = _walk(root)
    if tables and images:
        raise InputError(
            f"{folder} holds both images and parquet files: give one of the two, for example '{folder}/*.parquet'."
        )
    if tables:
        return _parquet_table(str(folder), [root / name for name in tables], split)
    if not images:
        raise InputError(
            f"{folder} holds no images: looked for {', '.join(sorted(IMAGE_SUFFIXES))} at any depth, and for .parquet files."
        )
    folders = [os.path.dirname(name).replace(os.sep, "/") for name in images]
    columns: dict[str, list[Any]] = {"image": [str(root / name) for name in images], "folder": folders}
    features: dict[str, Any] = {"image": Value("string"), "folder": Value("string")}
    classes = sorted({os.path.basename(name) for name in folders})
    if len(classes) > 1 and "" not in classes and len({name.count("/") for name in folders}) == 1:
        number = {name: index for index, name in enumerate(classes)}
        columns["label"] = [number[os.path.basename(name)] for name in folders]
        features["label"] = ClassLabel(names=classes)
        kind += f" by class ({len(classes)} classes)"
    return Dataset.from_dict(columns, features=Features(features)), kind, [(name, str(root / name)) for name in images]


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Relative paths of images and of parquet files below ``root``, sorted; hidden ones are left out, links to folders
    are followed once.
    """
    images, tables, seen = [], [], set()
    for folder, children, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        children[:] = [name for name in children if not name.startswith(".")]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or (suffix not in IMAGE_SUFFIXES and suffix != ".parquet"):
                continue
            (tables if suffix == ".parquet" else images).append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(images), sorted(tables)


# ---- columns --------------------------------------------------------------------------------------------------------


def _find_image_column(table: "Dataset", data: str, asked: str | None) -> str:
    from datasets import Image, Value

    if len(table) == 0:
        raise InputError(f"{data} holds no images: the table has columns {', '.join(table.column_names)} and no rows.")
    features = table.features
    ready = [
        name
        for name, kind in features.items()
        if isinstance(kind, Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})
    ]
    binary = [
        name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")
    ]
    paths = [
        name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype in ("string", "large_string")
    ]
    if asked is not None:
        if asked not in features:
            raise InputError(
                f"image_column '{asked}' is not in {data}: its columns are {', '.join(table.column_names)}."
            )
        if asked not in ready + binary + paths:
            raise InputError(f"image_column '{asked}' of {data} holds {features[asked]}, not images, bytes or paths.")
        return asked
    candidates = ready or binary or [name for name in paths if name == "image"]
    if len(candidates) == 1:
        return candidates[0]
    if "image" in candidates:
        return "image"
    found = f"several columns could be the images ({', '.join(candidates)})" if candidates else "no column holds images"
    raise InputError(f"{data}: {found}; name one of {', '.join(table.column_names)} as image_column.")


def _has_class_names(table: "Dataset", column: str) -> bool:
    from datasets import ClassLabel

    return isinstance(table.features.get(column), ClassLabel)


def _label_ids(table: "Dataset", column: str | None) -> tuple[np.ndarray | None, list[str] | None]:
    if column is None:
        return None, None
    if _has_class_names(table, column):
        ids, names = _integers(table, column), list(table.features[column].names)
    else:
        ids, values = _encode(table, column)
        if values and all(isinstance(value, int) for value in values):
            ids, names = _integers(table, column), None
        else:
            order = sorted(range(len(values)), key=values.__getitem__)
            rank = np.empty(len(order), dtype=np.int64)
            rank[order] = np.arange(len(order))
            ids, names = rank[ids], [str(values[place]) for place in order]
    if ids.min() < 0:
        raise InputError(
            f"label_column '{column}': {int((ids < 0).sum())} rows have a negative label (no label); remove them or use no labels."
        )
    return ids, names


def _group_ids(table: "Dataset", column: str | None) -> np.ndarray | None:
    return None if column is None else _encode(table, column)[0]


def _encode(table: "Dataset", column: str) -> tuple[np.ndarray, list[Any]]:
    """Every row's place in the list of distinct values, ``(num_images,)`` int64, and that list in order of first
    appearance.
    """
    import pyarrow

    values = table.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    if values.null_count:
        raise InputError(
            f"Column '{column}' has {values.null_count} empty rows: fill them in, or do without the column."
        )
    if pyarrow.types.is_nested(values.type):
        raise InputError(f"Column '{column}' holds {values.type}; labels and groups are single numbers or texts.")
    encoded = values.dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _integers(table: "Dataset", column: str) -> np.ndarray:
    ids, values = _encode(table, column)
    return np.array(values, dtype=np.int64)[ids]


# ---- small things ---------------------------------------------------------------------------------------------------


def _read(value: dict[str, Any] | None) -> bytes:
    if value is None or (value.get("bytes") is None and not value.get("path")):
        raise BrokenImage("the row is empty")
    if value.get("bytes") is not None:
        return value["bytes"]
    try:
        return Path(value["path"]).read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror or error}") from error


def _canonical_split(split: str) -> str:
    return _SPLIT_NAMES.get(split.lower(), split)


def _split_of(file_name: str) -> str | None:
    match = re.match(r"([a-z]+)[-_.]", file_name.lower())
    return _SPLIT_NAMES.get(match[1]) if match else None


def _describe_example(source: ImageSource) -> str:
    try:
        sample = source.sample(0)
        image = open_image(sample.bytes_)
    except BrokenImage as error:
        return f"example: {source.name(0)} is broken ({error})"
    return f"example: {sample.name}, {image.width}x{image.height} px, mode {image.mode}, {len(sample.bytes_)} bytes"


def _fingerprint(kind: str, rows: int, columns: tuple[str | None, ...], files: Sequence[tuple[str, str]]) -> str:
    """Hash of names, columns, number of rows and the sizes of up to a thousand evenly spaced files."""
    digest = hashlib.sha256(repr((kind, rows, columns)).encode())
    stride = max(1, len(files) // _FILES_IN_FINGERPRINT)
    for number, (name, path) in enumerate(files):
        digest.update(os.fsencode(name) + b"\0")
        if number % stride == 0:
            digest.update(str(os.path.getsize(path)).encode())
    return digest.hexdigest()[:16]
