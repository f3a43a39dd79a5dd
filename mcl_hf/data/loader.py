"""Batches of views, addressed by step.

Flow: order -> sources -> decode -> augment + views -> **loader** -> training loop.

Step s, rank k, slot j takes the sample at position ``(s mod steps_per_epoch) * global_batch + k * batch_size + j`` of
epoch ``s div steps_per_epoch``. Which images a step sees, and how they are cropped and coloured, follows from (seed,
step) alone: a resumed run continues exactly, with any number of workers. Whole batches are prepared by one worker
each, and torch's DataLoader hands them out in order.

A broken image costs itself: a stand-in computed from its position takes its place, and the batch names it.
"""

import atexit
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mcl_hf.data.augment import ViewDraw
from mcl_hf.data.augment_batch import BatchDraws, augment_batch, collect_draws
from mcl_hf.data.decode import BrokenImage, open_image
from mcl_hf.data.image_source import ImageSource, Order
from mcl_hf.data.views import blur_scale, check_rendering, crop_views, render_views, side_recipes
from mcl_hf.errors import InputError

AUGMENT_ON = ("cpu", "device")

_SUBSTITUTE_TRIES = 20
_IMAGES_BEFORE_JUDGEMENT = 100
_BROKEN_BEFORE_JUDGEMENT = 5  # a single bad file in a small folder is no reason to stop
_BROKEN_EXAMPLES = 5


@dataclass
class ViewBatch:
    """The views of N images for one rank and one step."""

    step: int
    views_a: list[torch.Tensor]
    """L tensors uint8 ``(N, C, S/r, S/r)``, level 0 first."""
    views_b: list[torch.Tensor] | None
    """As ``views_a``, from the second pipeline; None with one side."""
    sample_ids: torch.Tensor
    """int64 ``(N,)``: index in the source of each image, stand-ins included."""
    group_ids: torch.Tensor | None
    labels: torch.Tensor | None
    broken: list[str] = field(default_factory=list)
    """One line, name and reason, for each image that a stand-in replaces here."""
    draws_a: list[BatchDraws] | None = None
    """With ``augment_on="device"``: what remains to be done to each of ``views_a``, which are only cropped."""
    draws_b: list[BatchDraws] | None = None

    def augmented(self, device: torch.device | str) -> "ViewBatch":
        """The batch with its views finished, on ``device``; itself where nothing remains to be done to them."""
        if self.draws_a is None:
            return self
        return replace(
            self,
            views_a=_augment(self.views_a, self.draws_a, device),
            views_b=None if self.views_b is None else _augment(self.views_b, self.draws_b or [], device),
            draws_a=None,
            draws_b=None,
        )

    def pin_memory(self) -> "ViewBatch":
        """Copy of the batch in page-locked memory, for asynchronous transfer; called by DataLoader where
        ``pin_memory=True``.
        """
        return ViewBatch(
            step=self.step,
            views_a=[view.pin_memory() for view in self.views_a],
            views_b=None if self.views_b is None else [view.pin_memory() for view in self.views_b],
            sample_ids=self.sample_ids.pin_memory(),
            group_ids=None if self.group_ids is None else self.group_ids.pin_memory(),
            labels=None if self.labels is None else self.labels.pin_memory(),
            broken=self.broken,
            draws_a=None if self.draws_a is None else [draws.pin_memory() for draws in self.draws_a],
            draws_b=None if self.draws_b is None else [draws.pin_memory() for draws in self.draws_b],
        )


def _augment(
    views: Sequence[torch.Tensor], draws: Sequence[BatchDraws], device: torch.device | str
) -> list[torch.Tensor]:
    return [
        augment_batch(view.to(device, non_blocking=True), draw.to(device))
        for view, draw in zip(views, draws, strict=True)
    ]


