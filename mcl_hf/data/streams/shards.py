"""Files that hold many images, read in blocks of rows: parquet (a block is a row group) and WebDataset tar.

Flow: stream_order -> streams (**shards** + remote_files) -> decode -> views -> loader. A shard knows how many rows it
has before any image is read: parquet says so in its footer; a tar archive is gone through once for its headers. On a
disk that reads the headers alone; over the network it means one pass over the bytes, whose result is kept in the cache
folder of the Hub client (`HF_HOME`), so that it happens once.

A row of a tar archive is what its files of one name hold (`0001.jpg`, `0001.cls`), as in WebDataset
(https://github.com/webdataset/webdataset); its columns are the endings.
"""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import InputError
from ..sources.local_tables import IMAGE_SUFFIXES
from ..sources.remote_files import RemoteFile, is_remote, open_binary, open_remote, plain_address

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_TAR_BLOCK_ROWS = 32
_OPEN_FILES = 64


class Block(Protocol):
    """Some rows of a shard in memory."""

    @property
    def num_bytes(self) -> int:
        """What it takes there."""

    def value(self, row: int) -> dict[str, Any] | None:
        """`bytes` and `path` of the block's `row`-th image."""


class Shard(Protocol):
    """One file."""

    @property
    def name(self) -> str:
        """Path or address."""

    @property
    def identity(self) -> str:
        """Changes when the file does."""

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""

    @property
    def rows(self) -> int:
        """Number of its images."""

    @property
    def largest_block(self) -> int:
        """Bytes of the largest block in memory, as far as the shard says."""

    def schema(self) -> "pyarrow.Schema":
        """Columns and their types."""

    def block_of(self, row: int) -> tuple[int, int]:
        """Number of the block that holds a row, and the block's first row."""

    def read_block(self, block: int, column: str) -> Block:
        """Read one block of images.

        Raises:
            InputError: the file is gone or damaged.
        """

    def read_columns(self, columns: list[str]) -> "pyarrow.Table":
        """Columns other than the images, whole."""


def open_shard(address: str) -> Shard:
    """Open a shard by path or address: its rows are counted, no image is read.

    Raises:
        InputError: gone, unreadable, or of another kind than parquet and tar.
    """
    remote = is_remote(address)
    file = open_remote(address) if remote else Path(address)
    name = plain_address(address) if remote else address
    if name.lower().endswith(".parquet"):
        return _open_parquet(file, name)
    if name.lower().endswith(".tar"):
        return _open_tar(file, name)
    raise InputError(f"{name} is neither a .parquet nor a .tar file: give one of these, or a glob of them")


# ---- parquet ---------------------------------------------------------------------------------------------------------


@dataclass
class ParquetBlock:
    """A row group's images."""

    images: "pyarrow.ChunkedArray"

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes

    def value(self, row: int) -> dict[str, Any] | None:
        stored = self.images[row].as_py()
        if isinstance(stored, bytes):
            return {"bytes": stored, "path": None}
        return {"bytes": None, "path": stored} if isinstance(stored, str) else stored


@dataclass
class ParquetShard:
    """See `Shard`. `ends`: row after the last one of each row group."""

    file: RemoteFile | Path
    name: str
    identity: str
    columns: list[str]
    ends: np.ndarray
    largest_block: int

    @property
    def rows(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def schema(self) -> "pyarrow.Schema":
        return _parquet_file(os.getpid(), self.file).schema_arrow

    def block_of(self, row: int) -> tuple[int, int]:
        block = int(np.searchsorted(self.ends, row, side="right"))
        return block, int(self.ends[block - 1]) if block else 0

    def read_block(self, block: int, column: str) -> ParquetBlock:
        import pyarrow

        try:
            table = _parquet_file(os.getpid(), self.file).read_row_group(block, columns=[column])
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.name}: row group {block} cannot be read: {_one_line(error)}") from error
        return ParquetBlock(table.column(0))

    def read_columns(self, columns: list[str]) -> "pyarrow.Table":
        import pyarrow

        try:
            return _parquet_file(os.getpid(), self.file).read(columns=columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.name}: columns {', '.join(columns)} cannot be read: {_one_line(error)}") from error


def _open_parquet(file: RemoteFile | Path, name: str) -> ParquetShard:
    import pyarrow

    try:
        opened = _parquet_file(os.getpid(), file)
        metadata = opened.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        columns = opened.schema_arrow.names
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as parquet: {_one_line(error)}") from error
    ends = np.cumsum(np.array(groups, dtype=np.int64))
    return ParquetShard(file, name, _identity(file), columns, ends, max(sizes, default=0))


@lru_cache(maxsize=_OPEN_FILES)
def _parquet_file(_process: int, file: RemoteFile | Path) -> "ParquetFile":
    """An open file with its footer, one a process: forked workers must not share a place in a file."""
    from pyarrow import parquet

    if isinstance(file, Path):
        return parquet.ParquetFile(file, memory_map=True)
    return parquet.ParquetFile(open_binary(file), pre_buffer=True)


# ---- tar -------------------------------------------------------------------------------------------------------------


@dataclass
class TarBlock:
    """Neighbouring members of an archive, as one stretch of bytes; `starts` counts within it."""

    data: bytes
    starts: np.ndarray
    sizes: np.ndarray
    names: list[str]

    @property
    def num_bytes(self) -> int:
        return len(self.data)

    def value(self, row: int) -> dict[str, Any] | None:
        start = int(self.starts[row])
        return {"bytes": self.data[start : start + int(self.sizes[row])], "path": self.names[row]}


