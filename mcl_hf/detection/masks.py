"""Masks as polygons, as run lengths and as pixels, all by pycocotools.

Under `detection_data` (rasterised when asked for), `cityscapes` (from instance pictures) and `results` (to be written).
A segmentation is COCO's: a list of polygons `[x0, y0, x1, y1, ...]` in px, or run lengths `{"size": [height, width],
"counts": ...}` in column order, compressed (text) or not (list of integers).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Segmentation = list[list[float]] | dict[str, Any]


def clean_segmentation(value: Any) -> Segmentation | None:
    """A segmentation without polygons of fewer than three points; None where nothing is left.

    Raises:
        ValueError: neither polygons nor run lengths.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        if not {"size", "counts"} <= set(value):
            raise ValueError("run lengths without size and counts")
        counts = value["counts"]
        return {**value, "counts": counts.decode("ascii")} if isinstance(counts, bytes) else value
    if not isinstance(value, list | tuple):
        raise ValueError(f"{type(value).__name__} instead of polygons or run lengths")
    if value and isinstance(value[0], int | float):  # one polygon without the list around it
        value = [value]
    parts = [list(part) for part in value if len(part) >= 6 and len(part) % 2 == 0]
    return parts or None


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
    """Pixels of the masks, uint8 ``(len(segmentations), height, width)`` of 0 and 1."""
    from pycocotools import mask as coco_mask

    if not segmentations:
        return np.zeros((0, height, width), np.uint8)
    # (height, width, n) in column order -> (n, height, width)
    pixels = coco_mask.decode([to_rle(part, height, width) for part in segmentations])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class MaskSequence:
    """Pixels of masks, made one at a time while iterating: those of many objects in a large image do not fit into
    memory together. Each is uint8 ``(height, width)`` of 0 and 1.
    """

    segmentations: Sequence[Segmentation | None]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.segmentations)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_masks([part], self.height, self.width)[0] for part in self.segmentations)


def encode_masks(masks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Run lengths with counts as text, which JSON can hold, of masks ``(height, width)`` each, bool or 0 and 1."""
    from pycocotools import mask as coco_mask

    rles = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return [{"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in rles]


def check_size(segmentation: Segmentation | None, height: int, width: int) -> None:
    """Refuse run lengths that are not of an image of this size: pycocotools would not match them with anything.

    Raises:
        ValueError: of another size, or uncompressed counts that do not add up to it.
    """
    if not isinstance(segmentation, dict):
        return  # polygons have no size of their own
    size = segmentation["size"]
    if [*size] != [height, width]:
        raise ValueError(f"run lengths of size {size!r} (height, width) in an image of {[height, width]}")
    counts = segmentation["counts"]
    if isinstance(counts, list) and sum(counts) != height * width:
        raise ValueError(f"run lengths of {sum(counts)} pixels in an image of {height * width}")


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Number of pixels."""
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(to_rle(segmentation, height, width)))
