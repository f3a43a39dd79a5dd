"""The folder that `pack` writes: whole shards with a report each, or no trace of them.

Under `pack`. What lies in it::

    images-00000-of-00012.parquet   columns image {bytes, path}, name, and the label and group columns asked for
    broken-images.log               one line for each image that was left out, where there are any
    .pack/settings.json             what was packed, and how: a folder is continued only with the same
    .pack/images-00000.json         report of a shard; written after the shard, so that a shard with a report is whole

A shard is written beside, fsynced and renamed; one that a killed process left behind without a report is made again.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pyarrow import Schema, Table, parquet

from ...errors import InputError
from ...files import sync, write_json

BROKEN_LOG = "broken-images.log"
_STATE_FOLDER = ".pack"
_ROWS_PER_GROUP = 128  # parquet's unit of reading; a few MB of small images


@dataclass
class ShardReport:
    """What became of one image or a shard's; of all of them, when added up. `images` are in the shard's file, and their
    encoded bytes in the source and there are counted; `broken` are (name, reason) of those that were left out."""

    images: int = 0
    reencoded: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "ShardReport") -> None:
        """Add another report's numbers and broken images to these."""
        for name, more in vars(other).items():
            setattr(self, name, getattr(self, name) + more)


@dataclass
class PackFolder:
    """Names, reports and whole files of one output folder."""

    out: Path
    num_shards: int

    @property
    def state(self) -> Path:
        return self.out / _STATE_FOLDER

    def shard_path(self, shard: int) -> Path:
        return self.out / f"images-{shard:05d}-of-{self.num_shards:05d}.parquet"

    def start(self, settings: dict[str, Any]) -> None:
        """Make the folder, or see to it that what is there belongs to the same pack."""
        self.state.mkdir(parents=True, exist_ok=True)
        file = self.state / "settings.json"
        if file.exists():
            there = json.loads(file.read_text(encoding="utf-8"))
            if there.get("data") != settings["data"]:
                raise InputError(
                    f"{self.out} holds a pack of other data (or the data changed since): give another folder, or "
                    "remove this one"
                )
            if there.get("settings") != settings["settings"]:
                was = ", ".join(f"{name} {value}" for name, value in there["settings"].items())
                raise InputError(f"{self.out} was begun with {was}: give the same again, or another folder")
        else:
            write_json(file, settings)

    def report(self, shard: int) -> ShardReport | None:
        """Report of a shard that is whole, or None."""
        file = self.state / f"images-{shard:05d}.json"
        if not file.exists():
            return None
        stored = json.loads(file.read_text(encoding="utf-8"))
        size = stored.pop("file_bytes")
        if size and (not self.shard_path(shard).exists() or self.shard_path(shard).stat().st_size != size):
            return None
        return ShardReport(**{**stored, "broken": [(name, reason) for name, reason in stored["broken"]]})

    def write(self, shard: int, report: ShardReport, schema: Schema, rows: Iterator[dict[str, Any]]) -> None:
        """Write a shard of `rows`, which fill in its `report` on the way, and then, when it is there and whole, that. A
        shard without rows gets no file, as `datasets` cannot open one."""
        path, size = self.shard_path(shard), 0
        group = list(islice(rows, _ROWS_PER_GROUP))
        if group:
            part = self.state / f"{path.name}.part"
            with part.open("wb") as stream:
                # images are compressed already, and no two are equal
                with parquet.ParquetWriter(stream, schema, compression="none", use_dictionary=False) as writer:
                    while group:
                        writer.write_table(Table.from_pylist(group, schema=schema))
                        group = list(islice(rows, _ROWS_PER_GROUP))
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            sync(path.parent)
            size = path.stat().st_size
        write_json(self.state / f"images-{shard:05d}.json", {**asdict(report), "file_bytes": size})

    def finish(self, total: ShardReport) -> None:
        """Write the log of broken images, where there are any."""
        if total.broken:
            lines = "".join(f"{name}: {reason}\n" for name, reason in total.broken)
            (self.out / BROKEN_LOG).write_text(lines, encoding="utf-8", errors="backslashreplace")


def check_folder(data: str, out: Path) -> None:
    """Refuse to write where something else lies, or into what is to be packed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the shards, one that is new or empty")
    # Path's own `is_dir` finds a signed address too long
    if os.path.isdir(data) and out.resolve().is_relative_to(Path(data).resolve()):  # noqa: PTH112
        raise InputError(f"{out} lies inside of {data}, which is what is to be packed: give a folder outside of it")
    if out.exists() and any(out.iterdir()) and not (out / _STATE_FOLDER).is_dir():
        raise InputError(f"{out} holds something else already: give a folder that is new or empty")


@contextmanager
def explain_disk_errors(out: Path) -> Iterator[None]:
    """Turn what the disk under `out` refuses into an `InputError` that says how to go on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{out} cannot be written ({reason}): mend that and give the same command again, which continues "
            "behind the last whole shard"
        ) from error
