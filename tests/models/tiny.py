"""The smallest models that still have every part, and batches for them."""

from typing import Any

import torch

from mcl_hf import MCLConfig

TINY_RESNET = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 4}}


def tiny_config(**overrides: Any) -> MCLConfig:
    """A 64 px model of a few thousand parameters."""
    fields: dict[str, Any] = {
        **TINY_RESNET,
        "fpn_channels": 8,
        "region_size": 2,
        "region_convs": 1,
        "hidden_dim": 16,
        "embedding_dim": 8,
    }
    return MCLConfig(**{**fields, **overrides})


def tiny_views(
    config: MCLConfig, num_images: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """One side's views for a configuration."""
    generator = torch.Generator().manual_seed(seed)
    side = config.image_size
    return [
        torch.randn(num_images, config.num_channels, side // ratio, side // ratio, generator=generator, dtype=dtype)
        for ratio in config.montage_ratios
    ]


def tiny_batch(
    config: MCLConfig, num_images: int = 4, dtype: torch.dtype = torch.float32
) -> dict[str, list[torch.Tensor]]:
    """Both sides' views."""
    return {"views_a": tiny_views(config, num_images, 0, dtype), "views_b": tiny_views(config, num_images, 1, dtype)}
