"""Montages: views of several scales tiled into images of one size; between the data and the backbone.

Level 0 is the views themselves; level i tiles views of side S / r, r x r of them, into `B_i` images of side S. The
images of the batch are spread over the tiles as evenly as they can be.

Source: paper section 3.1; published code `openselfsup/models/mcl.py`, where tiles arrive as full views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MontageLayout:
    """How the M images of one side are made up: level 0 first, then the montages of each level."""

    num_images: int  # N, of the batch
    ratios: tuple[int, ...]  # r of each level
    counts: tuple[int, ...]  # images of each level: N, then B_i montages

    @classmethod
    def of(cls, num_images: int, ratios: Sequence[int], fractions: Sequence[float]) -> "MontageLayout":
        """The layout for N images: level i has `max(1, int(N * fraction))` images."""
        counts = tuple(max(1, int(num_images * fraction)) for fraction in fractions)
        return cls(num_images, tuple(ratios), (num_images, *counts[1:]))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Range of each level along the batch of M images."""
        starts = [sum(self.counts[:level]) for level in range(len(self.counts) + 1)]
        return tuple(slice(starts[level], starts[level + 1]) for level in range(len(self.counts)))

    @property
    def cells(self) -> tuple[int, ...]:
        """Q of each level: `B_i * r^2` tiles."""
        return tuple(count * ratio**2 for count, ratio in zip(self.counts, self.ratios, strict=True))

    def only_level_0(self) -> "MontageLayout":
        """The layout without montages."""
        return MontageLayout(self.num_images, self.ratios[:1], self.counts[:1])


def draw_montages(layout: MontageLayout, generator: torch.Generator | None = None) -> list[torch.Tensor]:
    """Draw which image fills which cell, for the levels after level 0: L - 1 int64 CPU tensors of `B_i * r^2` image
    indices, row-major over (montage, row, column). `generator` is a CPU generator; None takes torch's global one."""
    return [
        torch.randperm(cells, generator=generator) % layout.num_images  # every image floor or ceil(cells / N) times
        for cells in layout.cells[1:]
    ]


def check_montages(montages: Sequence[torch.Tensor], layout: MontageLayout) -> None:
    """ValueError for a wrong number of levels, a wrong length or dtype, or an index outside of 0..N-1, which is looked
    at on the CPU only: on a GPU it would stall the device."""
    if len(montages) != len(layout.counts) - 1:
        raise ValueError(f"expected montages of {len(layout.counts) - 1} levels, got {len(montages)}")
    for level, (montage, cells) in enumerate(zip(montages, layout.cells[1:], strict=True), start=1):
        if montage.dtype != torch.int64 or montage.shape != (cells,):
            raise ValueError(
                f"montage of level {level} must be {cells} int64 image indices, "
                f"got {tuple(montage.shape)} {montage.dtype}"
            )
        if montage.device.type == "cpu" and (montage.min() < 0 or montage.max() >= layout.num_images):
            raise ValueError(
                f"montage of level {level} names images {int(montage.min())} to {int(montage.max())}, "
                f"but the batch has images 0 to {layout.num_images - 1}"
            )


def assemble_montage(tiles: torch.Tensor, cell_images: torch.Tensor, ratio: int) -> torch.Tensor:
    """Tile images into montages.

    Args:
        tiles: `(N, C, s, s)`, one tile an image.
        cell_images: `(B * ratio^2,)` int64, the image in each cell, row-major over (montage, row, column).
        ratio: Cells along a montage's side.

    Returns:
        `(B, C, ratio * s, ratio * s)`.

    Example:
        >>> import torch
        >>> from mcl_hf import assemble_montage
        >>> tiles = torch.tensor([10, 20, 30]).view(3, 1, 1, 1)
        >>> assemble_montage(tiles, torch.tensor([2, 0, 1, 2]), ratio=2)[0, 0].tolist()
        [[30, 10], [20, 30]]
    """
    _, channels, height, width = tiles.shape
    cells = tiles[cell_images].view(-1, ratio, ratio, channels, height, width)  # (B, row, column, C, s, s)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, ratio * height, ratio * width)


def assemble_batch(
    views: Sequence[torch.Tensor], montages: Sequence[torch.Tensor], ratios: Sequence[int]
) -> torch.Tensor:
    """All images `(M, C, S, S)` of one side: level 0's views, then each level's montages.

    Args:
        views: L tensors `(N, C, S/r, S/r)`.
        montages: L - 1 tensors of image indices (see `draw_montages`).
        ratios: r of each level.
    """
    levels = [views[0]]
    for tiles, cell_images, ratio in zip(views[1:], montages, ratios[1:], strict=True):
        levels.append(assemble_montage(tiles, cell_images.to(tiles.device, non_blocking=True), ratio))
    return torch.cat(levels)
