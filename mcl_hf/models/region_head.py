"""Region head: P maps -> one embedding a region of R x R cells; and the predictor on top of it.

Third stage of the flow. One set of weights serves all levels. A map is cut into regions *before* the convolutions, so
that nothing leaks between neighbouring tiles; a detector's box head runs them on RoIAligned 7x7 features.

Source: paper section 3.2; published code `openselfsup/models/necks.py` and `openselfsup/models/heads/`.
"""

import torch
from torch import nn

from .fpn import ConvNorm
from .weight_init import init_linear, init_norm


def cut_into_regions(maps: torch.Tensor, region_size: int) -> torch.Tensor:
    """Cut maps `(M, C, h * R, w * R)` into regions `(M * h * w, C, R, R)` of the same memory format, image by image in
    row-major order. ValueError: the sides are not multiples of R."""
    batch, channels, height, width = maps.shape
    if height % region_size or width % region_size:
        raise ValueError(f"a map of {height} x {width} cells does not divide into regions of {region_size} cells")
    rows, columns = height // region_size, width // region_size
    if maps.is_contiguous(memory_format=torch.channels_last):
        grid = maps.permute(0, 2, 3, 1).reshape(batch, rows, region_size, columns, region_size, channels)
        regions = grid.transpose(2, 3).reshape(-1, region_size, region_size, channels)  # (M h w, R, R, C)
        return regions.permute(0, 3, 1, 2)  # (M h w, C, R, R), channels last in memory
    grid = maps.reshape(batch, channels, rows, region_size, columns, region_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, region_size, region_size)


class RegionHead(nn.Module):
    """Convolutions, average pooling and an MLP on regions.

    `conv x N -> mean over R x R -> Linear -> BN -> ReLU -> Linear -> BN without scale and shift`

    Args:
        channels: Width of the P maps.
        region_size: R in cells.
        num_convs: 3x3 convolutions with batch norm and ReLU, zero-padded at each region's border.
        hidden_dim: Hidden width of the MLP.
        embedding_dim: D.

    Example:
        >>> import torch
        >>> from mcl_hf import RegionHead
        >>> head = RegionHead(channels=8, region_size=3, num_convs=1, hidden_dim=16, embedding_dim=4)
        >>> tuple(head(torch.rand(2, 8, 6, 6)).shape)  # 2 images x 4 regions
        (8, 4)
    """

    def __init__(
        self,
        channels: int = 256,
        region_size: int = 7,
        num_convs: int = 4,
        hidden_dim: int = 2048,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self.region_size = region_size
        self.conv = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in range(num_convs))
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, embedding_dim),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions kaiming normal fan-out, linear layers kaiming normal fan-in, as published."""
        for block in self.conv:
            nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
            init_norm(block.bn)
        init_linear(self.mlp[0])
        init_norm(self.mlp[1])
        init_linear(self.mlp[3])
        init_norm(self.mlp[4])

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(M, C, h * R, w * R)` maps -> `(M * h * w, D)` embeddings, regions row-major within an image."""
        return self.embed(cut_into_regions(maps, self.region_size))

    def pool(self, regions: torch.Tensor) -> torch.Tensor:
        """`(Q, C, R, R)` regions -> `(Q, C)` means over their cells after the convolutions: what a detector keeps."""
        for block in self.conv:
            regions = torch.relu_(block(regions))  # (Q, C, R, R)
        return regions.mean(dim=(2, 3))

    def embed(self, regions: torch.Tensor) -> torch.Tensor:
        """`(Q, C, R, R)` regions -> `(Q, D)` embeddings."""
        return self.mlp(self.pool(regions))  # (Q, C) -> (Q, D)


class Predictor(nn.Module):
    """MLP that turns an online embedding into a query, `(Q, D) -> (Q, D)`; one for each level."""

    def __init__(self, embedding_dim: int = 256, hidden_dim: int = 2048) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(embedding_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, embedding_dim),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear weights normal with standard deviation 0.01, as published."""
        init_linear(self.mlp[0], std=0.01)
        init_norm(self.mlp[1])
        init_linear(self.mlp[3], std=0.01)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.mlp(embeddings)
