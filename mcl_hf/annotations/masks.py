"""Masks as polygons, as run lengths and as pixels, all by pycocotools.

Under `detection_data` (rasterised when asked for), `cityscapes` (from instance pictures) and `results` (to be written).
A segmentation is COCO's: a list of polygons `[x0, y0, x1, y1, ...]` in px, or run lengths `{"size": [height, width],
"counts": ...}` in column order, compressed (text) or not (list of integers).
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Segmentation = list[list[float]] | dict[str, Any]
_FARTHEST = 10
"""How many times the larger side of its image a polygon may be away: pycocotools walks along every pixel of it."""
_LONGEST = 4_000_000
"""Longest outline of an object, px: pycocotools takes 40 bytes for each, and writes on where there are none left."""
_AT_ONCE = 20_000


def clean_segmentation(value: Any, height: int, width: int) -> Segmentation | None:
    """A segmentation that pycocotools can draw on an image of `height` x `width` px; None where nothing is left.

    Polygons of fewer than three points are left out. Compressed counts are not decoded: see `run_length_faults`.

    Raises:
        ValueError: neither polygons nor run lengths, coordinates that are no finite numbers or far from the image, or
            run lengths of another size.
    """
    if value is None or value in ([], ()):
        return None
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        return _clean_run_lengths(value, height, width)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{type(value).__name__} instead of polygons or run lengths")
    if isinstance(value[0], int | float):  # one polygon without the list around it
        value = [value]
    elif all(isinstance(part, list | tuple) and len(part) == 2 for part in value):  # one polygon of pairs
        value = [[side for point in value for side in point]]
    most = _FARTHEST * max(height, width)
    parts, outline = [], 0.0
    for part in value:
        if not isinstance(part, list | tuple):
            raise ValueError(f"{type(part).__name__} instead of a polygon")
        if len(part) < 6 or len(part) % 2:
            continue
        try:
            finite = math.isfinite(sum(part))
            low, high = min(part), max(part)
            near = finite and -most <= low and high <= most
        except (TypeError, OverflowError):
            raise ValueError("a polygon has coordinates that are no numbers") from None
        if not near:
            raise ValueError(
                f"a polygon leaves its image of {width}x{height} px by more than {_FARTHEST} times its size"
                if finite
                else "a polygon has coordinates that are not finite"
            )
        length = len(part) // 2 * (high - low)  # at most
        outline += length if length <= _LONGEST else _outline(part)
        if outline > _LONGEST:
            raise ValueError(f"polygons whose outline is longer than {_LONGEST:,} px")
        parts.append(part if isinstance(part, list) else list(part))
    return parts or None


def _outline(polygon: Sequence[float]) -> float:
    """Pixels that pycocotools walks along."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _clean_run_lengths(value: dict[str, Any], height: int, width: int) -> Segmentation:
    if not {"size", "counts"} <= set(value):
        raise ValueError("run lengths without size and counts")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list | tuple) or [*size] != [height, width]:
        raise ValueError(f"run lengths of size {size!r:.60} (height, width) in an image of {[height, width]}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    if isinstance(counts, list | tuple):
        try:
            counts = counts if all(type(count) is int for count in counts) else [operator.index(c) for c in counts]
        except TypeError:
            raise ValueError("run lengths that are no whole numbers") from None
        if sum(counts) != height * width:
            raise ValueError(f"run lengths of {sum(counts)} pixels in an image of {height * width}")
        if min(counts, default=0) < 0:
            raise ValueError("run lengths below zero")
    elif not isinstance(counts, str):
        raise ValueError(f"run lengths whose counts are {type(counts).__name__}, not a text or a list")
    plain = counts is value["counts"] and all(type(side) is int for side in size)
    return value if plain else {"size": [height, width], "counts": counts}


def run_length_faults(counts: Sequence[str], pixels: Sequence[int]) -> dict[int, str]:
    """What is wrong with compressed run lengths, by their place: pycocotools reads past the end of those that are cut
    short, and fills what they lack with whatever lies in memory.

    Args:
        counts: n texts as pycocotools writes them.
        pixels: n areas of the images that they belong to, height times width.
    """
    faults: dict[int, str] = {}
    for start in range(0, len(counts), _AT_ONCE):
        found = _faults_of(counts[start : start + _AT_ONCE], np.asarray(pixels[start : start + _AT_ONCE], np.int64))
        faults |= {start + place: fault for place, fault in found.items()}
    return faults


def _faults_of(counts: Sequence[str], pixels: np.ndarray) -> dict[int, str]:
    lengths = np.array([len(text) for text in counts], np.int64)
    text = np.repeat(np.arange(len(counts)), lengths)  # of each character
    codes = np.frombuffer("".join(counts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64) - 48
    # a number is written in digits of 5 bits, the lowest first; bit 32 says that another digit follows
    strange = np.bincount(text[(codes < 0) | (codes > 63)], minlength=len(counts)) > 0
    cut = np.zeros(len(counts), bool)
    filled = lengths > 0
    cut[filled] = (codes[np.cumsum(lengths)[filled] - 1] & 32) > 0
    whole = ~(strange | cut)
    text, codes = text[whole[text]], codes[whole[text]]
    is_last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1]).astype(np.int64) if len(codes) else text
    digit = np.arange(len(codes)) - starts[np.cumsum(is_last) - is_last]
    long = np.bincount(text[digit > 6], minlength=len(counts)) > 0
    shift = 5 * np.minimum(digit, 11)
    values = np.add.reduceat((codes & 31) << shift, starts) if len(codes) else codes
    values -= np.where(codes[is_last] & 16, np.left_shift(1, shift[is_last] + 5), 0)
    # from the fourth on, a number is the difference to the last but one
    owner = text[is_last]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    order = np.lexsort((place, np.where(place == 0, 0, 2 - place % 2), owner))
    chain = owner[order] * 3 + np.where(place == 0, 0, 2 - place % 2)[order]
    sums = np.cumsum(values[order])
    runs = sums - np.concatenate([[0], sums])[np.searchsorted(chain, chain)]
    negative = np.bincount(owner[order][runs < 0], minlength=len(counts)) > 0
    totals = np.bincount(owner[order], runs, minlength=len(counts))
    faults = {}
    for n in np.flatnonzero(~whole | long | negative | (totals != pixels)):
        if strange[n]:
            faults[int(n)] = "run lengths with characters that do not belong there"
        elif cut[n]:
            faults[int(n)] = "run lengths that are cut short"
        elif long[n] or negative[n]:
            faults[int(n)] = "run lengths below zero or beyond any image"
        else:
            faults[int(n)] = f"run lengths of {int(totals[n])} pixels in an image of {int(pixels[n])}"
    return faults


