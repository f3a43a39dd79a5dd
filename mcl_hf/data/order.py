"""Which sample stands at which position: a keyed permutation per epoch, computed instead of stored.

Flow: **order** -> sources -> decode -> views -> loader. Any position of any epoch costs O(1) time and no memory, so a
billion images need no index array, and a resumed run continues by arithmetic.

The permutation is a balanced Feistel network (Luby and Rackoff 1988, https://doi.org/10.1137/0217022) on the smallest
even number of bits that holds the data set, with cycle walking for the numbers above it (Black and Rogaway 2002,
https://doi.org/10.1007/3-540-45760-7_9). The round function is the finaliser of SplitMix64 (Steele, Lea and Flood
2014, https://doi.org/10.1145/2660193.2660195).
"""

from abc import ABC, abstractmethod
from typing import overload

import numpy as np

from ..errors import InputError

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SUBSTITUTE = np.uint64(0xD1B54A32D192ED03)


def mix64(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers one by one (SplitMix64 finaliser, a bijection). Arrays of any shape; overflow wraps by
    design.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


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
    """Maps a position, counted from 0 over all epochs, to a sample index.

    Position `p` belongs to epoch `p // num_samples`; within one epoch every index comes exactly once.

    Args:
        num_samples: images in the data set, at least 1.
        seed: any integer; equal seeds give equal orders on every machine.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise InputError("the data set holds no images, so there is no order to take them in")
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
