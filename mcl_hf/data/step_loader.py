"""Batches addressed by step, prepared by worker processes: what loaders of every task share.

Flow: order -> sources -> **step_loader** -> the loaders of pre-training (`loader`) and of fine-tuning. A data set here
maps a step to a whole batch, a pure function of the step. Each is prepared by one worker, and torch's DataLoader hands
them out in order: a resumed run continues exactly, with any number of workers.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import InputError
from .decode import BrokenImage
from .workers import batches_of, start_worker

BROKEN_EXAMPLES = 5
_TRIES = 20

_IMAGES_BEFORE_JUDGEMENT = 100
_BROKEN_BEFORE_JUDGEMENT = 5  # a single bad file in a small folder is no reason to stop


class StepBatch(Protocol):
    """What the loader needs of a batch: its step, the index of each image, int64 `(N,)`, and one line, "name: reason",
    for each broken image that a stand-in replaces."""

    step: int
    sample_ids: torch.Tensor
    broken: list[str]


B = TypeVar("B", bound=StepBatch)
T = TypeVar("T")


class StepBatches(Dataset, ABC, Generic[B]):
    """Map from a step to a batch; plain data, so that it travels to spawned workers."""

    def __getitem__(self, step: int) -> B | InputError:
        """The batch, or why there is none: a worker's error would come with its traceback in the message."""
        with one_thread():
            try:
                return self.prepare(step)
            except InputError as error:  # the source itself is gone
                return error

    @abstractmethod
    def prepare(self, step: int) -> B:
        """The batch of a step; an `InputError` where none can be made."""


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread, as in a worker: many small operations, and the same rounding wherever they run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class StepLoader(Generic[B]):
    """Endless iterator over batches; arguments, but for the data set that maps a step to a batch or an `InputError` to
    raise (`StepBatches`) and its number of images, are those of `ViewLoader`."""

    def __init__(
        self,
        batches: Dataset,
        num_images: int,
        *,
        start_step: int = 0,
        num_workers: int = 0,
        max_broken: float = 0.01,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self.start_step = self._next_step = start_step
        self.num_images, self.max_broken = num_images, max_broken
        self.images_seen = self.broken_seen = 0
        self._broken: dict[str, None] = {}
        self._batches: Any = batches
        self._steps = _Steps(start_step)
        self._loader: DataLoader = DataLoader(
            batches,
            batch_size=None,  # an item is a whole batch
            sampler=self._steps,
            num_workers=num_workers,
            prefetch_factor=prefetch_batches if num_workers else None,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if num_workers else None,
            worker_init_fn=start_worker,
        )

    def __iter__(self) -> Iterator[B]:
        self._next_step = self.start_step
        with closing(batches_of(self._loader)) as batches:
            for batch in batches:
                if isinstance(batch, InputError):
                    raise batch
                self._count(batch)
                self._next_step = batch.step + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the latest iterator stands: the next step, which is all that is needed to go on."""
        return {"step": self._next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iterator start where `state` was taken."""
        self.start_step = self._next_step = self._steps.start = state["step"]

    def _count(self, batch: StepBatch) -> None:
        self.images_seen += len(batch.sample_ids)
        self.broken_seen += len(batch.broken)
        self._broken |= dict.fromkeys(batch.broken)  # an image is met again every epoch
        images = min(self.images_seen, self.num_images)
        if self.images_seen < _IMAGES_BEFORE_JUDGEMENT or len(self._broken) < _BROKEN_BEFORE_JUDGEMENT:
            return
        if len(self._broken) > self.max_broken * images:
            examples = list(self._broken)[:BROKEN_EXAMPLES]
            raise InputError(
                f"{len(self._broken)} of {images} images could not be decoded, more than the share of "
                f"{self.max_broken:g} that --max-broken allows. Repair or remove them, or allow more. "
                f"Examples: {'; '.join(examples)}"
            )


def read_or_stand_in(
    index: int, substitute: Callable[[int], int], read: Callable[[int], T], name: Callable[[int], str]
) -> tuple[int, T, list[str]]:
    """The index, what `read` makes of it and no line, or where that image is broken the same of the first of its
    stand-ins, number 1, 2, ..., that is not, and a line "name: reason" for each broken image on the way."""
    tried: list[str] = []
    for attempt in range(_TRIES):
        index = substitute(attempt) if attempt else index
        try:
            return index, read(index), tried
        except BrokenImage as error:
            tried.append(f"{name(index)}: {error}")
    raise InputError(
        f"an image and its {_TRIES - 1} stand-ins are all broken. Are these images at all? "
        f"Examples: {'; '.join(tried[:BROKEN_EXAMPLES])}"
    )


class _Steps(Sampler[int]):
    """start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)
