"""What every source of images offers, and the sources whose rows can be read one by one: tables of `datasets`.

Flow: order -> local_tables + columns -> **image_source** -> decode -> views -> loader. Opened by `open_source`.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...plain_text import plain_text
from ..decode import BrokenImage, OpenedImage, open_image
from ..order import PositionOrder, SampleOrder, StreamOrder
from .columns import find_image_column, group_ids, label_ids, require_columns, require_paths
from .local_tables import LocalTable

Columns = tuple[str | None, str | None, str | None]
"""Names of the columns of images, labels and groups, as the user gave them."""

_FILES_IN_FINGERPRINT = 1000
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class RawSample:
    """One undecoded image, the number of its group, and what a user can find it by. `tile` is the part that is meant,
    left, top, width and height in px of the upright picture, None for all of it."""

    bytes_: bytes
    label: int | None = None
    group: int | None = None
    name: str = ""
    tile: tuple[int, int, int, int] | None = None

    def open(self, num_channels: int = 3) -> OpenedImage:
        """The image, or the part of it that is meant, with its header read; raises as `open_image`."""
        opened = open_image(self.bytes_, num_channels)
        if self.tile is None:
            return opened
        left, top, width, height = self.tile
        if left + width > opened.width or top + height > opened.height:
            raise BrokenImage(f"has {opened.width}x{opened.height} px, fewer than when the data were opened")
        return replace(opened, width=width, height=height, part=(left, top))


class ImageSource(ABC):
    """Images by index, as undecoded bytes, with optional label and group, and the order that suits how they are read.

    Attributes:
        description: kind, number of images, columns, an example's size and mode: a few lines for a run's log.
        fingerprint: equal for equal names, sizes and columns, so that a resumed run can tell that its data changed.
        labels, groups: int64 `(num_images,)`, or None without such a column.
        label_names, group_names: text of each label and group, or None where they are numbers.
        shard_rows: int64 `(num_shards,)`, images of each shard that is read in long pieces; None where images can be
            read one by one.
    """

    description: str
    fingerprint: str
    labels: np.ndarray | None = None
    label_names: list[str] | None = None
    groups: np.ndarray | None = None
    group_names: list[str] | None = None
    shard_rows: np.ndarray | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> RawSample:
        """The undecoded image at `index`, from 0 to `len - 1`.

        Raises:
            BrokenImage: the row holds neither bytes nor the path of a file that can be read.
            InputError: the source itself is gone.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What a user can find image `index` by: its path, or its row and the file name stored there."""

    def order(self, seed: int, images_per_step: int) -> PositionOrder:
        """The order of its images; only where rows are read in long pieces does it depend on the images of a step."""
        if self.shard_rows is None:
            return SampleOrder(len(self), seed)
        return StreamOrder(self.shard_rows, seed, images_per_step)

    def head(self, index: int) -> bytes:
        """As much of an image's file as a header takes, where that saves reading the rest; raises as `sample`."""
        return self.sample(index).bytes_

    @property
    def num_labels(self) -> int:
        """Number of classes; 0 without labels."""
        if self.label_names is not None:
            return len(self.label_names)
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def describe(self, kind: str, columns: Sequence[str], used: tuple[str, str | None, str | None]) -> str:
        """Kind, columns (`used`: image, label and group column) and an example: three lines."""
        images, label, group = used
        uses = [f"images from '{images}'"]
        if label is not None:
            uses.append(f"{self.num_labels} labels from '{label}'")
        if self.groups is not None:
            uses.append(f"{int(self.groups.max()) + 1} groups from '{group}'")
        try:
            sample = self.sample(0)
            image = open_any(sample.bytes_)
            example = f"{sample.name}, {image.width}x{image.height} px, mode {image.mode}, {len(sample.bytes_)} bytes"
        except BrokenImage as error:
            example = f"{self.name(0)}, which is broken: {error}"
        about = (kind, f"columns: {', '.join(columns)} ({', '.join(uses)})", f"example: {example}")
        return "\n".join(map(plain_text, about))

    def label_and_group(self, index: int) -> tuple[int | None, int | None]:
        """Label and group of image `index`, where the source has them."""
        label, group = (None if ids is None else int(ids[index]) for ids in (self.labels, self.groups))
        return label, group


