"""Where images come from: one way in, `open_source`, and one thing that comes out, an `ImageSource`.

Flow: order -> local_tables + columns -> **sources** -> decode -> views -> loader. A source is a table of Hugging Face
`datasets` (memory-mapped Arrow) with decoding off, so that a broken file is met in the worker, by name, and nowhere
else. Each kind of source has one function, chosen in `open_source`.
"""

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcl_hf.data.columns import find_image_column, group_ids, has_class_names, label_ids, require_column
from mcl_hf.data.decode import BrokenImage, open_image
from mcl_hf.data.local_tables import LocalTable, folder_table, parquet_table, photos_table
from mcl_hf.errors import InputError

_FILES_IN_FINGERPRINT = 1000


@dataclass(frozen=True)
class RawSample:
    """One undecoded image. ``name`` is what a user can find it by; ``group`` is the number of its group."""

    bytes_: bytes
    label: int | None
    group: int | None
    name: str


class ImageSource:
    """Images by index, as undecoded bytes, with optional label and group.

    Args:
        opened: the table and what it was made from.
        image_column, label_column, group_column: columns of the table; the last two may be None.

    Attributes:
        description: kind, number of images, columns, an example's size and mode: a few lines for a run's log.
        fingerprint: equal for equal names, sizes and columns, so that a resumed run can tell that its data changed.
        labels: int64 ``(num_images,)``, or None without a label column.
        label_names: name of each label id, or None where the labels have no names.
        groups: int64 ``(num_images,)``, or None without a group column.
    """

    def __init__(
        self, opened: LocalTable, image_column: str, label_column: str | None = None, group_column: str | None = None
    ) -> None:
        from datasets import Image

        table = opened.table
        self.labels: np.ndarray | None = None
        self.label_names: list[str] | None = None
        if label_column is not None:
            self.labels, self.label_names = label_ids(table, label_column)
        self.groups = None if group_column is None else group_ids(table, group_column)
        self._column = image_column
        self._table = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        self.fingerprint = _fingerprint(opened, (image_column, label_column, group_column))
        used = [f"images from '{image_column}'"]
        if label_column is not None:
            used.append(f"{self.num_labels} labels from '{label_column}'")
        if self.groups is not None:
            used.append(f"{int(self.groups.max()) + 1} groups from '{group_column}'")
        self.description = (
            f"{opened.kind}: {len(table)} images\n"
            f"columns: {', '.join(table.column_names)} ({', '.join(used)})\n"
            f"example: {self._describe_example()}"
        )

    def __len__(self) -> int:
        return len(self._table)

    @property
    def num_labels(self) -> int:
        """Number of classes; 0 without labels."""
        if self.label_names is not None:
            return len(self.label_names)
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def sample(self, index: int) -> RawSample:
        """The undecoded image at ``index``, from 0 to ``len - 1``.

        Raises:
            BrokenImage: the row holds neither bytes nor the path of a file that can be read.
        """
        value = self._table[index][self._column]
        label = None if self.labels is None else int(self.labels[index])
        group = None if self.groups is None else int(self.groups[index])
        return RawSample(_read(value), label, group, _name(value, index))

    def name(self, index: int) -> str:
        """What a user can find image ``index`` by: its path, or its row and the file name stored there."""
        return _name(self._table[index][self._column], index)

    def _describe_example(self) -> str:
        try:
            sample = self.sample(0)
            image = open_image(sample.bytes_)
        except BrokenImage as error:
            return f"{self.name(0)}, which is broken: {error}"
        return f"{sample.name}, {image.width}x{image.height} px, mode {image.mode}, {len(sample.bytes_)} bytes"


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
        data: ``photos`` (those that come with the package), a folder of images (flat or by class, at any depth), or
            a parquet file, a folder of them or a glob. A folder of your own called photos is ``./photos``.
        image_column: column that holds the images; found by itself where there is only one candidate.
        label_column: column of class numbers or names. By-class folders, and tables whose ``label`` is a ClassLabel,
            give labels without it.
        group_column: column whose equal values mark images of one group (crops of one photo: ``source_image`` in
            the embedded ones). Folders of images have ``folder``.
        split: the part to take where the names of folders or files tell parts apart.

    Raises:
        InputError: nothing there, no images in it, or a column that does not exist or does not fit.
    """
    path = Path(data)
    if data == "photos":
        opened = photos_table()
    elif path.is_dir():
        opened = folder_table(path, split)
    elif path.is_file():
        opened = parquet_table(data, [path], split)
    elif glob.has_magic(data):
        files = sorted(glob.glob(data, recursive=True))  # noqa: PTH207 - Path.glob knows no absolute patterns
        opened = parquet_table(data, [Path(file) for file in files], split)
    else:
        raise InputError(
            f"Data '{data}' is no local file or folder, and only local data is supported so far: "
            "give photos, a folder of images, or parquet files."
        )
    table = opened.table
    image_column = find_image_column(table, data, image_column)
    if label_column is None and has_class_names(table, "label"):
        label_column = "label"
    for option, column in (("label_column", label_column), ("group_column", group_column)):
        if column is not None:
            require_column(table, data, option, column)
    return ImageSource(opened, image_column, label_column, group_column)


def _read(value: dict[str, Any] | None) -> bytes:
    if value is None or (value.get("bytes") is None and not value.get("path")):
        raise BrokenImage("the row is empty")
    if value.get("bytes") is not None:
        return value["bytes"]
    try:
        return Path(value["path"]).read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror or error}") from error


def _name(value: dict[str, Any] | None, index: int) -> str:
    path = value.get("path") if value else None
    if value and path and value.get("bytes") is None:
        return path
    return f"row {index} ({path})" if path else f"row {index}"


def _fingerprint(opened: LocalTable, columns: Sequence[str | None]) -> str:
    """Hash of names, columns, number of rows, and the sizes of up to a thousand evenly spaced files."""
    digest = hashlib.sha256(repr((opened.kind, len(opened.table), tuple(columns))).encode())
    stride = max(1, len(opened.files) // _FILES_IN_FINGERPRINT)
    for number, (name, path) in enumerate(opened.files):
        digest.update(os.fsencode(name) + b"\0")
        if number % stride == 0:
            digest.update(f"{Path(path).stat().st_size}\0".encode())
    return digest.hexdigest()[:16]
