"""Two variants of MCL that differ from it in one thing each; what MCL gains over them is what that thing is worth.

Flow: arms name them -> **controls** -> pretrain_job hands them to `mcl_hf.pretrain(model_class=...)`.

* `AlonePreTraining`: no montage. The same tiles are read from the same levels and contrasted with the same keys, but
  each tile goes through the backbone alone, as an image of its own size. (So a tile borders on zero padding where MCL's
  borders on other tiles, and batch norm sees the tiles of one level at a time: images of several sizes make no batch.)
* `WrongLevelsPreTraining`: the montage stays, the levels are swapped. The full view is read from the finest map and the
  smallest tiles from the coarsest, by RoIAlign, which is what MCL itself reads where the level fits.
"""

from typing import Any

import torch
from torchvision.ops import roi_align

from mcl_hf.models import MCLConfig, MCLForPreTraining, MCLModel
from mcl_hf.models.montage import MontageLayout


def split_montages(montages: torch.Tensor, ratio: int) -> torch.Tensor:
    """`(B, C, r s, r s)` -> `(B r^2, C, s, s)`: the inverse of `mcl_hf.assemble_montage`, row-major."""
    batch, channels, height, width = montages.shape
    cells = montages.reshape(batch, channels, ratio, height // ratio, ratio, width // ratio)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // ratio, width // ratio)


class AloneMCLModel(MCLModel):
    """`MCLModel` that takes montages apart before the backbone."""

    def embed_tiles(self, images: torch.Tensor, layout: MontageLayout) -> list[torch.Tensor]:
        """As `MCLModel.embed_tiles`, every tile without neighbours; lean scope only."""
        read_maps = self.config.level_maps[: len(layout.counts)]
        layout_of = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else None
        levels = []
        for index, of_level, ratio in zip(read_maps, layout.slices, layout.ratios, strict=True):
            tiles = split_montages(images[of_level], ratio)  # (Q, C, S/r, S/r)
            if layout_of is not None:
                tiles = tiles.contiguous(memory_format=layout_of)
            pyramid = self.fpn(self.backbone_maps(tiles), reads={index: slice(0, len(tiles))})
            levels.append(self.region_head(pyramid[index]))  # (Q, D)
        return levels


class WrongLevelsMCLModel(MCLModel):
    """`MCLModel` that reads the levels in reverse: ratio 1 from the finest map, the largest ratio from P5."""

    def maps_to_read(self) -> list[int]:
        """Index into P2..P5 of the map that each level reads."""
        return self.config.level_maps[::-1]

    def embed_tiles(self, images: torch.Tensor, layout: MontageLayout) -> list[torch.Tensor]:
        """As `MCLModel.embed_tiles` from other maps; lean scope only."""
        size, side = self.config.region_size, images.shape[-1]
        maps = self.maps_to_read()[: len(layout.counts)]  # level 0 alone for the target
        reads = dict(zip(maps, layout.slices, strict=True))
        pyramid = self.fpn(self.backbone_maps(images), reads=reads)
        levels = []
        for index, count, ratio in zip(maps, layout.counts, layout.ratios, strict=True):
            boxes = tile_boxes(count, ratio, side, images.device)  # (B r^2, 5)
            regions = roi_align(
                pyramid[index],
                boxes.to(pyramid[index].dtype),
                size,
                spatial_scale=1 / (4 * 2**index),
                sampling_ratio=-1,
                aligned=True,
            )  # (Q, C, R, R)
            levels.append(self.region_head.embed(regions))
        return levels


def tile_boxes(count: int, ratio: int, side: int, device: torch.device) -> torch.Tensor:
    """RoIs of all tiles of `count` montages, `(count r^2, 5)`: image, x0, y0, x1, y1 in px, row-major."""
    tile = side // ratio
    image, row, column = torch.meshgrid(
        torch.arange(count, device=device),
        torch.arange(ratio, device=device),
        torch.arange(ratio, device=device),
        indexing="ij",
    )
    corner = torch.stack([column, row], dim=-1).reshape(-1, 2) * tile
    return torch.cat([image.reshape(-1, 1), corner, corner + tile], dim=1).float()


class _Variant(MCLForPreTraining):
    """`MCLForPreTraining` with another kind of `MCLModel` as online and target network."""

    network: type[MCLModel]

    def __init__(self, config: MCLConfig) -> None:
        if config.region_scope != "lean":
            raise ValueError(f"{type(self).__name__} is defined for the lean scope")
        super().__init__(config)
        for part in (self.mcl, self.target):  # same tensors, other reading
            part.__class__ = self.network


class AlonePreTraining(_Variant):
    """MCL without montages."""

    network = AloneMCLModel


class WrongLevelsPreTraining(_Variant):
    """MCL whose montages are read from the wrong levels."""

    network = WrongLevelsMCLModel


MODELS: dict[str, Any] = {"alone": AlonePreTraining, "wrong-levels": WrongLevelsPreTraining}
