"""What happens to an annotated image on its way into a training batch: augmentation, a random scale, a random flip.

Flow: detection_data -> **train_transform** -> train_loader -> the step of fine-tuning.

Source: the protocol behind published detection numbers, detectron2's `ResizeShortestEdge` (a shorter side drawn from a
list, the longer one bounded) and `RandomFlip`. Draws come from (seed, position) alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..annotations.detection_data import DetectionItem
from ..annotations.masks import MaskSequence
from ..detectors.targets import LEAST_SIDE
from .augment import augment

if TYPE_CHECKING:
    from .arguments import FinetuneArguments


@dataclass(frozen=True)
class TrainImage:
    """One image as the detector learns from it; n single objects.

    Attributes:
        pixels: uint8 `(3, h, w)`.
        boxes: float32 `(n, 4)`, x0 y0 x1 y1 in px of `pixels`.
        labels: int64 `(n,)`, class index from 0.
        masks: uint8 `(n, h, w)`, or None.
    """

    pixels: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None


@dataclass(frozen=True)
class TrainTransform:
    """Random scale and flip of an image with its boxes and masks.

    Attributes:
        min_sizes: lengths of the shorter side to draw from, px.
        max_size: bound of the longer side, px; wins over the shorter side's length.
        flip: probability of mirroring left and right.
        masks: whether masks are wanted.
        seed: of the draws.
        squares_of: 0: images keep their shape; else they become squares, so many images in a row of the same side.
        augment: `off`, `light`, `strong` or `crop`; see `mcl_hf.finetuning.augment`.
        augment_until: position from which on nothing is augmented, and squares are of one side.
        last_side: that of these squares, px; 0: drawn as before.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    flip: float
    masks: bool
    seed: int
    squares_of: int = 0
    augment: str = "off"
    augment_until: float = math.inf
    last_side: int = 0

    @classmethod
    def of(cls, arguments: "FinetuneArguments", images_per_step: int, images: int) -> "TrainTransform":
        """That of a run.

        Args:
            arguments: resolved.
            images_per_step: of all processes, which are of one size where the detector wants squares.
            images: of the whole run.
        """
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
        """Decode and transform.

        Args:
            item: the annotated image.
            position: that it stands at in the order, over all epochs; decides on the draws.

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
        boxes = torch.from_numpy(targets["boxes"]) * torch.tensor(
            [new_width / width, new_height / height, new_width / width, new_height / height]
        )
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
    resized_masks = [
        np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)) for mask in masks
    ]
    if not resized_masks:
        return torch.zeros((0, height, width), dtype=torch.uint8)
    return torch.from_numpy(np.stack(resized_masks))


def is_wide(widths: Sequence[int] | np.ndarray, heights: Sequence[int] | np.ndarray) -> np.ndarray:
    """bool `(N,)`: which images are at least as wide as high. A batch of one kind has little padding."""
    return np.asarray(widths) >= np.asarray(heights)
