"""Features of boxes, as three stages of the network give them, without a trace in the network.

Flow: pictures -> **region_features** -> classify. Which stage to look at:

* `region_head`: means over a region after the region head's convolutions. A detector keeps exactly this part (the
  convolutions become its box head's), so it is the number to go by.
* `embedding`: what pre-training contrasts, after the projection MLP. That MLP is thrown away, and drops what the loss
  does not ask for, as in SimCLR (arXiv 2002.05709, section 4.2).
* `c5`: means over a region of the backbone's last map. It is the one that says something about networks whose FPN and
  region head are new (`timm:NAME`).
"""

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.ops import roi_align
from tqdm.auto import tqdm

from ..errors import InputError
from ..models import MCLConfig, MCLModel
from ..models.precise_bn import update_statistics

FEATURES = ("region_head", "embedding", "c5")
MAIN_FEATURE = "region_head"
_BATCH_PIXELS = 16 * 224 * 224
_LEVEL_NAMES = ("P2", "P3", "P4", "P5")


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; modes of all modules and all random states are afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def to_tensor(picture: Image.Image, config: MCLConfig) -> torch.Tensor:
    """uint8 `(C, H, W)` in the channels of the network."""
    pixels = np.array(picture.convert("L" if config.num_channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], config.num_channels)).permute(2, 0, 1)


def _normalised(model: MCLModel, images: torch.Tensor) -> torch.Tensor:
    """uint8 `(n, C, H, W)` -> what the model takes, float32 on its device."""
    config, device = model.config, next(model.parameters()).device
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (config.image_mean, config.image_std))
    return (images.to(device).float() / 255 - mean) / std


def features_of_boxes(
    model: MCLModel, images: torch.Tensor, boxes: Sequence[torch.Tensor], names: Sequence[str] = FEATURES
) -> dict[str, torch.Tensor]:
    """Features of boxes in equally sized images, batch by batch. Call it within `undisturbed`.

    Args:
        model: in eval mode.
        images: uint8 `(N, C, H, W)` on the CPU.
        boxes: for each image a `(n_i, 4)` float tensor of x0, y0, x1, y1 in px.
        names: of `FEATURES`.

    Returns:
        Name -> `(sum n_i, D)` float32 on the CPU; and `levels`, `(sum n_i,)` int64, 0 for P2 to 3 for P5.
    """
    parameter = next(model.parameters())
    size = max(1, _BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*names, "levels")}
    starts = range(0, len(images), size)
    for start in tqdm(starts, "probe", unit="batch", delay=1, leave=False, disable=None, dynamic_ncols=True):
        batch_boxes = [part.to(parameter.device) for part in boxes[start : start + size]]
        maps = model.backbone_maps(_normalised(model, images[start : start + size]).to(parameter.dtype))
        regions, levels = model.cut_boxes(model.fpn(maps), batch_boxes)  # (K, C, R, R)
        pooled = model.region_head.pool(regions)  # (K, C)
        parts = {"region_head": pooled, "levels": levels}
        if "embedding" in names:
            parts["embedding"] = model.region_head.mlp(pooled)
        if "c5" in names:
            c5_map = maps[-1].float()  # with boxes in half precision, RoIAlign would round their px
            c5_boxes = [part.float() for part in batch_boxes]
            c5 = roi_align(c5_map, c5_boxes, model.config.region_size, spatial_scale=1 / 32, aligned=True)
            parts["c5"] = c5.mean(dim=(2, 3))  # (K, C5)
        for name, collected in found.items():
            collected.append(parts[name].float().cpu() if name != "levels" else levels.cpu())
    return {name: torch.cat(collected) for name, collected in found.items()}


@torch.no_grad()
def calibrate_norms(model: MCLModel, images: torch.Tensor, backbone: bool) -> None:
    """Give a network that was never trained the batch-norm statistics of the images it will be asked about, uint8 `(N,
    C, H, W)` on the CPU with sides that are multiples of its image size; otherwise anything trained would look better
    than it is. `backbone` says whether those of the backbone are new, too. The model comes back in eval mode."""
    size = max(2, _BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))

    def pass_through(batch: tuple[int, int]) -> None:
        """Some images, and the level that the region head looks at."""
        start, level = batch
        model.region_head(model.fpn(model.backbone_maps(_normalised(model, images[start : start + size])))[level])

    model.train()
    if not backbone:
        model.backbone.eval()
    starts = range(0, len(images) - size + 1, size) or range(1)
    update_statistics(
        model, pass_through, [(start, level) for start in starts for level in set(model.config.level_maps)]
    )
    model.eval()


def read_levels(config: MCLConfig) -> dict[str, int]:
    """Levels that the configuration pre-trains, finest first: name -> side in px of a box read from it. An `InputError`
    where the network takes other than 1 or 3 channels, and so no pictures."""
    if config.num_channels not in (1, 3):
        raise InputError(f"a probe reads pictures of 1 or 3 channels, this model takes {config.num_channels}")
    return {_LEVEL_NAMES[level]: 4 * 2**level * config.region_size for level in sorted(config.level_maps)}