class TableSource(ImageSource):
    """A table in memory-mapped Arrow with decoding off, so that a broken file is met in the worker, by name. Columns of
    images, and of labels with names, are found where none is asked for; `data` is what the user gave, for messages."""

    def __init__(self, data: str, opened: LocalTable, columns: Columns, allow_outside_paths: bool) -> None:
        from datasets import Image

        image_column, label_column, group_column = columns
        table, features = opened.table, opened.table.features
        asked, image_column = image_column, find_image_column(features, data, image_column or opened.image_column)
        if asked is not None:
            require_paths(features, data, asked, lambda: table[0][asked])
        if not allow_outside_paths:
            _refuse_outside(opened, image_column)
        if label_column is None and "label" not in opened.conflicts and hasattr(features.get("label"), "names"):
            label_column = "label"  # a ClassLabel
        if label_column in opened.conflicts:
            raise InputError(opened.conflicts[label_column])
        require_columns(features, data, label_column=label_column, group_column=group_column)
        if label_column is not None:
            self.labels, self.label_names = label_ids(table, label_column)
        if group_column is not None:
            self.groups, self.group_names = group_ids(table, group_column)
        self._column = image_column
        self._table = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        used = (image_column, label_column, group_column)
        self.fingerprint = _fingerprint(opened, used)
        number = f"{len(table)} images" if opened.listed is None else f"{len(table)} of {opened.listed} images"
        self.description = self.describe(f"{opened.kind}: {number}", table.column_names, used)

    def __len__(self) -> int:
        return len(self._table)

    def sample(self, index: int) -> RawSample:
        value = self._table[index][self._column]
        label, group = self.label_and_group(index)
        return RawSample(image_bytes(value), label, group, row_name(value, f"row {index}"))

    def head(self, index: int) -> bytes:
        return image_bytes(self._table[index][self._column], most=_HEAD_BYTES)

    def name(self, index: int) -> str:
        return row_name(self._table[index][self._column], f"row {index}")


def open_any(data: bytes) -> OpenedImage:
    """An image of any number of channels."""
    try:
        return open_image(data)
    except BrokenImage as error:
        try:
            return open_image(data, num_channels=0)
        except InputError:  # tifffile is not there: what Pillow said has to do
            raise error from None


def folder_prefixes(folders: Sequence[str | Path]) -> tuple[str, ...]:
    """Folders as paths from the root on, each with a separator at its end. Links are the user's own, and stay."""
    return tuple(os.path.abspath(folder).rstrip(os.sep) + os.sep for folder in folders)  # noqa: PTH100


def leaves(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a path is in none of the folders (`folder_prefixes`); links are not followed."""
    plainly_inside = path.startswith(prefixes) and ".." not in path  # of millions of paths, nearly all
    return not (plainly_inside or os.path.abspath(path).startswith(prefixes))  # noqa: PTH100


def outside(prefixes: tuple[str, ...]) -> str:
    """What is said of a path that leaves the folders."""
    return f"lies outside of {prefixes[0].rstrip(os.sep)}: give --allow-outside-paths if this is meant"


def _refuse_outside(opened: LocalTable, column: str) -> None:
    """Raise `InputError` where a table names a file outside of its folders."""
    from pyarrow import compute, types

    if not opened.roots:
        return
    prefixes = folder_prefixes(opened.roots)
    paths = opened.table.select_columns([column]).with_format("arrow")[:].column(column)
    if types.is_struct(paths.type):
        has_bytes = compute.is_valid(compute.struct_field(paths, "bytes"))
        paths = compute.struct_field(paths, "path").filter(compute.invert(has_bytes))
    elif not (types.is_string(paths.type) or types.is_large_string(paths.type)):
        return
    found = [path for path in paths.to_pylist() if path and leaves(path, prefixes)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(f"{found[0]}{more}: {outside(prefixes)}")


def image_bytes(value: dict[str, Any] | None, prefixes: tuple[str, ...] = (), most: int | None = None) -> bytes:
    """The bytes of one row of an image column, of a file of its own the first `most`; a `BrokenImage` where there are
    none, or the file is in none of the folders of `prefixes` (`folder_prefixes`), where there are any."""
    if value is not None and value.get("bytes") is not None:
        return value["bytes"]
    if value is None or not value.get("path"):
        raise BrokenImage("the row is empty")
    if prefixes and leaves(value["path"], prefixes):
        raise BrokenImage(outside(prefixes))
    try:
        path = Path(value["path"])
        if path.is_file() or not path.exists():  # a pipe or a device may never end
            with path.open("rb") as file:
                return file.read(most)
    except (OSError, ValueError) as error:  # a name that no file can have
        raise BrokenImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise BrokenImage("no regular file")


def row_name(value: dict[str, Any] | None, row: str) -> str:
    """A row by its path, where it is a file of its own, or as `row` with the path that is stored there."""
    path = value.get("path") if value else None
    if value and path and value.get("bytes") is None:
        return path
    return f"{row} ({path})" if path else row


def _fingerprint(opened: LocalTable, columns: Sequence[str | None]) -> str:
    """Hash of names, columns, number of rows, and the sizes of up to a thousand evenly spaced files."""
    digest = hashlib.sha256(repr((opened.kind, len(opened.table), tuple(columns))).encode())
    stride = max(1, len(opened.files) // _FILES_IN_FINGERPRINT)
    for number, (name, path) in enumerate(opened.files):
        digest.update(os.fsencode(name) + b"\0")
        if number % stride == 0:
            size = -1  # a link to nothing is for whoever reads it to name
            with suppress(OSError):
                size = Path(path).stat().st_size
            digest.update(f"{size}\0".encode())
    return digest.hexdigest()[:16]
