"""Feature pyramid with batch norm: C2..C5 -> P2..P5. Second stage of the flow.

Laterals are 1x1 convolutions, outputs 3x3 convolutions, each with batch norm, without bias and without activation; the
top-down path is nearest up-sampling. This is detectron2's FPN with `FPN.NORM = "BN"`.

Source: paper section 3.2; published code `openselfsup/models/necks.py`. Not published: `reads`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .weight_init import init_norm


class ConvNorm(nn.Module):
    """Convolution without bias followed by batch norm; parameters `conv.*` and `bn.*`. Without `norm`, `conv` has a
    bias, and there is no `bn.*`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def init_norm(self) -> None:
        """Batch norm at its start, or a bias of 0."""
        if self.conv.bias is None:
            init_norm(self.bn)
        else:
            nn.init.zeros_(self.conv.bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(maps))


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid.

    Args:
        in_channels: Channels of the backbone maps, fine to coarse (C2..C5).
        channels: Width of every output map.
        norm: Whether batch norm follows each convolution.

    Example:
        >>> import torch
        >>> from mcl_hf import FeaturePyramid
        >>> fpn = FeaturePyramid([8, 16], channels=4)
        >>> [tuple(p.shape) for p in fpn([torch.rand(2, 8, 6, 6), torch.rand(2, 16, 3, 3)])]
        [(2, 4, 6, 6), (2, 4, 3, 3)]
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, norm: bool = True) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(width, channels, 1, norm) for width in in_channels)
        self.output = nn.ModuleList(ConvNorm(channels, channels, 3, norm) for _ in in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform convolutions, batch norm 1 and 0."""
        for block in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(block.conv.weight)
            block.init_norm()

    def forward(
        self, maps: Sequence[torch.Tensor], reads: Mapping[int, slice] | None = None
    ) -> list[torch.Tensor | None]:
        """P maps `(M, channels, H, W)` fine to coarse, or only of the images asked for; None where none were.

        Args:
            maps: One `(M, C, H, W)` tensor a level, fine to coarse; anything else is a ValueError.
            reads: For the levels (index into `maps`) that will be read, the range of images of which. None: all of all.
        """
        if len(maps) != len(self.lateral):
            raise ValueError(f"FeaturePyramid was built for {len(self.lateral)} maps, got {len(maps)}")
        batch = maps[0].shape[0]
        if reads is None:
            reads = dict.fromkeys(range(len(maps)), slice(0, batch))
        pyramid: list[torch.Tensor | None] = [None] * len(maps)
        coarser: torch.Tensor | None = None  # merged map of the next coarser level, of the images from `coarser_start`
        coarser_start = 0
        for level in reversed(range(len(maps))):
            # A level's merged map serves its own readers and those of every finer level: the hull of their ranges.
            needed = [reads[reader] for reader in reads if reader <= level]
            if not needed:
                break
            start, stop = min(r.start for r in needed), max(r.stop for r in needed)
            merged = self.lateral[level](maps[level][start:stop])  # (stop - start, channels, H, W)
            if coarser is not None:
                below = coarser[start - coarser_start : stop - coarser_start]
                merged = merged + F.interpolate(below, size=merged.shape[-2:], mode="nearest")
            if level in reads:
                own = reads[level]
                pyramid[level] = self.output[level](merged[own.start - start : own.stop - start])
            coarser, coarser_start = merged, start
        return pyramid