def to_rle(segmentation: Segmentation | None, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths, counts as bytes, as pycocotools works with them; None gives an empty mask."""
    from pycocotools import mask as coco_mask

    if segmentation is None:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def decode_masks(segmentations: Sequence[Segmentation | None], height: int, width: int) -> np.ndarray:
    """Pixels of the masks, uint8 `(len(segmentations), height, width)` of 0 and 1."""
    from pycocotools import mask as coco_mask

    if not segmentations:
        return np.zeros((0, height, width), np.uint8)
    # (height, width, n) in column order -> (n, height, width)
    pixels = coco_mask.decode([to_rle(part, height, width) for part in segmentations])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class MaskSequence:
    """Pixels of masks, made one at a time while iterating: those of many objects in a large image do not fit into
    memory together. Each is uint8 `(height, width)` of 0 and 1.
    """

    segmentations: Sequence[Segmentation | None]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.segmentations)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_masks([part], self.height, self.width)[0] for part in self.segmentations)


def encode_masks(masks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Run lengths with counts as text, which JSON can hold, of masks `(height, width)` each, bool or 0 and 1."""
    from pycocotools import mask as coco_mask

    return [as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))) for mask in masks]


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """Compressed run lengths whose counts are text and no bytes."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def boxes_around(masks: Sequence[dict[str, Any]]) -> np.ndarray:
    """Boxes of run lengths, float64 `(n, 4)`, x0 y0 x1 y1 in px."""
    from pycocotools import mask as coco_mask

    boxes = np.asarray(coco_mask.toBbox(list(masks))).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Number of pixels."""
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(to_rle(segmentation, height, width)))
