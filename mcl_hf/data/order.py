"""Which sample stands at which position, computed instead of stored.

Flow: **order** -> sources -> decode -> views -> loader. Any position of any epoch costs O(1) time and no memory an
image: a billion images need no index array, and a resumed run continues by arithmetic.

`SampleOrder`, where rows can be read one by one: a keyed permutation an epoch. It is a balanced Feistel network (Luby
and Rackoff 1988, https://doi.org/10.1137/0217022) on the smallest even number of bits that holds the data set, with
cycle walking for the numbers above it (Black and Rogaway 2002, https://doi.org/10.1007/3-540-45760-7_9). The round
function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).

`StreamOrder`, for data that are read in long pieces: in each epoch the shards are permuted by a key and laid end to
end; the row that this gives to a place is a search in one sum per shard. The places are dealt to a fixed number of
lanes, equally long stretches of that line, and within a lane to blocks of `block_rows` rows that are permuted inside by
a key. Positions go through the lanes in turn, `chunk` positions at a time. So a batch mixes images of many shards,
while whoever reads a lane reads it nearly from front to back, a few blocks at a time. Every row comes exactly once in
an epoch. Lanes follow from the images of a step alone, so neither the number of processes (at equal images a step) nor
that of workers changes the order. With 1, 2, 4 or 8 workers a process no two of them read from one lane.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import overload

import numpy as np

from ..errors import InputError

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SUBSTITUTE = np.uint64(0xD1B54A32D192ED03)

BLOCK_ROWS = 128
CHUNK = 16
_LANE_STEPS = 8  # steps in a row that take from lanes of their own
_STAND_INS_NEARBY = 3
_NO_IMAGES = "the data set holds no images, so there is no order to take them in"


def mix64(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers of any shape one by one (SplitMix64 finaliser, a bijection); overflow wraps by design."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def part_of(firsts: np.ndarray, index: int) -> tuple[int, int]:
    """Number of the part that holds an index, and its place there; `firsts` are the first indices of all parts."""
    number = int(np.searchsorted(firsts, index, side="right")) - 1  # of equal ones, which have no rows, the last
    return number, index - int(firsts[number])


class PositionOrder(ABC):
    """Maps positions, counted from 0 over all epochs, to sample indices."""

    @overload
    def index(self, position: int) -> int: ...
    @overload
    def index(self, position: np.ndarray) -> np.ndarray: ...
    def index(self, position: int | np.ndarray) -> int | np.ndarray:
        """Sample index at `position`: an int for an int, an int64 array of the same shape for an integer array."""
        if not isinstance(position, np.ndarray):
            return int(self._indices(np.array([position], dtype=np.int64))[0])
        return self._indices(position.astype(np.int64).reshape(-1)).reshape(position.shape)

    @abstractmethod
    def _indices(self, positions: np.ndarray) -> np.ndarray:
        """int64 `(P,)` to int64 `(P,)`."""

    @abstractmethod
    def substitute(self, position: int, salt: int) -> int:
        """Index of the `salt`-th stand-in (1, 2, ...) for a sample at `position` that turned out to be broken."""


class SampleOrder(PositionOrder):
    """Maps a position, counted from 0 over all epochs, to a sample index: position `p` belongs to epoch
    `p // num_samples`, and within one epoch every index comes exactly once. Equal seeds, which are any integers, give
    equal orders on every machine.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise InputError(_NO_IMAGES)
        self.num_samples = num_samples
        self.seed = seed
        # Fewer than 3 bits a side would leave a tiny data set with few different permutations.
        self._half_bits = max(3, ((num_samples - 1).bit_length() + 1) // 2)
        self._seed_key = mix64(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        epochs, numbers = np.divmod(positions.astype(np.uint64), np.uint64(self.num_samples))
        epoch_keys = mix64(self._seed_key + (epochs + np.uint64(1)) * _GOLDEN)
        numbers = self._encrypt(numbers, epoch_keys)
        # Cycle walking: numbers outside the data set are encrypted again. As the network permutes its whole domain,
        # this stays a permutation.
        outside = np.flatnonzero(numbers >= np.uint64(self.num_samples))
        while outside.size:
            numbers[outside] = self._encrypt(numbers[outside], epoch_keys[outside])
            outside = outside[numbers[outside] >= np.uint64(self.num_samples)]
        return numbers.astype(np.int64)

    def substitute(self, position: int, salt: int) -> int:
        number = (
            self._seed_key
            + np.array([position], dtype=np.uint64) * _GOLDEN
            + np.array([salt], dtype=np.uint64) * _SUBSTITUTE
        )
        return int(mix64(mix64(number))[0] % np.uint64(self.num_samples))

    def _encrypt(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        half_bits = np.uint64(self._half_bits)
        mask = np.uint64((1 << self._half_bits) - 1)
        left, right = numbers >> half_bits, numbers & mask
        for round_ in range(1, _ROUNDS + 1):
            left, right = right, left ^ (mix64(right * _GOLDEN + mix64(keys + np.uint64(round_))) & mask)
        return (left << half_bits) | right


class StreamOrder(PositionOrder):
    """Maps a position, counted from 0 over all epochs, to a sample index; shard 0's rows come first, then shard 1's.

    Args:
        shard_rows: rows of each shard.
        seed: any integer.
        images_per_step: images of a step on all processes together; decides the number of lanes.
        block_rows: rows that are permuted among themselves.
        chunk: neighbouring positions that come from one block.
    """

    def __init__(
        self,
        shard_rows: Sequence[int] | np.ndarray,
        seed: int,
        images_per_step: int,
        block_rows: int = BLOCK_ROWS,
        chunk: int = CHUNK,
    ) -> None:
        rows = np.asarray(shard_rows, dtype=np.int64)
        self.num_samples = int(rows.sum())
        if self.num_samples < 1:
            raise InputError(_NO_IMAGES)
        self.seed = seed
        self.chunk = chunk
        self.lanes = max(1, min(_LANE_STEPS * max(1, images_per_step // chunk), self.num_samples // block_rows))
        self.lane_rows = self.num_samples // self.lanes
        self.block_rows = min(block_rows, self.lane_rows)
        self._shard_rows = rows
        self._first_index = np.cumsum(rows) - rows  # index of each shard's row 0
        self._shards = SampleOrder(len(rows), seed)
        # One permutation a block: the block's number takes the place of the epoch.
        self._blocks_per_lane = -(-self.lane_rows // self.block_rows)
        self._in_block = SampleOrder(self.block_rows, seed + 1)
        short = self.lane_rows % self.block_rows
        self._in_short_block = SampleOrder(short, seed + 2) if short else None
        rest = self.num_samples - self.lanes * self.lane_rows  # fewer rows than lanes, at the end of the line
        self._in_rest = SampleOrder(rest, seed + 3) if rest else None
        self._line: tuple[int, np.ndarray, np.ndarray] | None = None

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        epochs, offsets = np.divmod(positions, self.num_samples)
        places = self._place(epochs, offsets)
        result = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            mask = epochs == epoch
            result[mask] = self._index_at(epoch, places[mask])
        return result

    def shard_and_row(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard number and row within it of sample indices, int64 arrays of the same shape."""
        shards = np.searchsorted(self._first_index, index, side="right") - 1
        # Shards without rows share their first index with the next one, which `right` has passed over.
        return shards, index - self._first_index[shards]

    def substitute(self, position: int, salt: int) -> int:
        """The first few come from the image's neighbourhood, which has been read already, the others from anywhere."""
        key = np.array([self.seed % 2**64], dtype=np.uint64) + np.array([position], dtype=np.uint64) * _GOLDEN
        number = int(mix64(mix64(key) + np.array([salt], dtype=np.uint64))[0])
        if salt > _STAND_INS_NEARBY:
            return number % self.num_samples
        epoch, offset = divmod(position, self.num_samples)
        place = int(self._place(np.array([epoch]), np.array([offset]))[0])
        first = place // self.block_rows * self.block_rows
        length = min(self.block_rows, self.num_samples - first)
        return int(self._index_at(epoch, np.array([first + number % length]))[0])

    def _place(self, epochs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Place on the epoch's line of rows of the `offsets`-th position of an epoch: lanes, then blocks."""
        in_lanes = self.lanes * self.lane_rows
        round_length = self.lanes * self.chunk
        whole_rounds = self.lane_rows // self.chunk
        rounds, within = np.divmod(offsets, round_length)
        # The last round hands out what a lane has left, fewer than a chunk.
        left = max(1, self.lane_rows - whole_rounds * self.chunk)
        last = rounds >= whole_rounds
        within = np.where(last, offsets - whole_rounds * round_length, within)
        lane, step = np.divmod(within, np.where(last, left, self.chunk))
        in_lane = np.where(last, whole_rounds, rounds) * self.chunk + step

        result = np.empty_like(offsets)
        rest = offsets >= in_lanes
        if self._in_rest is not None and rest.any():
            rest_rows = self._in_rest.num_samples
            result[rest] = in_lanes + self._in_rest.index(epochs[rest] * rest_rows + offsets[rest] - in_lanes)
        block, row = np.divmod(in_lane, self.block_rows)
        number = (epochs * self.lanes + lane) * self._blocks_per_lane + block
        full = ~rest & ((block + 1) * self.block_rows <= self.lane_rows)
        start = lane * self.lane_rows + block * self.block_rows
        result[full] = start[full] + self._in_block.index((number * self.block_rows + row)[full])
        short = ~rest & ~full
        if self._in_short_block is not None and short.any():
            length = self._in_short_block.num_samples
            result[short] = start[short] + self._in_short_block.index((number * length + row)[short])
        return result

    def _index_at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Sample indices at `places` of the epoch's line; the sums of the latest epoch are kept."""
        if self._line is None or self._line[0] != epoch:
            count = len(self._shard_rows)
            shards = self._shards.index(epoch * count + np.arange(count))
            self._line = (epoch, shards, np.cumsum(self._shard_rows[shards]))
        _, shards, ends = self._line
        slot = np.searchsorted(ends, places, side="right")
        shard = shards[slot]
        return self._first_index[shard] + places - (ends[slot] - self._shard_rows[shard])
