"""Batches of views, addressed by step.

Flow: order -> sources -> decode -> views -> **loader** -> training loop. Step s, rank k, slot j takes the sample at
position `(s mod steps_per_epoch) * global_batch + k * batch_size + j` of epoch `s div steps_per_epoch`. Which images a
step sees, and how they are cropped and coloured, follows from (seed, step) alone: a resumed run continues exactly, with
any number of workers (`step_loader`). A broken image costs itself: a stand-in computed from its position takes its
place, and the batch names it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .sources.image_source import ImageSource
from .step_loader import StepBatches, StepLoader, read_or_stand_in
from .views.draw import ViewDraw
from .views.finish import BatchDraws, augment_batch, collect_draws
from .views.render import blur_scale, check_rendering, crop_views, render_views, side_recipes

AUGMENT_ON = ("cpu", "device")


@dataclass
class ViewBatch:
    """The views of N images for one rank and one step.

    Attributes:
        step: that it belongs to.
        views_a: L tensors uint8 `(N, C, S/r, S/r)`, level 0 first.
        views_b: as `views_a`, from the second pipeline; None with one side.
        sample_ids: int64 `(N,)`: index in the source of each image, stand-ins included.
        group_ids, labels: int64 `(N,)`, or None where the source has none.
        broken: one line, name and reason, for each image that a stand-in replaces here.
        draws_a, draws_b: with `augment_on="device"`, what is left to do to each of the views, which are only cropped.
    """

    step: int
    views_a: list[torch.Tensor]
    views_b: list[torch.Tensor] | None
    sample_ids: torch.Tensor
    group_ids: torch.Tensor | None
    labels: torch.Tensor | None
    broken: list[str] = field(default_factory=list)
    draws_a: list[BatchDraws] | None = None
    draws_b: list[BatchDraws] | None = None

    def augmented(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> "ViewBatch":
        """The batch with its views finished, where `copy` puts their tensors; itself where nothing is left to do."""
        if self.draws_a is None:
            return self
        return replace(
            self,
            views_a=_augment(self.views_a, self.draws_a, copy),
            views_b=None if self.views_b is None else _augment(self.views_b, self.draws_b or [], copy),
            draws_a=None,
            draws_b=None,
        )

    def pin_memory(self) -> "ViewBatch":
        """Copy in page-locked memory, for asynchronous transfer; called by DataLoader where `pin_memory=True`."""
        return ViewBatch(**{name: _pinned(value) for name, value in vars(self).items()})


def _pinned(value: Any) -> Any:
    if isinstance(value, list):
        return [_pinned(part) for part in value]
    if isinstance(value, BatchDraws):
        return value.map(torch.Tensor.pin_memory)
    return value.pin_memory() if isinstance(value, torch.Tensor) else value


def _augment(
    views: Sequence[torch.Tensor], draws: Sequence[BatchDraws], copy: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    return [augment_batch(copy(view), draw.map(copy)) for view, draw in zip(views, draws, strict=True)]


class ViewLoader(StepLoader[ViewBatch]):
    """Endless iterator over `ViewBatch`, from `start_step` on.

    Args:
        source: images to read.
        view_size: side S of the level-0 view in px; every ratio divides it.
        ratios: down-sampling ratio r of each level.
        batch_size: images N per rank and step.
        seed: of order, crops and colours.
        rank, world_size: this process and how many there are; ranks take different images of the same step.
        start_step: first step to hand out; from it on, batches are exactly those of an uninterrupted run.
        num_workers: processes that prepare batches, 0: the caller. Has no influence on what is in a batch.
        view_rendering: `direct` (each view at its own size, fast) or `published`; see `views`.
        augment_on: `cpu` finishes the views in the workers; `device` leaves all but crop and resize to
            `ViewBatch.augmented`, which does the same within one gray level. Only for `direct`.
        sides: 2 for both pipelines, 1 for the first only.
        min_crop_scale: smallest area of a crop, as a share of the picture; None: the published 0.2.
        num_channels: C of the views. 1 and 3 take any image; another number, images that have just as many.
        max_broken: share of broken images among the different ones that this process has seen, above which the run
            stops once at least five are broken.
        prefetch_batches: batches that each worker keeps ready.
        pin_memory: page-locked batches, for CUDA.
        start_method: how workers start (`fork`, `spawn`, `forkserver`); None takes the platform's default.

    Raises:
        InputError: settings that cannot work; while iterating, too many broken images, or a source that is gone.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        view_size: int = 224,
        ratios: Sequence[int] = (1, 2, 4, 8),
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_workers: int = 0,
        view_rendering: str = "direct",
        augment_on: str = "cpu",
        sides: int = 2,
        min_crop_scale: float | None = None,
        num_channels: int = 3,
        max_broken: float = 0.01,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        batches = _StepBatches(
            source=source, view_size=view_size, ratios=tuple(ratios), batch_size=batch_size, seed=seed, rank=rank,
            world_size=world_size, view_rendering=view_rendering, augment_on=augment_on, sides=sides,
            min_crop_scale=min_crop_scale, num_channels=num_channels,
        )  # fmt: skip
        if not 0 <= max_broken <= 1:
            raise InputError(f"max_broken is {max_broken}; it is a share between 0 and 1")
        if start_step < 0:
            raise InputError(f"start_step is {start_step}; steps count from 0")
        self.source, self.steps_per_epoch = source, batches.steps_per_epoch
        super().__init__(
            batches, len(source), start_step=start_step, num_workers=num_workers, max_broken=max_broken,
            prefetch_batches=prefetch_batches, pin_memory=pin_memory, start_method=start_method,
        )  # fmt: skip


