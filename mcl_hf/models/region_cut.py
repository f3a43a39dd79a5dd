"""RoIAlign of boxes from the pyramid level that each fits: what embeddings and detectors share.

Boxes and maps are read in at least float32: bfloat16 rounds pixels above 256, and the index of image 257.
"""

from collections.abc import Sequence

import torch
from torchvision.ops import roi_align

STRIDES = (4, 8, 16, 32)
"""Of P2..P5, px."""


def to_rois(boxes: Sequence[torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
    """For each image `(n_i, 4)` boxes -> `(K, 5)` index of the image, x0, y0, x1, y1, on the device of `maps`."""
    wide = torch.promote_types(maps.dtype, torch.float32)
    rows = [
        torch.cat([image.new_full((len(image), 1), index, dtype=wide), image.to(wide)], dim=1)
        for index, image in enumerate(boxes)
    ]
    return torch.cat(rows).to(maps.device)


def cut_regions(
    pyramid: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    side: int,
    sampling_ratio: int,
    aligned: bool = True,
) -> torch.Tensor:
    """Cut out regions `(K, C, R, R)` in the maps' dtype and memory format. The host reads one thing: how many there are
    of each level.

    Args:
        pyramid: P2..P5, each `(N, C, H, W)`.
        rois: `(K, 5)` of `to_rois`.
        levels: `(K,)` int64, 0 for P2 to 3 for P5.
        side: R, cells.
        sampling_ratio: Samples a cell and side; 0 adapts it to the box.
        aligned: Whether pixels have their centres half a pixel from their corners.
    """
    regions = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], side, side)
    if pyramid[0].is_contiguous(memory_format=torch.channels_last):  # the heads go on in the maps' memory format
        regions = regions.contiguous(memory_format=torch.channels_last)
    counts = (levels[:, None] == torch.arange(len(STRIDES), device=levels.device)).sum(dim=0).tolist()
    rows_of_levels = levels.argsort(stable=True).split(counts)
    for maps, stride, rows in zip(pyramid, STRIDES, rows_of_levels, strict=True):
        cut = roi_align(maps.to(rois.dtype), rois[rows], side, 1 / stride, sampling_ratio, aligned)
        regions[rows] = cut.to(regions.dtype)
    return regions
