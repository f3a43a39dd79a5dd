"""Base of both objectives: how a batch of views is laid out and checked, and which parameters train."""

from collections.abc import Sequence
from typing import Any

import torch

from .modeling_mcl import MCLModel, MCLPreTrainedModel
from .montage import MontageLayout, draw_montages


class ViewBatchModel(MCLPreTrainedModel):
    mcl: MCLModel

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which makes every loaded parameter trainable: those that are not are marked again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._mark_untrained_parameters()
        return loaded

    def _mark_untrained_parameters(self) -> None:
        """No gradient for parts of the FPN that no loss reaches: DDP waits for every gradient that was promised."""
        for level in range(4):
            if level not in self.config.level_maps:
                self.mcl.fpn.output[level].requires_grad_(False)
            if level < min(self.config.level_maps):
                self.mcl.fpn.lateral[level].requires_grad_(False)

    def layout(self, num_images: int) -> MontageLayout:
        """How the M images of a side are made up for N images a process."""
        return MontageLayout.of(num_images, self.config.montage_ratios, self.config.montage_fractions)

    def draw_montages(self, num_images: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
        """Montages of one side for N images: L - 1 int64 CPU tensors (`mcl_hf.models.montage.draw_montages`)."""
        return draw_montages(self.layout(num_images), generator)

    def _check_views(self, views: Sequence[torch.Tensor], name: str) -> MontageLayout:
        """Layout of a batch whose views have the sizes that the configuration asks for, 2 images or more."""
        ratios, side = self.config.montage_ratios, self.config.image_size
        if len(views) != len(ratios):
            raise ValueError(f"{name} needs {len(ratios)} views, one a level, got {len(views)}")
        num_images = len(views[0])
        if num_images < 2:
            raise ValueError(f"{name} has {num_images} image; MCL needs at least 2 (batch norm, negatives)")
        for level, (view, ratio) in enumerate(zip(views, ratios, strict=True)):
            expected = (num_images, self.config.num_channels, side // ratio, side // ratio)
            if tuple(view.shape) != expected:
                raise ValueError(f"{name}[{level}] must have shape {expected}, got {tuple(view.shape)}")
        return self.layout(num_images)

    @staticmethod
    def _cell_images(
        montages: Sequence[torch.Tensor], layout: MontageLayout, device: torch.device
    ) -> list[torch.Tensor]:
        """Image of every tile, `(Q,)` a level; level 0's tiles are the images in order."""
        level_0 = torch.arange(layout.num_images, device=device)
        return [level_0, *(montage.to(device, non_blocking=True) for montage in montages)]
