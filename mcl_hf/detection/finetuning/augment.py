"""Augmentations of `--augment`, by torchvision's transforms v2.

`light` is a photometric distortion. `strong` is SSD's chain, which RT-DETR, D-FINE and DEIM train with: photometric
distortion, zooming out onto a black canvas, a crop that overlaps an object. Scales and flips come afterwards, as ever.
"""

from functools import cache
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2


@cache
def _chain(strong: bool) -> v2.Transform:
    photometric = v2.RandomPhotometricDistort(p=0.5)
    if not strong:
        return photometric
    crop = v2.RandomApply([v2.RandomIoUCrop()], p=0.8)
    return v2.Compose([photometric, v2.RandomZoomOut(fill=0), crop, v2.SanitizeBoundingBoxes()])


def augment(
    name: str, pixels: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor | None, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """One image with its n objects, changed at random.

    Args:
        name: `light` or `strong`; of an image without objects only the colours change.
        pixels: uint8 `(3, H, W)`.
        boxes: float32 `(n, 4)`, x0 y0 x1 y1 in px.
        labels: int64 `(n,)`.
        masks: uint8 `(n, H, W)`, or None.
        seed: all that the changes depend on; torch's global state is left as it was.

    Returns:
        Pixels of any size, boxes, labels and masks of the objects that are left; where none would be left, the image as
        it was but for its colours.
    """
    size = (pixels.shape[1], pixels.shape[2])
    sample: dict[str, Any] = {
        "image": tv_tensors.Image(pixels),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
        "labels": labels,
    }
    if masks is not None:
        sample["masks"] = tv_tensors.Mask(masks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = _chain(name == "strong" and len(boxes) > 0)(sample)
        if len(boxes) and not len(found["boxes"]):
            torch.manual_seed(seed)
            found = _chain(False)(sample)
    plain = {key: value.as_subclass(torch.Tensor) for key, value in found.items()}
    return plain["image"], plain["boxes"], plain["labels"], plain.get("masks")
