"""Files that hold many images, read in blocks of rows: parquet (a block is a row group) and WebDataset tar.

Flow: order -> streams (**shards** + remote_files) -> decode -> views -> loader. A shard knows how many rows it has
before any image is read: parquet says so in its footer; a tar archive is gone through once for its headers, which on a
disk reads them alone and over the network all bytes: that index is kept in the cache of the Hub client (`HF_HOME`).

A row of a tar archive is what its files of one name hold (`0001.jpg`, `0001.cls`), as in WebDataset
(https://github.com/webdataset/webdataset); its columns are the endings.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
from filelock import FileLock
from fsspec.spec import AbstractBufferedFile
from huggingface_hub import constants
from pyarrow import parquet

from ...errors import InputError
from ..order import part_of
from ..sources.local_tables import IMAGE_SUFFIXES, one_line
from ..sources.remote_files import RemoteFile, is_remote, open_remote, plain_address

_TAR_BLOCK_ROWS = 32
_OPEN_FILES = 64
_BUFFER_BYTES = 4 << 20
_TEXTS = ("cls", "txt", "id", "group", "index")


class ParquetShard:
    """A parquet file; `name` is its path or address, `identity` changes when it does, and `largest_block` are the bytes
    of the largest block in memory, as far as it says."""

    def __init__(self, file: RemoteFile | Path, name: str) -> None:
        self.file, self.name = file, name
        with _explained(f"{name} cannot be read as parquet"):
            opened = _parquet_file(os.getpid(), self)
            groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
            self.schema: pyarrow.Schema = opened.schema_arrow
        rows = np.array([group.num_rows for group in groups], dtype=np.int64)
        self.rows, self._first_rows = int(rows.sum()), np.cumsum(rows) - rows  # of each row group
        self.largest_block: int = max((group.total_byte_size for group in groups), default=0)
        self.identity = _identity(file)

    def block_of(self, row: int) -> tuple[int, int]:
        """Number of the block that holds a row, and the row's place in it."""
        return part_of(self._first_rows, row)

    def read_block(self, block: int, column: str) -> pyarrow.ChunkedArray:
        """The images of one block: bytes, paths, or both in a struct; an `InputError` where the file is damaged."""
        with _explained(f"{self.name}: row group {block} cannot be read"):
            return _parquet_file(os.getpid(), self).read_row_group(block, columns=[column]).column(0)

    def read_column(self, column: str) -> pyarrow.Table:
        """A column, whole."""
        with _explained(f"{self.name}: columns {column} cannot be read"):
            return _parquet_file(os.getpid(), self).read(columns=[column])


@lru_cache(maxsize=_OPEN_FILES)
def _parquet_file(_process: int, shard: ParquetShard) -> parquet.ParquetFile:
    """An open file with its footer, one a process, as forked workers must not share a place in a file, and one a shard:
    a file that is written anew and opened again has another footer."""
    if isinstance(shard.file, Path):
        return parquet.ParquetFile(shard.file, memory_map=True)
    return parquet.ParquetFile(_open_binary(shard.file), pre_buffer=True)


class TarShard:
    """A tar archive; attributes and methods are those of `ParquetShard`. Its index has a row for each image: key,
    ending, offset and size in bytes, and the small text files beside it, one column an ending."""

    largest_block = 0  # a few images

    def __init__(self, file: RemoteFile | Path, name: str) -> None:
        self.file, self.name, self.identity = file, name, _identity(file)
        self._index = _tar_index(file, name)
        texts = [field for field in self._index.schema if field.name in _TEXTS]
        self.schema = pyarrow.schema([pyarrow.field("image", pyarrow.binary()), *texts])
        self.rows: int = self._index.num_rows

    def block_of(self, row: int) -> tuple[int, int]:
        return divmod(row, _TAR_BLOCK_ROWS)

    def read_block(self, block: int, column: str) -> pyarrow.Array:
        """Neighbouring images, read in one stretch."""
        rows = self._index.slice(block * _TAR_BLOCK_ROWS, _TAR_BLOCK_ROWS).to_pylist()
        start = min(row["_offset"] for row in rows)
        end = max(row["_offset"] + row["_size"] for row in rows)
        try:
            with _open_binary(self.file) as opened:
                opened.seek(start)
                data = opened.read(end - start)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror or error}") from error
        images = []
        for row in rows:
            first = row["_offset"] - start
            images.append({"bytes": data[first : first + row["_size"]], "path": f"{row['_key']}.{row['_ending']}"})
        return pyarrow.array(images, pyarrow.struct({"bytes": pyarrow.large_binary(), "path": pyarrow.string()}))

    def read_column(self, column: str) -> pyarrow.Table:
        return self._index.select([column])


Shard = ParquetShard | TarShard


