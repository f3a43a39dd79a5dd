"""Batches of annotated images for fine-tuning, addressed by step.

Flow: detection_data -> train_transform -> **train_loader** -> the step of fine-tuning.

As in pre-training, a step's images, their scales and flips follow from (seed, step) alone, whatever the number of
workers; a broken image is named and replaced by a stand-in computed from its position. Wide and tall images go into
different batches, so that little of a batch is padding (detectron2's aspect-ratio grouping); what does not fill a batch
of its kind is mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..annotations.detection_data import DetectionData
from ..data.order import SampleOrder
from ..data.step_loader import StepBatches, StepLoader, read_or_stand_in
from ..detectors.targets import relative_boxes
from ..errors import InputError
from .train_transform import TrainImage, TrainTransform

_OF_STEPS = 0x5DEECE66D  # makes the order of the steps another one than that of the images


class TrainOrder:
    """Images of every step: each image at most once an epoch, and `N // images_per_step` steps an epoch.

    The few images that do not fill a last step are left out; another few in every epoch.

    Args:
        wide: bool `(N,)`, which images are at least as wide as high.
        images_per_step: over all processes.
        seed: of the order.

    Raises:
        InputError: fewer images than a step needs.
    """

    def __init__(self, wide: np.ndarray, images_per_step: int, seed: int) -> None:
        if len(wide) < images_per_step:
            raise InputError(
                f"a step needs {images_per_step} different images, but there are {len(wide)} to train on: "
                "use a smaller batch"
            )
        self.wide, self.images_per_step = wide, images_per_step
        self.steps_per_epoch = len(wide) // images_per_step
        self.images = SampleOrder(len(wide), seed)
        self._steps = SampleOrder(self.steps_per_epoch, seed ^ _OF_STEPS)

    def indices(self, step: int) -> np.ndarray:
        """Images of a 0-based step: int64 `(images_per_step,)`, those of rank 0 first."""
        epoch, number = divmod(step, self.steps_per_epoch)
        table = _epoch_table(self.images, self.wide.tobytes(), self.images_per_step, epoch)
        return table[self._steps.index(epoch * self.steps_per_epoch + number)]


@lru_cache(maxsize=2)  # a worker goes through an epoch step by step
def _epoch_table(images: SampleOrder, wide: bytes, images_per_step: int, epoch: int) -> np.ndarray:
    """int64 `(steps_per_epoch, images_per_step)`."""
    count = images.num_samples
    order = images.index(np.arange(epoch * count, (epoch + 1) * count))
    is_wide = np.frombuffer(wide, dtype=bool)[order]
    rows, rest = [], []
    for group in (order[is_wide], order[~is_wide]):
        full = len(group) // images_per_step * images_per_step
        rows.append(group[:full])
        rest.append(group[full:])
    mixed = np.concatenate(rest)
    rows.append(mixed[: len(mixed) // images_per_step * images_per_step])
    return np.concatenate(rows).reshape(-1, images_per_step)


@dataclass
class DetectionBatch:
    """N images of one rank and one step, in a detector's form."""

    step: int
    pixels: torch.Tensor  # uint8 (N, 3, H, W), each image in the upper left corner; the rest is 0
    image_sizes: list[tuple[int, int]]  # height and width of each, px
    labels: list[dict[str, torch.Tensor]]  # class_labels, relative boxes and, where wanted, masks
    sample_ids: torch.Tensor  # int64 (N,), index in the data
    broken: list[str] = field(default_factory=list)  # "name: reason" of each image that a stand-in replaces

    def map(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> "DetectionBatch":
        """The batch with each of its pixel and label tensors replaced by `copy` of it."""
        labels = [{name: copy(tensor) for name, tensor in label.items()} for label in self.labels]
        return replace(self, pixels=copy(self.pixels), labels=labels)

    def pin_memory(self) -> "DetectionBatch":
        """Copy in page-locked memory, for asynchronous transfer; called by DataLoader where `pin_memory=True`."""
        return self.map(torch.Tensor.pin_memory)


class DetectionLoader(StepLoader[DetectionBatch]):
    """Endless iterator over `DetectionBatch`, from `start_step` on.

    Args:
        data: annotated images.
        transform: of an image.
        batch_size: images per rank and step.
        seed: of the order.
        rank, world_size: this process and how many there are; ranks take different images of the same step.
        options: of `StepLoader`: `start_step`, `num_workers`, `max_broken`, `pin_memory`, `start_method`.

    Raises:
        InputError: fewer images than a step needs; while iterating, when too many images are broken.
    """

    def __init__(
        self,
        data: DetectionData,
        transform: TrainTransform,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        order = TrainOrder(data.widths >= data.heights, batch_size * world_size, seed)
        self.steps_per_epoch = order.steps_per_epoch
        super().__init__(_StepBatches(data, transform, order, batch_size, rank, world_size), len(data), **options)


@dataclass
class _StepBatches(StepBatches[DetectionBatch]):
    """Map from a step to this rank's batch; plain data, so that it travels to spawned workers."""

    data: DetectionData
    transform: TrainTransform
    order: TrainOrder
    batch_size: int
    rank: int
    world_size: int

    def prepare(self, step: int) -> DetectionBatch:
        first = self.rank * self.batch_size
        own = self.order.indices(step)[first : first + self.batch_size]
        start = step * self.batch_size * self.world_size + first  # position of the first image, over all epochs
        images, labels, sample_ids, broken = [], [], [], []
        for position, index in enumerate(own.tolist(), start):
            index, image, tried = read_or_stand_in(
                index,
                partial(self.order.images.substitute, position),
                partial(self._read, position=position),
                self.data.names.__getitem__,
            )
            height, width = image.pixels.shape[1:]
            label = {"class_labels": image.labels, "boxes": relative_boxes(image.boxes, (height, width))}
            labels.append(label if image.masks is None else label | {"masks": image.masks})
            images.append(image.pixels)
            sample_ids.append(index)
            broken += tried
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = map(max, zip(*sizes, strict=True))
        padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(images, sizes, strict=True)]
        return DetectionBatch(step, torch.stack(padded), sizes, labels, torch.tensor(sample_ids), broken)

    def _read(self, index: int, position: int) -> TrainImage:
        return self.transform(self.data[index], position)
