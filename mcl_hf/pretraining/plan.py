"""What a run will need, from a few measured steps of it: memory, hours, disk, cores for the data.

Where it sits: `rehearsal.py` measures, this file does the sums, `mcl-hf doctor --plan` prints them. Pure functions.
Time and memory of a step grow with M, the images that the backbone sees: the batch of N and its montages.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SPARE = 0.92
"""Share of the memory that a plan fills: allocators need room, and so do the other things on a machine."""


@dataclass(frozen=True)
class Measured:
    """A few steps that were run."""

    batch_size: int  # N, images per process and forward pass
    backbone_images: int  # M of one side
    seconds: float  # of the fastest step, waiting for data left out
    peak_gib: float  # see `peak_memory_gib`
    checkpoint_bytes: int  # of one checkpoint folder
    finished_bytes: int  # of the finished model and `pretraining/`


@dataclass(frozen=True)
class Line:
    """A quantity that grows linearly with M: `at_zero + slope * M`."""

    at_zero: float
    slope: float

    def at(self, backbone_images: int) -> float:
        return self.at_zero + self.slope * backbone_images

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> "Line":
        """The line through the `(M, quantity)` with the smallest and the largest M; noise never makes it fall, and one
        point alone is taken for proportional."""
        (first_m, first), (last_m, last) = min(points), max(points)
        slope = max(0.0, (last - first) / (last_m - first_m)) if last_m > first_m else last / last_m
        return cls(last - slope * last_m, slope)


def disagreement(measured: Sequence[Measured]) -> float:
    """Ratio of the largest to the smallest time for an image. Small batches use a device less well, so some of it is
    real; most of a large one is another program's."""
    times = [run.seconds / run.backbone_images for run in measured]
    return max(times) / min(times)


def largest_batch(memory: Line, backbone_images: Callable[[int], int], room_gib: float) -> int:
    """The largest N (to 2^16) whose step fits into `room_gib` by peak GiB over M; 0 where not even two images do."""
    sizes = range(2, 2**16 + 1)
    fitting = bisect.bisect_right(sizes, room_gib, key=lambda size: memory.at(backbone_images(size)))
    return sizes[fitting - 1] if fitting else 0


@dataclass(frozen=True)
class Plan:
    """A whole run on some processes like the one that was measured."""

    seconds_per_step: float  # of an optimizer step, without what processes have to tell each other
    images_per_second: float  # of all processes
    hours: float  # of the run
    peak_gib: float  # of one process
    data_cores: float  # that must prepare images so that training never waits, per process
    disk_gib: float  # checkpoints that are kept, one being written, and the finished model


def make_plan(
    measured: Sequence[Measured],
    *,
    batch_size: int,
    backbone_images: Callable[[int], int],
    passes: int,
    world_size: int,
    max_steps: int,
    images_per_core_second: float,
    kept_checkpoints: int,
) -> Plan:
    """Extrapolate a run from measured steps of smaller batches, all of the same settings.

    Args:
        batch_size: N of the planned run, per process.
        backbone_images: M of a batch of N.
        passes: forward passes per optimizer step.
        images_per_core_second: what one core can decode and augment.
        kept_checkpoints: that lie on the disk at the same time at most.
    """
    size = backbone_images(batch_size)
    seconds = Line.through([(run.backbone_images, run.seconds) for run in measured]).at(size) * passes
    per_process = batch_size * passes / seconds
    disk = kept_checkpoints * measured[-1].checkpoint_bytes + measured[-1].finished_bytes
    return Plan(
        seconds_per_step=seconds,
        images_per_second=per_process * world_size,
        hours=seconds * max_steps / 3600,
        peak_gib=Line.through([(run.backbone_images, run.peak_gib) for run in measured]).at(size),
        data_cores=per_process / images_per_core_second,
        disk_gib=disk / 2**30,
    )