def open_shard(address: str) -> Shard:
    """Open a shard by path or address: its rows are counted, no image is read."""
    remote = is_remote(address)
    file = open_remote(address) if remote else Path(address)
    name = plain_address(address) if remote else address
    if name.lower().endswith(".parquet"):
        return ParquetShard(file, name)
    if name.lower().endswith(".tar"):
        return TarShard(file, name)
    raise InputError(f"{name} is neither a .parquet nor a .tar file: give one of these, or a glob of them")


class _RangeFile(AbstractBufferedFile):
    """A `RemoteFile` as a seekable file, for libraries that read one."""

    def __init__(self, file: RemoteFile, cache_type: str) -> None:
        self._file = file
        name = plain_address(file.address)
        super().__init__(None, name, block_size=_BUFFER_BYTES, cache_type=cache_type, size=file.size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._file.read(start, min(end, self._file.size) - start)


def _open_binary(file: RemoteFile | Path, buffered: bool = False) -> BinaryIO:
    """A local or remote file for reading; `buffered` fetches 4 MiB at a time, for going through it from the front."""
    return file.open("rb") if isinstance(file, Path) else _RangeFile(file, "readahead" if buffered else "none")


def _tar_index(file: RemoteFile | Path, name: str) -> pyarrow.Table:
    """The index of an archive; that of one on a server is kept in the cache folder of the Hub client."""
    if isinstance(file, Path):
        return _index_tar(file, name)
    key = hashlib.sha256(f"2 {plain_address(file.address)} {file.size} {file.etag}".encode()).hexdigest()
    cached = Path(constants.HF_HOME) / "mcl_hf" / "tar_indices" / f"{key}.parquet"
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_suffix(".lock")):  # one process of a machine goes through the archive for all
            with suppress(OSError, pyarrow.ArrowException):  # not there, or cut short where the machine stopped
                return parquet.read_table(cached)
            index, partial = _index_tar(file, name), cached.with_suffix(".partial")
            with suppress(OSError):  # a full disk
                parquet.write_table(index, partial)
                partial.replace(cached)
            return index
    except (OSError, NotImplementedError):  # the folder may not be written, or its disk has no locks
        return _index_tar(file, name)


def _index_tar(file: RemoteFile | Path, name: str) -> pyarrow.Table:
    """Go through an archive's headers; of the other files only small ones are read, which are labels and the like."""
    rows: dict[str, dict[str, Any]] = {}
    dotted: dict[str, dict[str, dict[str, Any]]] = {}
    with (
        _explained(f"{name} cannot be read as tar"),
        _open_binary(file, buffered=True) as opened,
        tarfile.open(fileobj=opened, mode="r:", errors="backslashreplace") as archive,  # of names that are no UTF-8
    ):
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            folder, slash, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            if not member.isreg() or not stem or not dot:
                continue
            key, ending = f"{folder}{slash}{stem}", ending.lower()
            last = ending.rpartition(".")[2]
            image: dict[str, Any] = {"_ending": last, "_offset": member.offset_data, "_size": member.size}
            is_image = f".{last}" in IMAGE_SUFFIXES
            if is_image and "." in ending:  # 0001.seg.png beside 0001.jpg, or an image called 2024.05.01.jpg
                dotted.setdefault(key, {})[f"{folder}{slash}{base.rpartition('.')[0]}"] = image
                continue
            row = rows.setdefault(key, {})
            if is_image and row.get("_ending") == last and row["_offset"] != member.offset_data:
                raise tarfile.ReadError(f"two of its files are called {member.name!r}: pack it anew")
            if is_image and "_ending" not in row:
                row |= image
            elif ending in _TEXTS:
                content = archive.extractfile(member)
                row[ending] = "" if content is None else content.read().decode("utf-8", errors="replace").strip()
    for key, named in dotted.items():  # without a plainly named image of its key, each is an image of its own
        if "_ending" not in rows.get(key, {}):
            rows |= {name: {**rows.get(key, {}), **rows.get(name, {}), **image} for name, image in named.items()}
    images: list[dict[str, Any]] = [{"_key": key, **row} for key, row in rows.items() if "_ending" in row]
    text, number = pyarrow.string(), pyarrow.int64()
    kinds = {"_key": text, "_ending": text, "_offset": number, "_size": number}
    kinds |= {ending: text for ending in sorted(_TEXTS) if any(ending in image for image in images)}
    if images and all(image.get("cls", "").isdecimal() for image in images):
        kinds["cls"] = number
        for image in images:
            image["cls"] = int(image["cls"])
    return pyarrow.Table.from_pylist(images, pyarrow.schema(kinds))


def _identity(file: RemoteFile | Path) -> str:
    if isinstance(file, RemoteFile):
        return f"{plain_address(file.address).rpartition('/')[2]} {file.size} {file.etag}"
    try:
        return f"{file.name} {file.stat().st_size}"
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def _explained(failed: str) -> Iterator[None]:
    """Turn what a damaged file, or one that is gone, leads to into an `InputError` of one line."""
    try:
        yield
    except (pyarrow.ArrowException, tarfile.TarError, OSError) as error:
        raise InputError(f"{failed}: {one_line(error)}") from error