@dataclass
class TarShard:
    """See `Shard`. `index`: a row for each image: key, ending, offset and size in bytes, and the small text files
    beside it, one column an ending.
    """

    file: RemoteFile | Path
    name: str
    identity: str
    index: "pyarrow.Table"
    largest_block = 0  # a few images

    @property
    def rows(self) -> int:
        return self.index.num_rows

    @property
    def columns(self) -> list[str]:
        return self.schema().names

    def schema(self) -> "pyarrow.Schema":
        import pyarrow

        texts = [field for field in self.index.schema if field.name not in ("_key", "_ending", "_offset", "_size")]
        return pyarrow.schema([pyarrow.field("image", pyarrow.binary()), *texts])

    def block_of(self, row: int) -> tuple[int, int]:
        block = row // _TAR_BLOCK_ROWS
        return block, block * _TAR_BLOCK_ROWS

    def read_block(self, block: int, column: str) -> TarBlock:
        part = self.index.slice(block * _TAR_BLOCK_ROWS, _TAR_BLOCK_ROWS)
        offsets, sizes = part.column("_offset").to_numpy(), part.column("_size").to_numpy()
        start, end = int(offsets.min()), int((offsets + sizes).max())
        if isinstance(self.file, RemoteFile):
            data = self.file.read(start, end - start)
        else:
            try:
                with self.file.open("rb") as opened:
                    opened.seek(start)
                    data = opened.read(end - start)
            except OSError as error:
                raise InputError(f"{self.name} cannot be read: {error.strerror or error}") from error
        keys, endings = part.column("_key").to_pylist(), part.column("_ending").to_pylist()
        names = [f"{key}.{ending}" for key, ending in zip(keys, endings, strict=True)]
        return TarBlock(data, offsets - start, sizes, names)

    def read_columns(self, columns: list[str]) -> "pyarrow.Table":
        return self.index.select(columns)


def _open_tar(file: RemoteFile | Path, name: str) -> TarShard:
    from filelock import FileLock
    from pyarrow import parquet

    identity = _identity(file)
    if isinstance(file, Path):
        return TarShard(file, name, identity, _index_tar(file, name))
    from huggingface_hub import constants

    key = hashlib.sha256(f"2 {plain_address(file.address)} {file.size} {file.etag}".encode()).hexdigest()
    cached = Path(constants.HF_HOME) / "mcl_hf" / "tar_indices" / f"{key}.parquet"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_suffix(".lock")):  # one process of a machine goes through the archive for all
        if not cached.exists():
            partial = cached.with_suffix(".partial")
            parquet.write_table(_index_tar(file, name), partial)
            partial.replace(cached)
    return TarShard(file, name, identity, parquet.read_table(cached))


def _index_tar(file: RemoteFile | Path, name: str) -> "pyarrow.Table":
    """Go through an archive's headers; of the other files only small ones are read, which are labels and the like."""
    import pyarrow

    rows: dict[str, dict[str, Any]] = {}
    dotted: dict[str, dict[str, tuple[str, int, int]]] = {}
    try:
        with open_binary(file, buffered=True) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
                folder, slash, base = member.name.rpartition("/")
                stem, dot, ending = base.partition(".")
                if not member.isreg() or not stem or not dot:
                    continue
                ending = ending.lower()
                is_image = f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES
                if is_image and "." in ending:  # 0001.seg.png beside 0001.jpg, or an image called 2024.05.01.jpg
                    whole = base.rpartition(".")[0]
                    image = (ending.rpartition(".")[2], member.offset_data, member.size)
                    dotted.setdefault(f"{folder}{slash}{stem}", {})[f"{folder}{slash}{whole}"] = image
                    continue
                row = rows.setdefault(f"{folder}{slash}{stem}", {})
                if is_image:
                    image = row.setdefault("_image", (ending, member.offset_data, member.size))
                    if image[0] == ending and image[1] != member.offset_data:
                        raise tarfile.ReadError(f"two of its files are called {member.name!r}: pack it anew")
                elif ending in ("cls", "txt", "id", "group", "index"):
                    text = archive.extractfile(member)
                    row[ending] = "" if text is None else text.read().decode("utf-8", errors="replace").strip()
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{name} cannot be read as tar: {_one_line(error)}") from error
    for key, named in dotted.items():  # without a plainly named image of its key, each is an image of its own
        if "_image" not in rows.get(key, {}):
            rows |= {
                name: {**rows.get(key, {}), **rows.get(name, {}), "_image": found} for name, found in named.items()
            }
    images = {key: row for key, row in rows.items() if "_image" in row}
    columns: dict[str, Any] = {"_key": pyarrow.array(list(images), pyarrow.string())}
    for number, (column, kind) in enumerate(
        (("_ending", pyarrow.string()), ("_offset", pyarrow.int64()), ("_size", pyarrow.int64()))
    ):
        columns[column] = pyarrow.array([row["_image"][number] for row in images.values()], kind)
    for ending in sorted({ending for row in images.values() for ending in row if ending != "_image"}):
        values = [row.get(ending) for row in images.values()]
        if ending == "cls" and all(value is not None and value.isdecimal() for value in values):
            columns[ending] = pyarrow.array([int(value or 0) for value in values], pyarrow.int64())
        else:
            columns[ending] = pyarrow.array(values, pyarrow.string())
    return pyarrow.table(columns)


# ---- both ------------------------------------------------------------------------------------------------------------


def _identity(file: RemoteFile | Path) -> str:
    if isinstance(file, RemoteFile):
        return f"{plain_address(file.address).rpartition('/')[2]} {file.size} {file.etag}"
    try:
        return f"{file.name} {file.stat().st_size}"
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
