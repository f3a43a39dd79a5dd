"""Several sources as one, in fixed shares.

Flow: order -> **mixing** -> decode -> views -> loader. Positions are cut into stretches of 10,000. In each stretch
every source has the number of places that its share gives it, at places permuted by a key, and its images come there in
its own order, from which it goes on in the next stretch. So the shares hold exactly, each source goes through its own
epochs, and the whole is still a function of the position. (Where a source begins anew, an image may come twice within a
step.)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import InputError
from ..order import PositionOrder, SampleOrder, part_of
from .image_source import ImageSource, RawSample

STRETCH = 10_000


class MixedSource(ImageSource):
    """Sources one after the other in one index, and taken in shares: `weights` are positive, of any sum; None takes the
    numbers of images, so that an epoch is one of each source."""

    def __init__(self, sources: Sequence[ImageSource], weights: Sequence[float] | None = None) -> None:
        self._sources = list(sources)
        sizes = np.array([len(source) for source in self._sources], dtype=np.int64)
        self._size = int(sizes.sum())
        self._first_index = np.cumsum(sizes) - sizes
        self._counts = _places(sizes if weights is None else np.asarray(weights, dtype=np.float64))
        self.labels, self.label_names = _join_labels(self._sources)
        groups = [source.groups for source in self._sources if source.groups is not None]
        if len(groups) == len(self._sources):
            firsts = np.cumsum([0, *(part.max() + 1 for part in groups[:-1])])
            self.groups = np.concatenate([part + first for part, first in zip(groups, firsts, strict=True)])
        parts_of = [f"{source.fingerprint} {count}" for source, count in zip(sources, self._counts, strict=True)]
        self.fingerprint = hashlib.sha256("\0".join(parts_of).encode()).hexdigest()[:16]
        shares = zip(self._sources, self._counts, strict=True)
        parts = [f"share {count / STRETCH:.2%} of {source.description}" for source, count in shares]
        self.description = "\n".join([f"{len(self._sources)} sources mixed: {self._size} images", *parts])

    def __len__(self) -> int:
        return self._size

    def sample(self, index: int) -> RawSample:
        number, place = part_of(self._first_index, index)
        label, group = self.label_and_group(index)
        return replace(self._sources[number].sample(place), label=label, group=group)

    def name(self, index: int) -> str:
        number, place = part_of(self._first_index, index)
        return self._sources[number].name(place)

    def order(self, seed: int, images_per_step: int) -> "MixedOrder":
        """The sources' own orders, interleaved."""
        orders = []
        for number, (source, count) in enumerate(zip(self._sources, self._counts.tolist(), strict=True)):
            if count * images_per_step > len(source) * STRETCH:
                raise InputError(
                    f"A source of {len(source)} images cannot fill {count / STRETCH:.1%} of a step of "
                    f"{images_per_step}: give it less weight, or use smaller steps"
                )
            orders.append(source.order(seed + 101 * (number + 1), max(1, round(images_per_step * count / STRETCH))))
        return MixedOrder(orders, self._counts, self._first_index, seed)


class MixedOrder(PositionOrder):
    """See the module. `counts`: places of each source in a stretch; `first_index`: of each source's image 0."""

    def __init__(self, orders: Sequence[PositionOrder], counts: np.ndarray, first_index: np.ndarray, seed: int) -> None:
        self._orders, self._counts, self._first_index = list(orders), counts, first_index
        self._places = SampleOrder(STRETCH, seed + 1)
        self._ends = np.cumsum(counts)
        self._stretch: tuple[int, np.ndarray, np.ndarray] | None = None

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        result = np.empty_like(positions)
        sources, numbers = self._source_positions(positions)
        for source, order in enumerate(self._orders):
            mask = sources == source
            if mask.any():
                result[mask] = self._first_index[source] + order.index(numbers[mask])
        return result

    def substitute(self, position: int, salt: int) -> int:
        """A stand-in from the same source."""
        sources, numbers = self._source_positions(np.array([position]))
        source = int(sources[0])
        return int(self._first_index[source]) + self._orders[source].substitute(int(numbers[0]), salt)

    def _source_positions(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each position, and the position within that source's own order."""
        stretches, offsets = np.divmod(positions, STRETCH)
        sources, numbers = np.empty_like(positions), np.empty_like(positions)
        for stretch in np.unique(stretches).tolist():
            mask = stretches == stretch
            of_place, rank = self._deal(stretch)
            sources[mask] = of_place[offsets[mask]]
            numbers[mask] = stretch * self._counts[sources[mask]] + rank[offsets[mask]]
        return sources, numbers

    def _deal(self, stretch: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of every place of a stretch, and how many of that source came before it; the latest one is kept."""
        if self._stretch is None or self._stretch[0] != stretch:
            drawn = self._places.index(stretch * STRETCH + np.arange(STRETCH))
            of_place = np.searchsorted(self._ends, drawn, side="right")
            rank = np.empty(STRETCH, dtype=np.int64)
            for source, count in enumerate(self._counts.tolist()):
                rank[of_place == source] = np.arange(count)
            self._stretch = (stretch, of_place, rank)
        return self._stretch[1], self._stretch[2]


def _places(weights: np.ndarray) -> np.ndarray:
    """Places of each source in a stretch: its share rounded, the largest remainders up; int64 that sum to STRETCH."""
    exact = STRETCH * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: STRETCH - int(counts.sum())]
    counts[largest] += 1
    if counts.min() < 1:
        number = int(counts.argmin())
        raise InputError(
            f"the share of source {number + 1} of {len(counts)} is {weights[number] / weights.sum():.2g}; "
            f"it has to be at least 1 in {STRETCH}: give it more weight"
        )
    return counts


def _join_labels(sources: Sequence[ImageSource]) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels of all sources in one numbering: by name where all have names, as they are where none has."""
    parts = [source.labels for source in sources if source.labels is not None]
    if len(parts) < len(sources):
        return None, None
    named = [source.label_names for source in sources if source.label_names is not None]
    if not named:
        return np.concatenate(parts), None
    if len(named) < len(sources):
        raise InputError(
            "some of the sources have labels with names and some have bare numbers: give them labels of one kind"
        )
    names = sorted({name for part in named for name in part})
    number = {name: index for index, name in enumerate(names)}
    return np.concatenate(
        [np.array([number[n] for n in own], dtype=np.int64)[part] for part, own in zip(parts, named, strict=True)]
    ), names
