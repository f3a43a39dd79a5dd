"""Overlapping tiles of large pictures, and what was found in them as one list.

Flow: picture -> **tiles** -> predict -> **tiles** -> results. The whole picture is looked at as well, so that nothing
is lost that is found without tiles. Source: SAHI (arXiv 2202.06934).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..annotations.masks import decode_masks, encode_masks
from ..evaluation.results import ImageDetections

SAME_OBJECT = 0.5
"""IoU from which two detections of a class, of different tiles, are one object."""
_PIECE_INSIDE = 0.7


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in px: `x`, `y` of its corner; as `predict` takes images."""

    image_id: int | str
    pixels: np.ndarray
    x: int
    y: int

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def decode(self) -> np.ndarray:
        """Its pixels, uint8 `(height, width, 3)`."""
        return self.pixels


def cut(image_id: int | str, pixels: np.ndarray, side: int, overlap: float) -> list[Tile]:
    """The whole picture and, where it is larger than a tile, tiles of `side` px that share at least `overlap` (0 to 1)
    of it with their neighbours."""
    height, width = pixels.shape[:2]
    whole = Tile(image_id, pixels, 0, 0)
    if side <= 0 or max(height, width) <= side:
        return [whole]
    step = max(1, int(side * (1 - overlap)))
    return [whole] + [
        Tile(image_id, pixels[y : y + side, x : x + side], x, y)
        for y in _starts(height, side, step)
        for x in _starts(width, side, step)
    ]


def _starts(length: int, side: int, step: int) -> list[int]:
    return sorted({*range(0, max(1, length - side), step), max(0, length - side)})


def merge(tiles: Sequence[Tile], found: Sequence[ImageDetections]) -> ImageDetections:
    """Detections of a picture's tiles, the whole picture among them, as detections of the picture.

    Two of a class that are one object (IoU) leave the better one; a piece that an inner border of its tile cuts off
    goes where most of it lies in a whole one. Detections of one tile leave each other alone. The order of tiles does
    not matter.
    """
    pairs = list(zip(tiles, found, strict=True))
    height = max(tile.y + tile.height for tile in tiles)
    width = max(tile.x + tile.width for tile in tiles)
    boxes = np.concatenate([np.asarray(f.boxes, np.float64).reshape(-1, 4) + [t.x, t.y] * 2 for t, f in pairs])
    scores = np.concatenate([f.scores for f in found])
    labels = np.concatenate([f.labels for f in found])
    source = np.concatenate([np.full(len(f.scores), n) for n, f in enumerate(found)])
    is_cut = np.concatenate([_is_cut(t, f, height, width) for t, f in pairs])
    order = np.lexsort([*boxes.T[::-1], labels, -scores, is_cut])
    kept: list[int] = []
    for n in order:
        rivals = [k for k in kept if labels[k] == labels[n] and source[k] != source[n]]
        if rivals:
            shared = _shared(boxes[n], boxes[rivals])
            own, others = _area(boxes[n]), _area(boxes[rivals])
            iou = shared / np.maximum(own + others - shared, 1e-9)
            if (iou > SAME_OBJECT).any() or (is_cut[n] and (shared > _PIECE_INSIDE * own).any()):
                continue
        kept.append(int(n))
    kept = [kept[place] for place in np.lexsort([*boxes[kept].T[::-1], labels[kept], -scores[kept]])]
    masks = None
    if all(f.masks is not None for f in found):
        pieces = [(tile, mask) for tile, f in pairs for mask in f.masks or ()]
        masks = [_in_picture(tile, mask, height, width) for tile, mask in (pieces[n] for n in kept)]
    return ImageDetections(tiles[0].image_id, boxes[kept], scores[kept], labels[kept], masks)


def _is_cut(tile: Tile, found: ImageDetections, height: int, width: int) -> np.ndarray:
    """Which detections end at a border of the tile that is none of the picture; bool `(n,)`."""
    boxes, slack = np.asarray(found.boxes).reshape(-1, 4), 1.5  # px
    corner, sides = np.array([tile.x, tile.y]), np.array([tile.width, tile.height])
    at_start = (boxes[:, :2] < slack) & (corner > 0)
    at_end = (boxes[:, 2:] > sides - slack) & (corner + sides < [width, height])
    return (at_start | at_end).any(axis=1)


def _in_picture(tile: Tile, mask: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A mask of a tile as run lengths of the picture."""
    pixels = np.zeros((height, width), np.uint8)
    inside = decode_masks([mask], tile.height, tile.width)[0]
    pixels[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = inside
    return encode_masks([pixels])[0]


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that a box shares with each of n others, px²."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.clip(sides, 0, None).prod(axis=1)
