"""Anchors on a grid of fixed strides.

Between the pyramid and the first boxes of a detector: P maps -> anchors `(sum of H W A, 4)` in pixels.

Differs from torchvision: its `AnchorGenerator` derives a level's stride from the padded image's size, so that the
anchors of P6 and P7 move with the padding (800 px: every 61 px instead of 64), and it builds anchors in the maps'
precision, where bf16 is coarser than 4 px. Here strides are given, as in detectron2, and anchors are float32. On images
whose sides are multiples of the coarsest stride both give the same numbers. Detectors that were trained by torchvision
keep its strides (`fixed=False`).
"""

from collections.abc import Sequence

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision to float32; boxes and scores need it. Other types stay."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class FixedStrideAnchors(AnchorGenerator):
    """torchvision's anchors with one given stride a level.

    Args:
        sizes: For each level the sides of its square anchors, px.
        aspect_ratios: Height by width, the same on all levels.
        strides: Distance of a level's anchors, px.
        fixed: False takes the padded image's side by the map's, rounded down, in place of `strides`.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        fixed: bool = True,
    ) -> None:
        super().__init__(tuple(tuple(level) for level in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.fixed = fixed

    def forward(self, image_list: ImageList, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """For each image `(sum of H W A, 4)` x0, y0, x1, y1 in px, level by level, row by row, anchor by anchor."""
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.set_cell_anchors(dtype, feature_maps[0].device)
        sizes = [list(level.shape[-2:]) for level in feature_maps]
        strides = [[stride, stride] for stride in self.strides]
        if not self.fixed:
            height, width = image_list.tensors.shape[-2:]
            strides = [[height // rows, width // columns] for rows, columns in sizes]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors] * len(image_list.image_sizes)
