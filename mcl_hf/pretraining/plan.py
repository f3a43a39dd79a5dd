"""What a run will need, from a few measured steps of it: memory, hours, disk, cores for the data.

Where it sits: `rehearsal.py` measures, this file does the sums, `mcl-hf doctor --plan` prints them. Pure functions.

Time and memory of a step grow with the images that the backbone sees, M (the batch and its montages), which is nearly
but not exactly proportional to the batch: every level has one montage at the least.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SPARE = 0.92
"""Share of the memory that a plan fills: allocators need room, and so do the other things on a machine."""


@dataclass(frozen=True)
class Measured:
    """A few steps that were run.

    Attributes:
        batch_size: N, images per process and forward pass.
        backbone_images: M of one side.
        seconds: of the fastest step, waiting for data left out.
        peak_gib: see `peak_memory.py`.
        checkpoint_bytes: of one checkpoint folder.
        finished_bytes: of the finished model and `pretraining/`.
    """

    batch_size: int
    backbone_images: int
    seconds: float
    peak_gib: float
    checkpoint_bytes: int
    finished_bytes: int


@dataclass(frozen=True)
class Line:
    """A quantity that grows linearly with M: `at_zero + slope * M`."""

    at_zero: float
    slope: float

    def at(self, backbone_images: int) -> float:
        """The quantity for M images."""
        return self.at_zero + self.slope * backbone_images

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> "Line":
        """The line through the points with the smallest and the largest M; noise never makes it fall.

        Args:
            points: `(M, quantity)`, at least one; one alone is taken for proportional.
        """
        (first_m, first), (last_m, last) = min(points), max(points)
        slope = max(0.0, (last - first) / (last_m - first_m)) if last_m > first_m else last / last_m
        return cls(last - slope * last_m, slope)


def disagreement(measured: Sequence[Measured]) -> float:
    """How much the time for an image differs between the measured batches, as a ratio of 1 or more.

    Small batches use a device less well, so some of it is real; most of a large one is another program's.
    """
    times = [run.seconds / run.backbone_images for run in measured]
    return max(times) / min(times)


def largest_batch(memory: Line, backbone_images: Callable[[int], int], room_gib: float, most: int = 2**16) -> int:
    """The largest N whose step fits into `room_gib`; 0 where not even two images do.

    Args:
        memory: peak GiB as a line over M.
        backbone_images: M of a batch of N.
        room_gib: memory that one process may fill.
        most: where to stop looking.
    """
    if memory.at(backbone_images(2)) > room_gib:
        return 0
    low, high = 2, most
    while low < high:  # the largest N that fits lies in low..high
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory.at(backbone_images(middle)) <= room_gib else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Plan:
    """A whole run on `world_size` processes like the one that was measured.

    Attributes:
        seconds_per_step: of an optimizer step, without what processes have to tell each other.
        images_per_second: of all processes.
        hours: of the run.
        peak_gib: of one process.
        data_cores: cores that must prepare images so that training never waits, per process.
        disk_gib: checkpoints that are kept, one being written, and the finished model.
    """

    seconds_per_step: float
    images_per_second: float
    hours: float
    peak_gib: float
    data_cores: float
    disk_gib: float


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
    """Extrapolate a run from measured steps of smaller batches.

    Args:
        measured: steps of the same settings at one or more batch sizes.
        batch_size: N of the planned run, per process.
        backbone_images: M of a batch of N.
        passes: forward passes per optimizer step.
        world_size: processes.
        max_steps: optimizer steps.
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
