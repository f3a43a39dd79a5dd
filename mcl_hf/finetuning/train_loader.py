"""Batches of annotated images for fine-tuning, addressed by step.

Flow: detection_data -> train_order, train_transform -> **train_loader** -> the step of fine-tuning.

As in pre-training, a step's images, their scales and flips follow from (seed, step) alone, whatever the number of
workers; a broken image is named and replaced by a stand-in computed from its position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F

from ..annotations.detection_data import DetectionData
from ..data.step_loader import StepBatches, StepLoader, read_or_stand_in
from ..detectors.targets import relative_boxes
from .train_order import TrainOrder
from .train_transform import TrainImage, TrainTransform, is_wide


@dataclass
class DetectionBatch:
    """N images of one rank and one step, in a detector's form.

    Attributes:
        step: that it belongs to.
        pixels: uint8 `(N, 3, H, W)`, each image in the upper left corner; the rest is 0.
        image_sizes: height and width of each image, px.
        labels: of each image `class_labels`, relative `boxes` and, where wanted, `masks`, as the detectors take them.
        sample_ids: int64 `(N,)`, index in the data.
        broken: "name: reason" of each image that a stand-in replaces.
    """

    step: int
    pixels: torch.Tensor
    image_sizes: list[tuple[int, int]]
    labels: list[dict[str, torch.Tensor]]
    sample_ids: torch.Tensor
    broken: list[str] = field(default_factory=list)

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
        rank: of this process.
        world_size: how many there are; ranks take different images of the same step.
        start_step: first step to hand out.
        num_workers: processes that prepare batches.
        max_broken: share of broken images above which the run stops.
        pin_memory: page-locked batches, for CUDA.
        start_method: how workers start; None takes the platform's default.

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
        start_step: int = 0,
        num_workers: int = 0,
        max_broken: float = 0.01,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        order = TrainOrder(is_wide(data.widths, data.heights), batch_size * world_size, seed)
        self.steps_per_epoch = order.steps_per_epoch
        super().__init__(
            _StepBatches(data, transform, order, batch_size, rank, world_size),
            len(data),
            start_step=start_step,
            num_workers=num_workers,
            max_broken=max_broken,
            pin_memory=pin_memory,
            start_method=start_method,
        )


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
        images, sample_ids, broken = [], [], []
        for position, index in enumerate(own.tolist(), start):
            index, image, tried = read_or_stand_in(
                index,
                partial(self.order.substitute, position),
                partial(self._read, position=position),
                self.data.names.__getitem__,
            )
            images.append(image)
            sample_ids.append(index)
            broken += tried
        return collate(step, images, sample_ids, broken)

    def _read(self, index: int, position: int) -> TrainImage:
        return self.transform(self.data[index], position)


def collate(
    step: int, images: Sequence[TrainImage], sample_ids: Sequence[int], broken: Sequence[str]
) -> DetectionBatch:
    """Images of different sizes as one batch, padded with zeros at the right and the bottom.

    Args:
        step: that they belong to.
        images: at least one.
        sample_ids: index in the data of each.
        broken: lines about images that stand-ins replace.
    """
    sizes = [(image.pixels.shape[1], image.pixels.shape[2]) for image in images]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    pixels = torch.stack(
        [F.pad(image.pixels, (0, width - w, 0, height - h)) for image, (h, w) in zip(images, sizes, strict=True)]
    )  # (N, 3, H, W)
    labels = []
    for image, size in zip(images, sizes, strict=True):
        label = {"class_labels": image.labels, "boxes": relative_boxes(image.boxes, size)}
        if image.masks is not None:
            label["masks"] = image.masks
        labels.append(label)
    return DetectionBatch(step, pixels, sizes, labels, torch.tensor(sample_ids, dtype=torch.int64), list(broken))
