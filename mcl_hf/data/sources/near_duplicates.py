"""Which images look the same: a 64-bit hash of each, and the groups of images whose hashes are close.

Beside the flow; `mcl-hf show data` counts them. In contrastive learning every other image of a step is a negative, so
two copies of one picture are pushed apart although they should not be.

The hash holds the signs of the low frequencies of a discrete cosine transform, which survive another size, another
JPEG quality, brightness and contrast. A flipped or differently cropped copy is another image to it. Source: C. Zauner,
Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from ..decode import BrokenImage, as_picture
from ..workers import each_of
from .image_source import ImageSource

MAX_DISTANCE = 6
"""Largest number of differing bits between the hashes of two images that count as nearly the same."""

_SIDE, _KEPT = 32, 8
_COSINES = np.sqrt(2 / _SIDE) * np.cos(
    np.pi * np.arange(_KEPT)[:, None] * (2 * np.arange(_SIDE)[None] + 1) / (2 * _SIDE)
)
_COSINES[0] /= np.sqrt(2)  # the first 8 rows of the orthonormal DCT-II of length 32: float64 (8, 32)
_ROWS_AT_ONCE = 256
_IMAGES_PER_TASK = 16


def perceptual_hash(pixels: np.ndarray) -> int:
    """Hash of a picture, uint8 `(H, W, C)` with 1 or 3 channels: an unsigned number of 64 bits, close in bits for
    pictures that look alike."""
    gray = as_picture(pixels).convert("L")
    small = np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), dtype=np.float64)  # (32, 32)
    low = (_COSINES @ small @ _COSINES.T).reshape(-1)  # (64,)
    low[0] = 0.0  # the mean brightness
    low = np.round(low, 6)  # what is left of a flat picture is rounding
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_duplicate_pairs(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """All pairs of hashes that differ in at most `max_distance` bits: int64 `(P, 2)`, the smaller index first, in
    ascending order, of uint64 `(N,)`. Takes N^2 / 2 comparisons, a few seconds for 20,000."""
    found = []
    for first in range(0, len(hashes), _ROWS_AT_ONCE):
        rows = hashes[first : first + _ROWS_AT_ONCE]
        distances = np.bitwise_count(rows[:, None] ^ hashes[None, first:])  # (rows, the rest) uint8
        pairs = np.argwhere(distances <= max_distance) + first
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def group_pairs(pairs: np.ndarray) -> list[list[int]]:
    """Connect pairs, integers `(P, 2)`, to groups: whatever is linked by a chain of pairs is one group. The largest
    group comes first, members ascend."""
    group_of: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        small, large = sorted((group_of.setdefault(one, [one]), group_of.setdefault(other, [other])), key=len)
        if small is not large:
            large += small
            group_of |= dict.fromkeys(small, large)
    groups = {id(group): sorted(group) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


@dataclass
class NearDuplicates:
    """What a search through part of a source, or all of it, found.

    Attributes:
        looked_at: images compared; broken ones are not among them.
        groups: indices in the source of images that look the same and would be each other's negatives, the largest
            group first.
        pairs: of such images.
        pairs_in_one_group: pairs that look the same and belong to one group of the group column: no negatives.
        broken: one line, name and reason, for each image that cannot be decoded.
    """

    looked_at: int
    groups: list[list[int]]
    pairs: int
    pairs_in_one_group: int
    broken: list[str]

    @property
    def images(self) -> int:
        """Images that look like another one."""
        return sum(map(len, self.groups))


def find_near_duplicates(source: ImageSource, indices: Sequence[int], *, num_workers: int = 0) -> NearDuplicates:
    """Compare the images at `indices` of a source with each other; `num_workers` processes decode and hash, 0: here."""
    results = list(each_of(partial(_hash_of, source), indices, _IMAGES_PER_TASK, num_workers))
    whole = [(index, result) for index, result in zip(indices, results, strict=True) if isinstance(result, int)]
    places = np.array([index for index, _ in whole], dtype=np.int64)
    hashes = np.array([number for _, number in whole], dtype=np.uint64)
    pairs = places[near_duplicate_pairs(hashes)]  # (P, 2), indices in the source
    groups = np.arange(len(source)) if source.groups is None else source.groups
    negatives = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
    return NearDuplicates(
        looked_at=len(whole),
        groups=group_pairs(negatives),
        pairs=len(negatives),
        pairs_in_one_group=len(pairs) - len(negatives),
        broken=[result for result in results if isinstance(result, str)],
    )


def _hash_of(source: ImageSource, index: int) -> int | str:
    """The hash of an image, or a line that says why there is none."""
    try:
        image = source.sample(index).open()
        return perceptual_hash(image.decode(1, image.shrink_for(min(image.width, image.height) // _SIDE)))
    except BrokenImage as error:
        return f"{source.name(index)}: {error}"
