"""Augmentations of `--augment`, by torchvision's transforms v2.

`light` is a photometric distortion. `strong` is SSD's chain, which RT-DETR, D-FINE and DEIM train with: photometric
distortion, zooming out onto a black canvas, a crop that overlaps an object. `crop` is what DETR and Deformable DETR
train with: half of the images are scaled to 400, 500 or 600 px and cut to 384 to 600 px a side. Scales and flips come
afterwards, as ever.
"""

from functools import cache
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2


class _RandomSizeCrop(v2.Transform):
    """A window whose sides are drawn on their own, from 384 to 600 px or the image's."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        height, width = v2.functional.get_size(flat_inputs[0])
        sides = [_draw(min(384, side), min(600, side)) for side in (height, width)]
        return {"top": _draw(0, height - sides[0]), "left": _draw(0, width - sides[1]), "height": sides[0],
                "width": sides[1]}  # fmt: skip

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        return self._call_kernel(v2.functional.crop, inpt, **params)


def _draw(least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, ()))


@cache
def _chain(name: str, with_objects: bool) -> v2.Transform:
    if name == "crop":
        part = [v2.RandomShortestSize([400, 500, 600]), _RandomSizeCrop(), v2.SanitizeBoundingBoxes()]
        return v2.RandomApply(part, p=0.5 if with_objects else 0.0)
    photometric = v2.RandomPhotometricDistort(p=0.5)
    if name == "light" or not with_objects:
        return photometric
    crop = v2.RandomApply([v2.RandomIoUCrop()], p=0.8)
    return v2.Compose([photometric, v2.RandomZoomOut(fill=0), crop, v2.SanitizeBoundingBoxes()])


def augment(
    name: str, pixels: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor | None, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """One image with its n objects, changed at random.

    Args:
        name: `light`, `strong` or `crop`; of an image without objects only the colours change.
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
        found = _chain(name, len(boxes) > 0)(sample)
        if len(boxes) and not len(found["boxes"]):
            torch.manual_seed(seed)
            found = _chain(name, False)(sample)
    plain = {key: value.as_subclass(torch.Tensor) for key, value in found.items()}
    return plain["image"], plain["boxes"], plain["labels"], plain.get("masks")
