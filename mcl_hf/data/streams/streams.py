"""Images read from shards where they lie, on disk or on a server, a block of rows at a time.

Flow: order -> **streams** (shards + remote_files) -> decode -> views -> loader. Nothing is copied or converted
first. Each worker keeps the blocks that it has read last, up to `CACHE_BYTES`; `StreamOrder` sees to it that it comes
back to few.
"""

import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow

from ...errors import InputError
from ...plain_text import plain_text
from ..decode import BrokenImage
from ..order import part_of
from ..sources.addresses import Shards
from ..sources.columns import class_conflicts, find_image_column, group_ids, label_ids, require_columns, require_paths
from ..sources.image_source import Columns, ImageSource, RawSample, folder_prefixes, image_bytes, row_name
from ..sources.local_tables import folders_of, one_line
from ..sources.remote_files import is_remote, shown_data
from ..sources.split_column import SPLIT_COLUMNS
from .shards import Shard, open_shard

CACHE_BYTES = 1 << 30
_OPENING_THREADS = 16


class StreamSource(ImageSource):
    """Images of many shards by index, shard 0's rows first. Labels and groups are read whole when they are asked for, 8
    bytes an image each; `data` is what the user gave, for messages."""

    def __init__(self, data: str, opened: Shards, columns: Columns, allow_outside_paths: bool) -> None:
        from datasets import Features

        image_column, label_column, group_column = columns
        # paths on a server's side mean nothing here, see `sample`
        anywhere = allow_outside_paths or is_remote(opened.addresses[0])
        self._prefixes = () if anywhere else folder_prefixes(folders_of(data, opened.addresses))
        data = shown_data(data)
        with ThreadPoolExecutor(_OPENING_THREADS) as threads:
            shards = list(threads.map(open_shard, opened.addresses))
        self._shards = [shard for shard in shards if shard.rows]
        if not self._shards:
            raise InputError(f"{data} holds no images: its shards have no rows")
        self.shard_rows = np.array([shard.rows for shard in self._shards], dtype=np.int64)
        self._first_index = np.cumsum(self.shard_rows) - self.shard_rows
        self._cache: OrderedDict[tuple[int, int], pyarrow.Array | pyarrow.ChunkedArray] = OrderedDict()
        self._cached_bytes = 0
        kinds = {shard: Features.from_arrow_schema(shard.schema) for shard in self._shards}
        features = kinds[self._shards[0]]
        self._column = find_image_column(features, data, image_column)
        require_columns(features, data, label_column=label_column, group_column=group_column)
        for shard, own in kinds.items():
            missing = [name for name in (self._column, label_column, group_column) if name and name not in own]
            if missing:
                raise InputError(
                    f"{shard.name} has no column '{missing[0]}', which {self._shards[0].name} has: "
                    "leave it out, or give data of one kind"
                )
            find_image_column(own, shard.name, self._column)
        if label_column is not None:
            conflicts = class_conflicts((shard.name, own) for shard, own in kinds.items())
            if label_column in conflicts:
                raise InputError(conflicts[label_column])
            self.labels, self.label_names = label_ids(self._read_column(label_column), label_column)
        if group_column is not None:
            self.groups, self.group_names = group_ids(self._read_column(group_column), group_column)
        used = (self._column, label_column, group_column)
        digest = hashlib.sha256(repr(("stream", len(self), used)).encode())
        for shard in self._shards:
            digest.update(f"{shard.identity} {shard.rows}\0".encode())
        self.fingerprint = digest.hexdigest()[:16]
        first = self._shards[0]
        require_paths(features, data, self._column, lambda: first.read_column(self._column).column(0)[0].as_py())
        count = "1 shard" if len(self._shards) == 1 else f"{len(self._shards)} shards"
        kind = f"{opened.kind}, read in a stream: {len(self)} images in {count}"
        self.description = self.describe(kind, list(features), used)
        told = [name for name in features if name.lower() in SPLIT_COLUMNS]
        if told:
            self.description += (
                f"\nwarning: column {plain_text(told[0])} chooses no rows, as a stream is read whole: leave test "
                "images out of its shards, or read them without --streaming"
            )
        largest = max(self._shards, key=lambda shard: shard.largest_block)
        if largest.largest_block > CACHE_BYTES:
            self.description += (
                f"\nwarning: {largest.name} has a row group of {largest.largest_block / 1e9:.1f} GB, "
                f"more than the {CACHE_BYTES / 1e9:.1f} GB that a worker keeps; it is read whole, again and again, for "
                "one image: mcl-hf pack writes small row groups"
            )

    def __len__(self) -> int:
        return int(self._first_index[-1]) + self._shards[-1].rows

    def sample(self, index: int) -> RawSample:
        shard, value, row = self._value(index)
        if is_remote(shard.name) and (value is None or value.get("bytes") is None):
            raise BrokenImage("the row holds no bytes")  # a path on the server's side means nothing here
        label, group = self.label_and_group(index)
        return RawSample(image_bytes(value, self._prefixes), label, group, row_name(value, row))

    def name(self, index: int) -> str:
        _, value, row = self._value(index)
        return row_name(value, row)

    def _value(self, index: int) -> tuple[Shard, dict[str, Any] | None, str]:
        number, row = part_of(self._first_index, index)
        shard = self._shards[number]
        block, place = shard.block_of(row)
        stored = self._block(number, block)[place].as_py()
        if isinstance(stored, bytes):
            stored = {"bytes": stored, "path": None}
        elif isinstance(stored, str):
            stored = {"bytes": None, "path": stored}
        return shard, stored, f"{shard.name} row {row}"

    def _block(self, number: int, block: int) -> pyarrow.Array | pyarrow.ChunkedArray:
        key = (number, block)
        if key not in self._cache:
            self._cache[key] = self._shards[number].read_block(block, self._column)
            self._cached_bytes += self._cache[key].nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(key)
        return self._cache[key]

    def _read_column(self, column: str) -> Any:
        from datasets import Dataset

        with ThreadPoolExecutor(_OPENING_THREADS) as threads:
            tables = list(threads.map(lambda shard: shard.read_column(column), self._shards))
        try:
            return Dataset(pyarrow.concat_tables(tables))
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"column '{column}' is not of one type in all shards: {one_line(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the blocks: a spawned worker reads its own."""
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}