class ViewLoader:
    """Endless iterator over `ViewBatch`, from ``start_step`` on.

    Args:
        source: images to read.
        view_size: side S of the level-0 view in px; every ratio divides it.
        ratios: down-sampling ratio r of each level.
        batch_size: images N per rank and step.
        seed: of order, crops and colours.
        rank, world_size: this process and how many there are; ranks take different images of the same step.
        start_step: first step to hand out; continuing at step s gives exactly what an uninterrupted run would have
            seen.
        num_workers: processes that prepare batches; 0 prepares them in the caller. Has no influence on what is in a
            batch.
        view_rendering: ``direct`` (each view at its own size, fast) or ``published``; see ``views``.
        augment_on: ``cpu`` finishes the views in the workers; ``device`` leaves all but crop and resize to
            `ViewBatch.augmented`, which does the same within one gray level. Only for ``direct``.
        sides: 2 for both pipelines, 1 for the first only.
        num_channels: C of the views. 1 and 3 take any image; another number, images that have just as many.
        max_broken: share of broken images among the different ones that this process has seen, above which the run
            stops once at least five are broken.
        prefetch_batches: batches that each worker keeps ready.
        pin_memory: page-locked batches, for CUDA.
        start_method: how workers start (``fork``, ``spawn``, ``forkserver``); None takes the platform's default.

    Raises:
        InputError: on construction for settings that cannot work; while iterating when too many images are broken,
            or the source is gone.
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
        num_channels: int = 3,
        max_broken: float = 0.01,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        _check_settings(
            view_size, ratios, batch_size, rank, world_size, view_rendering, augment_on, sides, num_channels,
            max_broken, start_step,
        )  # fmt: skip
        self.steps_per_epoch = len(source) // (batch_size * world_size)
        if self.steps_per_epoch == 0:
            fits = len(source) // world_size
            advice = (
                f"use a batch size of at most {fits} per process" if fits else f"use at most {len(source)} processes"
            )
            raise InputError(
                f"A step needs {batch_size * world_size} different images ({batch_size} on each of {world_size} "
                f"processes), but the data set holds {len(source)}: {advice}."
            )
        self.source = source
        self.start_step = self._next_step = start_step
        self.max_broken = max_broken
        self.images_seen = 0
        self.broken_seen = 0
        self._broken: dict[str, str] = {}
        self._batches = _StepBatches(
            source=source,
            order=source.order(seed, batch_size * world_size),
            steps_per_epoch=self.steps_per_epoch,
            view_size=view_size,
            ratios=tuple(ratios),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            view_rendering=view_rendering,
            augment_on=augment_on,
            sides=sides,
            num_channels=num_channels,
        )
        self._steps = _Steps(start_step)
        self._loader: DataLoader = DataLoader(
            self._batches,
            batch_size=None,  # an item is a whole batch
            sampler=self._steps,
            num_workers=num_workers,
            prefetch_factor=prefetch_batches if num_workers else None,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if num_workers else None,
            worker_init_fn=_leave_without_finalising,
        )

    def __iter__(self) -> Iterator[ViewBatch]:
        self._next_step = self.start_step
        for batch in self._loader:
            if isinstance(batch, _Failure):
                raise InputError(batch.message)
            self._count(batch)
            self._next_step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the latest iterator stands: the next step. Nothing else is needed to go on, with any number of
        workers.
        """
        return {"step": self._next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iterator start where ``state`` was taken."""
        self.start_step = self._next_step = self._steps.start = state["step"]

    def _count(self, batch: ViewBatch) -> None:
        self.images_seen += len(batch.sample_ids)
        self.broken_seen += len(batch.broken)
        self._broken |= {line.split(": ")[0]: line for line in batch.broken}  # an image is met again every epoch
        images = min(self.images_seen, len(self.source))
        if self.images_seen < _IMAGES_BEFORE_JUDGEMENT or len(self._broken) < _BROKEN_BEFORE_JUDGEMENT:
            return
        if len(self._broken) > self.max_broken * images:
            examples = list(self._broken.values())[:_BROKEN_EXAMPLES]
            raise InputError(
                f"{len(self._broken)} of {images} images could not be decoded, more than the share of "
                f"{self.max_broken:g} that --max-broken allows. Repair or remove them, or allow more. "
                f"Examples: {'; '.join(examples)}"
            )


def _leave_without_finalising(_worker_id: int) -> None:
    """Let a spawned worker end as a forked one does, by ``os._exit``.

    Its queue thread may still be sending a tensor when the interpreter shuts down, and then aborts the process.
    """
    atexit.register(os._exit, 0)


@dataclass
class _Failure:
    """What a worker hands out where no batch can be made: an exception would reach the caller with the worker's
    traceback in its message.
    """

    message: str


class _Steps(Sampler[int]):
    """start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


@dataclass
class _StepBatches(Dataset):
    """Map from a step to this rank's batch; plain data, so that it travels to spawned workers."""

    source: ImageSource
    order: Order
    steps_per_epoch: int
    view_size: int
    ratios: tuple[int, ...]
    batch_size: int
    seed: int
    rank: int
    world_size: int
    view_rendering: str
    augment_on: str
    sides: int
    num_channels: int

    def positions(self, step: int) -> np.ndarray:
        """Positions in the order, over all epochs, of this rank's images at ``step``: int64 ``(N,)``."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self.batch_size * self.world_size + self.rank * self.batch_size
        return epoch * len(self.source) + first + np.arange(self.batch_size)

    def __getitem__(self, step: int) -> "ViewBatch | _Failure":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: many small operations, and the same rounding wherever they run
        try:
            return self._prepare(step)
        except InputError as error:  # the source itself is gone
            return _Failure(str(error))
        finally:
            torch.set_num_threads(threads)

    def _prepare(self, step: int) -> "ViewBatch | _Failure":
        num_levels = len(self.ratios)
        sizes = [self.view_size // ratio for ratio in self.ratios] * self.sides
        views = [torch.empty((self.batch_size, self.num_channels, size, size), dtype=torch.uint8) for size in sizes]
        arrays = [view.numpy() for view in views]
        positions = self.positions(step)
        sample_ids = self.order.index(positions)  # (N,)
        broken: list[str] = []
        drawn: list[list[ViewDraw]] = []  # N lists of one draw a view, where the device is to do them
        for slot, position in enumerate(positions.tolist()):
            tried = []
            for attempt in range(_SUBSTITUTE_TRIES):
                index = self.order.substitute(position, attempt) if attempt else int(sample_ids[slot])
                try:
                    rendered, draws = self._render(index, position)
                except BrokenImage as error:
                    tried.append(f"{self.source.name(index)}: {error}")
                    continue
                break
            else:
                return _Failure(
                    f"No batch for step {step}: an image and its {_SUBSTITUTE_TRIES - 1} stand-ins are all broken. "
                    f"Are these images at all? Examples: {'; '.join(tried[:_BROKEN_EXAMPLES])}"
                )
            broken += tried
            sample_ids[slot] = index
            drawn.append(draws)
            for array, view in zip(arrays, rendered, strict=True):
                np.copyto(array[slot], view)  # (C, s, s)
        remaining = self._collect(drawn) if self.augment_on == "device" else None
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
        """The views of one image, and what remains to be done to each; nothing where they are finished here."""
        image = open_image(self.source.sample(index).bytes_, self.num_channels)
        recipes = side_recipes(len(self.ratios), self.sides)
        at = {"seed": self.seed, "position": position, "view_size": self.view_size, "num_channels": self.num_channels}
        if self.augment_on == "device":
            return crop_views(image, recipes, self.ratios, **at)
        return render_views(image, recipes, self.ratios, **at, rendering=self.view_rendering), []

    def _collect(self, drawn: list[list[ViewDraw]]) -> list[BatchDraws]:
        return [
            collect_draws(draws, self.num_channels, blur_scale(self.view_size, ratio))
            for draws, ratio in zip(zip(*drawn, strict=True), self.ratios * self.sides, strict=True)
        ]


def _check_settings(
    view_size: int, ratios: Sequence[int], batch_size: int, rank: int, world_size: int,
    view_rendering: str, augment_on: str, sides: int, num_channels: int, max_broken: float, start_step: int,
) -> None:  # fmt: skip
    if not ratios or any(ratio < 1 or view_size % ratio for ratio in ratios):
        raise InputError(
            f"Each ratio of {tuple(ratios)} has to be a whole number that divides the view size, {view_size} px."
        )
    if batch_size < 1:
        raise InputError(f"The batch size is {batch_size}; it has to be at least 1.")
    if not 0 <= rank < world_size:
        raise InputError(
            f"Rank {rank} does not exist among {world_size} processes: ranks go from 0 to {world_size - 1}."
        )
    if num_channels < 1:
        raise InputError(f"num_channels is {num_channels}; images have at least one.")
    check_rendering(view_rendering, num_channels)
    if augment_on not in AUGMENT_ON:
        raise InputError(f"augment_on '{augment_on}' is unknown: it is one of {', '.join(AUGMENT_ON)}.")
    if augment_on == "device" and view_rendering == "published":
        raise InputError(
            "augment_on 'device' is for view_rendering 'direct': the published operations are Pillow's, which run on "
            "the CPU alone."
        )
    if sides not in (1, 2):
        raise InputError(f"sides is {sides}; it is 2 (both augmentation pipelines) or 1 (the first).")
    if not 0 <= max_broken <= 1:
        raise InputError(f"max_broken is {max_broken}; it is a share between 0 and 1.")
    if start_step < 0:
        raise InputError(f"start_step is {start_step}; steps count from 0.")
