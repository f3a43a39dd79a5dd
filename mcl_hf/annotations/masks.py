"""Masks as polygons, as run lengths and as pixels, all by pycocotools.

A segmentation is COCO's: a list of polygons `[x0, y0, x1, y1, ...]` in px, or run lengths `{"size": [height, width],
"counts": ...}` in column order, compressed (text) or not (list of integers).
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Segmentation = list[list[float]] | dict[str, Any]
_FARTHEST = 10
"""How many times the larger side of its image a polygon may be away: pycocotools walks along every pixel of it."""
_LONGEST = 4_000_000
"""Longest outline of an object, px: pycocotools takes 40 bytes for each, and writes on where there are none left."""


def clean_segmentation(value: Any, height: int, width: int) -> Segmentation | None:
    """A segmentation, not empty, that pycocotools can draw on an image of `height` x `width` px; None where nothing is
    left of it without the polygons of fewer than three points.

    Raises:
        ValueError: neither polygons nor run lengths, coordinates that are no finite numbers or far from the image, or
            run lengths of another size.
    """
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
            low, high, is_finite = min(part), max(part), math.isfinite(sum(part))
        except (TypeError, OverflowError):
            raise ValueError("a polygon has coordinates that are no numbers") from None
        if not is_finite:
            raise ValueError("a polygon has coordinates that are not finite")
        if low < -most or high > most:
            raise ValueError(
                f"a polygon leaves its image of {width}x{height} px by more than {_FARTHEST} times its size"
            )
        length = len(part) // 2 * (high - low)  # at most
        if length > _LONGEST:  # pixels that pycocotools walks along
            points = np.asarray(part, np.float64).reshape(-1, 2)
            length = float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        outline += length
        if outline > _LONGEST:
            raise ValueError(f"polygons whose outline is longer than {_LONGEST:,} px")
        parts.append(list(part))
    return parts or None


def _clean_run_lengths(value: dict[str, Any], height: int, width: int) -> Segmentation:
    if not {"size", "counts"} <= set(value):
        raise ValueError("run lengths without size and counts")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list | tuple) or [*size] != [height, width]:
        raise ValueError(f"run lengths of size {size!r:.60} (height, width) in an image of {[height, width]}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    if isinstance(counts, str):
        runs = _runs(counts)
    elif isinstance(counts, list | tuple):
        try:
            runs = counts = list(map(operator.index, counts))
        except TypeError:
            raise ValueError("run lengths that are no whole numbers") from None
    else:
        raise ValueError(f"run lengths whose counts are {type(counts).__name__}, not a text or a list")
    if sum(runs) != height * width:
        raise ValueError(f"run lengths of {sum(runs)} pixels in an image of {height * width}")
    if min(runs, default=0) < 0:
        raise ValueError("run lengths below zero")
    return {**value, "size": [height, width], "counts": counts}


def _runs(counts: str) -> list[int]:
    """Compressed run lengths as numbers. pycocotools itself reads past the end of those that are cut short, and fills
    what they lack with whatever lies in memory.

    Raises:
        ValueError: pycocotools does not write such.
    """
    if not counts:
        return []
    # a number is written in digits of 5 bits, the lowest first; bit 32 says that another digit follows
    digits = np.frombuffer(counts.encode(errors="surrogatepass"), np.uint8).astype(np.int64) - 48  # (d,)
    if ((digits < 0) | (digits > 63)).any():
        raise ValueError("run lengths with characters that do not belong there")
    ends = np.flatnonzero(digits < 32)
    if digits[-1] >= 32:
        raise ValueError("run lengths that are cut short")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((digits & 31) << 5 * place, starts)
    runs -= (digits[ends] & 16) * 2 << 5 * place[ends]  # the sign
    for first in (1, 2):  # from the fourth on, a number is the difference to the last but one
        runs[first::2] = np.cumsum(runs[first::2])
    if place.max() > 6 or runs.min() < 0:
        raise ValueError("run lengths below zero or beyond any image")
    return runs.tolist()


def to_rle(segmentation: Segmentation | None, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths as pycocotools works with them; None gives an empty mask."""
    if segmentation is None:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def decode_masks(segmentations: Sequence[Segmentation | None], height: int, width: int) -> np.ndarray:
    """Pixels of the masks, uint8 `(len(segmentations), height, width)` of 0 and 1."""
    if not segmentations:
        return np.zeros((0, height, width), np.uint8)
    # (height, width, n) in column order -> (n, height, width)
    pixels = coco_mask.decode([to_rle(part, height, width) for part in segmentations])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class MaskSequence:
    """Pixels of masks, each uint8 `(height, width)` of 0 and 1, made one at a time while iterating: those of many
    objects in a large image do not fit into memory together."""

    segmentations: Sequence[Segmentation | None]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.segmentations)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_masks([part], self.height, self.width)[0] for part in self.segmentations)


def encode_masks(masks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Run lengths with counts as text, which JSON can hold, of masks `(height, width)` each, bool or 0 and 1."""
    return [as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))) for mask in masks]


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """Compressed run lengths whose counts are text and no bytes."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def mask_boxes(masks: Sequence[dict[str, Any]]) -> np.ndarray:
    """Boxes around run lengths, float64 `(n, 4)`, x y width height in px."""
    return np.asarray(coco_mask.toBbox(list(masks))).reshape(-1, 4)


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Number of pixels."""
    return float(coco_mask.area(to_rle(segmentation, height, width)))
