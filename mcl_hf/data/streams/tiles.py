"""Pictures cut into tiles, each an image of its own, for objects that are small in their picture.

Flow: order -> sources (**tiles**) -> decode -> views -> loader. Nothing is written: only the sizes of all pictures are
read, once, when the source is opened (of files their first 64 kB; of shards every row).
"""

import hashlib
from dataclasses import replace

import numpy as np

from ..decode import BrokenImage
from ..order import part_of
from ..sources.image_source import ImageSource, RawSample, open_any


def tile_grid(sizes: np.ndarray, tile: int) -> np.ndarray:
    """Columns and rows of tiles of pictures, int64 `(P, 2)`, from their widths and heights `(P, 2)`, px."""
    return np.maximum(1, np.floor(sizes / tile + 0.5)).astype(np.int64)


class TiledSource(ImageSource):
    """The tiles of about `tile` px a side of all pictures of a source, picture after picture, row after row.

    A picture of W x H px has `max(1, round(W / tile))` columns and `max(1, round(H / tile))` rows of equal tiles
    (to a pixel), which neither overlap nor leave anything out: of a picture larger than `tile` they have 2/3 to 3/2
    of it a side, and a smaller one is a single tile as it is. So is one whose size cannot be read, which a run meets as
    broken. Tiles have the label of their picture, and its group; without groups, each picture is one, so that tiles of
    one picture are no negatives of each other. They are shuffled like images of the source."""

    def __init__(self, source: ImageSource, tile: int) -> None:
        self._source = source
        self._sizes = np.array([_size(source, picture) for picture in range(len(source))], dtype=np.int64)  # (P, 2)
        self._grid = tile_grid(self._sizes, tile)
        counts = self._grid.prod(1)
        self._first = np.cumsum(counts) - counts  # tile 0 of each picture
        self._len = int(counts.sum())
        if source.shard_rows is not None:
            self.shard_rows = np.add.reduceat(counts, np.cumsum(source.shard_rows) - source.shard_rows)
        if source.labels is not None:
            self.labels, self.label_names = np.repeat(source.labels, counts), source.label_names
        self.groups = np.repeat(np.arange(len(source)) if source.groups is None else source.groups, counts)
        self.group_names = source.group_names
        digest = hashlib.sha256(f"{source.fingerprint} tile {tile}\0".encode() + self._grid.tobytes())
        self.fingerprint = digest.hexdigest()[:16]
        sides = self._sizes / self._grid
        self.description = (
            f"{source.description}\ntiles of about {tile} px ({sides.min():.0f} to {sides.max():.0f}): {self._len} of "
            f"{len(source)} pictures, each decoded anew for every tile"
        )

    def __len__(self) -> int:
        return self._len

    def sample(self, index: int) -> RawSample:
        picture, tile = self._at(index)
        whole = self._source.sample(picture)
        label, group = self.label_and_group(index)
        return replace(whole, label=label, group=group, name=_name(whole.name, tile), tile=tile)

    def name(self, index: int) -> str:
        picture, tile = self._at(index)
        return _name(self._source.name(picture), tile)

    def _at(self, index: int) -> tuple[int, tuple[int, int, int, int] | None]:
        """Picture of a tile, and its left, top, width and height; None for all of the picture."""
        picture, place = part_of(self._first, index)
        (columns, rows), (width, height) = self._grid[picture].tolist(), self._sizes[picture].tolist()
        row, column = divmod(place, columns)
        if columns * rows == 1:
            return picture, None
        left, top = column * width // columns, row * height // rows
        return picture, (left, top, (column + 1) * width // columns - left, (row + 1) * height // rows - top)


def _name(picture: str, tile: tuple[int, int, int, int] | None) -> str:
    return picture if tile is None else f"{picture} tile at {tile[0]},{tile[1]}"


def _size(source: ImageSource, picture: int) -> tuple[int, int]:
    """Width and height of an upright picture, px; (0, 0) where it cannot be read."""
    for read in (source.head, lambda number: source.sample(number).bytes_):  # some formats tell it at their end
        try:
            opened = open_any(read(picture))
            return opened.width, opened.height
        except BrokenImage:
            continue
    return 0, 0