@dataclass
class _StepBatches(StepBatches[ViewBatch]):
    """Map from a step to this rank's batch."""

    source: ImageSource
    view_size: int
    ratios: tuple[int, ...]
    batch_size: int
    seed: int
    rank: int
    world_size: int
    view_rendering: str
    augment_on: str
    sides: int
    min_crop_scale: float | None
    num_channels: int

    def __post_init__(self) -> None:
        if not self.ratios or any(ratio < 1 or self.view_size % ratio for ratio in self.ratios):
            raise InputError(
                f"each ratio of {self.ratios} has to be a whole number that divides the view size, {self.view_size} px"
            )
        if self.batch_size < 1:
            raise InputError(f"the batch size is {self.batch_size}; it has to be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} does not exist among {self.world_size} processes: ranks go from 0 to "
                f"{self.world_size - 1}"
            )
        if self.num_channels < 1:
            raise InputError(f"num_channels is {self.num_channels}; images have at least one")
        check_rendering(self.view_rendering, self.num_channels)
        if self.augment_on not in AUGMENT_ON:
            raise InputError(f"augment_on '{self.augment_on}' is unknown: it is one of {', '.join(AUGMENT_ON)}")
        if self.augment_on == "device" and self.view_rendering == "published":
            raise InputError(
                "augment_on 'device' is for view_rendering 'direct': the published operations are Pillow's, which run "
                "on the CPU alone"
            )
        if self.sides not in (1, 2):
            raise InputError(f"sides is {self.sides}; it is 2 (both augmentation pipelines) or 1 (the first)")
        if self.min_crop_scale is not None and not 0 < self.min_crop_scale <= 1:
            raise InputError(f"min_crop_scale is {self.min_crop_scale}; it is a share above 0 and at most 1")
        images, processes = len(self.source), self.world_size
        self.steps_per_epoch = images // (self.batch_size * processes)
        if self.steps_per_epoch == 0:
            fits = images // processes
            fewer = f"use at most {images // min(2, self.batch_size)} processes" if images > 1 else "give more images"
            advice = f"use a batch size of at most {fits} per process" if fits > 1 else fewer
            raise InputError(
                f"A step needs {self.batch_size * processes} different images ({self.batch_size} on each of "
                f"{processes} processes), but the data set holds {images}: {advice}"
            )
        self.order = self.source.order(self.seed, self.batch_size * processes)

    def positions(self, step: int) -> np.ndarray:
        """Positions in the order, over all epochs, of this rank's images at `step`: int64 `(N,)`."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self.batch_size * self.world_size + self.rank * self.batch_size
        return epoch * len(self.source) + first + np.arange(self.batch_size)

    def prepare(self, step: int) -> ViewBatch:
        num_levels = len(self.ratios)
        sizes = [self.view_size // ratio for ratio in self.ratios] * self.sides
        views = [torch.empty((self.batch_size, self.num_channels, size, size), dtype=torch.uint8) for size in sizes]
        arrays = [view.numpy() for view in views]
        positions = self.positions(step)
        sample_ids = self.order.index(positions)  # (N,)
        broken: list[str] = []
        drawn: list[list[ViewDraw]] = []  # N lists of one draw a view, where the device is to finish them
        for slot, position in enumerate(positions.tolist()):
            index, (rendered, draws), tried = read_or_stand_in(
                int(sample_ids[slot]),
                partial(self.order.substitute, position),
                partial(self._render, position=position),
                self.source.name,
            )
            broken += tried
            sample_ids[slot] = index
            drawn.append(draws)
            for array, view in zip(arrays, rendered, strict=True):
                np.copyto(array[slot], view)  # (C, s, s)
        remaining = None
        if self.augment_on == "device":
            scales = [blur_scale(self.view_size, ratio) for ratio in self.ratios] * self.sides
            of_views = zip(zip(*drawn, strict=True), scales, strict=True)
            remaining = [collect_draws(draws, self.num_channels, scale) for draws, scale in of_views]
        return ViewBatch(
            step=step,
            views_a=views[:num_levels],
            views_b=views[num_levels:] if self.sides == 2 else None,
            sample_ids=torch.from_numpy(sample_ids),
            group_ids=None if self.source.groups is None else torch.from_numpy(self.source.groups[sample_ids]),
            labels=None if self.source.labels is None else torch.from_numpy(self.source.labels[sample_ids]),
            broken=broken,
            draws_a=None if remaining is None else remaining[:num_levels],
            draws_b=None if remaining is None or self.sides == 1 else remaining[num_levels:],
        )

    def _render(self, index: int, position: int) -> tuple[list[np.ndarray], list[ViewDraw]]:
        """The views of one image, and what is left to do to each; nothing where they are finished here."""
        image = self.source.sample(index).open(self.num_channels)
        recipes = side_recipes(len(self.ratios), self.sides, self.min_crop_scale)
        at = {"seed": self.seed, "position": position, "view_size": self.view_size, "num_channels": self.num_channels}
        if self.augment_on == "device":
            return crop_views(image, recipes, self.ratios, **at)
        return render_views(image, recipes, self.ratios, **at, rendering=self.view_rendering), []
