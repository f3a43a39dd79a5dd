"""What happens to an annotated image on its way into a training batch: augmentation, a random scale, a random flip.

Flow: detection_data -> **train_transform** -> train_loader -> the step of fine-tuning.

Source: the protocol behind published detection numbers, detectron2's `ResizeShortestEdge` (a shorter side drawn from a
list, the longer one bounded) and `RandomFlip`. Draws come from (seed, position) alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..annotations.detection_data import DetectionItem
from ..annotations.masks import MaskSequence
from ..detectors.targets import LEAST_SIDE

if TYPE_CHECKING:
    from .arguments import FinetuneArguments


@dataclass(frozen=True)
class TrainImage:
    """One image as the detector learns from it; n single objects."""

    pixels: torch.Tensor  # uint8 (3, h, w)
    boxes: torch.Tensor  # float32 (n, 4), x0 y0 x1 y1 in px of `pixels`
    labels: torch.Tensor  # int64 (n,), class index from 0
    masks: torch.Tensor | None  # uint8 (n, h, w)


@dataclass(frozen=True)
class TrainTransform:
    """Random scale and flip of an image with its boxes and masks."""

    min_sizes: tuple[int, ...]  # of the shorter side to draw from, px
    max_size: int  # bound of the longer side, px; wins over the shorter side's length
    flip: float  # probability of mirroring left and right
    masks: bool  # whether they are wanted
    seed: int
    squares_of: int = 0  # images that become squares of the same side, in a row; 0: images keep their shape
    augment: str = "off"
    augment_until: float = math.inf  # position from which on nothing is augmented, and squares are of one side
    last_side: int = 0  # that of these squares, px; 0: drawn as before

    @classmethod
    def of(cls, arguments: "FinetuneArguments", images_per_step: int, images: int) -> "TrainTransform":
        """That of a run with resolved options, of so many `images` and so many a step, over all processes."""
        until = 1.0 if arguments.augment_until is None else arguments.augment_until
        return cls(
            min_sizes=tuple(arguments.min_size_train or ()),
            max_size=arguments.max_size_train or 0,
            flip=arguments.flip,
            masks=arguments.masks,
            seed=arguments.seed,
            squares_of=images_per_step if arguments.squares else 0,
            augment=arguments.augment or "off",
            augment_until=until * images,
            last_side=arguments.min_size_test or 0,
        )

    def __call__(self, item: DetectionItem, position: int) -> TrainImage:
        """Decode and transform; `position` in the order, over all epochs, decides on the draws.

        Raises:
            BrokenImage: it cannot be decoded, or is not of the size that its annotations were made for.
        """
        draws = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, position]))
        min_size = int(draws.choice(self.min_sizes))
        flipped = bool(draws.random() < self.flip)
        pixels, targets = item.decode(), item.training_targets(masks=self.masks)  # (H, W, 3)
        if self.augment != "off" and position < self.augment_until:
            pixels, targets = self._augmented(pixels, targets, int(draws.integers(2**63)))
        height, width = pixels.shape[:2]
        new_height, new_width = resized(height, width, min_size, self.max_size)
        if self.squares_of:
            step = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, position // self.squares_of]))
            new_height = new_width = int(step.choice(self.min_sizes))
            if position // self.squares_of * self.squares_of >= self.augment_until and self.last_side:
                new_height = new_width = self.last_side  # decided by the step's first image: all are of one side
        image = Image.fromarray(np.ascontiguousarray(pixels)).resize((new_width, new_height), Image.Resampling.BILINEAR)
        boxes = torch.from_numpy(targets["boxes"]) * torch.tensor([new_width / width, new_height / height] * 2)
        masks = _resize_masks(targets["masks"], new_height, new_width) if self.masks else None
        if flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = torch.stack([new_width - boxes[:, 2], boxes[:, 1], new_width - boxes[:, 0], boxes[:, 3]], dim=1)
            masks = masks if masks is None else masks.flip(2)
        # A box may reach into the picture by less than float32 can tell at its place.
        kept = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(dim=1)
        return TrainImage(
            pixels=torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(),  # (h, w, 3) -> (3, h, w)
            boxes=boxes[kept].float(),
            labels=torch.from_numpy(targets["labels"])[kept],
            masks=masks if masks is None else masks[kept],
        )

    def _augmented(self, pixels: np.ndarray, targets: dict, seed: int) -> tuple[np.ndarray, dict]:
        """Pixels `(H, W, 3)` and targets after augmentation."""
        masks = torch.from_numpy(np.stack([*targets["masks"]])) if self.masks and len(targets["labels"]) else None
        image, boxes, labels, masks = augment(
            self.augment,
            torch.from_numpy(pixels).permute(2, 0, 1),
            torch.from_numpy(targets["boxes"]),
            torch.from_numpy(targets["labels"]),
            masks,
            seed,
        )
        found = {"boxes": boxes.numpy(), "labels": labels.numpy()}
        return image.permute(1, 2, 0).numpy(), found | {"masks": [] if masks is None else list(masks.numpy())}


def resized(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Height and width in px once the shorter side is `min_size`, or the longer one `max_size` if that is smaller."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _resize_masks(masks: MaskSequence | Sequence[np.ndarray], height: int, width: int) -> torch.Tensor:
    """n masks uint8 `(H, W)` of 0 and 1 -> `(n, height, width)`, each pixel that of the nearest centre."""
    size, nearest = (width, height), Image.Resampling.NEAREST
    found = [np.array(Image.fromarray(mask).resize(size, nearest)) for mask in masks]
    return torch.from_numpy(np.array(found, np.uint8).reshape(-1, height, width))


# --- augmentations of `--augment`, by torchvision's transforms v2 ---
# `light` is a photometric distortion. `strong` is SSD's chain, which RT-DETR, D-FINE and DEIM train with: photometric
# distortion, zooming out onto a black canvas, a crop that overlaps an object. `crop` is what DETR and Deformable DETR
# train with: half of the images are scaled to 400, 500 or 600 px and cut to 384 to 600 px a side.


class _RandomSizeCrop(v2.Transform):
    """A window whose sides are drawn on their own, from 384 to 600 px or the image's."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        height, width = v2.functional.get_size(flat_inputs[0])
        sides = [_draw(min(384, side), min(600, side)) for side in (height, width)]
        corner = {"top": _draw(0, height - sides[0]), "left": _draw(0, width - sides[1])}
        return corner | {"height": sides[0], "width": sides[1]}

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
