"""RoIAlign from the pyramid level that fits each region, as detectron2's `ROIPooler` with `ROIAlignV2`.

P2..P5 and boxes -> `(sum of boxes, C, R, R)`, the input of box head and mask head.

Differs from torchvision's `MultiScaleRoIAlign`: aligned by half a cell, strides are given instead of guessed from the
first image, and half-precision maps are read in float32.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops.poolers import LevelMapper

from ..models.region_cut import cut_regions, to_rois


class PyramidRoIAlign(nn.Module):
    """RoIAlign of boxes on P2..P5; a box of `canonical_size` px a side reads P4, each halving one level finer.

    Args:
        output_size: R, cells.
        sampling_ratio: Samples a cell and side; 0 adapts it to the box.
        canonical_size: px.
        aligned: Aligned by half a cell.
    """

    def __init__(
        self, output_size: int, sampling_ratio: int = 0, canonical_size: int = 224, aligned: bool = True
    ) -> None:
        super().__init__()
        self.aligned = aligned
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.level_of = LevelMapper(k_min=2, k_max=5, canonical_scale=canonical_size)

    def forward(self, pyramid: Sequence[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """Cut out regions.

        Args:
            pyramid: P2..P5, each `(N, C, H, W)`.
            boxes: For each image `(n_i, 4)` x0, y0, x1, y1 in px.

        Returns:
            `(sum n_i, C, R, R)`, image by image, in the maps' dtype.
        """
        rois = to_rois(boxes, pyramid[0])
        return cut_regions(pyramid, rois, self.level_of(boxes), self.output_size, self.sampling_ratio, self.aligned)
