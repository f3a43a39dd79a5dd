"""A few numbers between processes on the CPUs of one machine, through memory that they share.

Where it sits: `launch.py` opens it around a run of several processes -> **same_host** -> `models/collectives.py`, which
asks it first. A step of pre-training waits some 180 times for the other processes, nearly always for the statistics of
one batch norm. A collective puts whoever waits to sleep, and to wake a core takes about a millisecond on a virtual
machine. Here they look at each other's counters until these have risen, which takes a fiftieth of that.
"""

import mmap
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from ..models.collectives import exchanging

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SLOT_BYTES = 1 << 16  # of one rank's tensor: statistics of 8,000 channels
_MEMORY = Path("/dev/shm")
_LINE = 64  # bytes from counter to counter: each in a cache line of its own
_LOOKING_SECONDS = 0.02  # that a process looks without sleeping; longer waits are for data, not for statistics
_NAP_SECONDS = 0.0005
_ALIVE_SECONDS = 1.0  # between two looks at whether the others are there
# Only such processors show all writes in the order in which they were made.
_SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"


class SharedMemory:
    """What each rank has written, for all to read, in a file of `size_of(world_size)` bytes that is closed in the end.

    A rank writes its tensor, then raises its counter; it reads another's once that counter has risen. Tensors take
    turns in two slots: who writes into the first again has seen all others at the second, and so done with the first.
    """

    def __init__(self, file: int, rank: int, world_size: int) -> None:
        self._file, self._rank = file, rank
        self._others = [other for other in range(world_size) if other != rank]
        self._memory = mmap.mmap(file, size_of(world_size))
        self._counters = memoryview(self._memory)[: world_size * _LINE].cast("q")
        slots = torch.frombuffer(
            self._memory, dtype=torch.uint8, offset=world_size * _LINE, count=2 * world_size * SLOT_BYTES
        )
        self._slots = slots.view(2, world_size, SLOT_BYTES)
        self._count = 0
        # The system gives it back when the process ends, however it ends. Children do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)

    def __call__(self, own: torch.Tensor) -> torch.Tensor | None:
        """Tensors of all ranks, of one shape and dtype: `(...)` of each -> `(W, ...)`; None where they are too large. A
        DistNetworkError where another process has ended."""
        size = own.numel() * own.element_size()
        if size > SLOT_BYTES:
            return None
        self._count += 1
        slot = self._slots[self._count % 2, :, :size]  # (W, bytes)
        slot[self._rank] = own.reshape(-1).view(torch.uint8)
        self._counters[self._rank * _LINE // 8] = self._count
        for other in self._others:
            self._wait_for(other)
        return torch.cat(slot.unbind()).view(own.dtype).view(len(slot), *own.shape)

    def _wait_for(self, other: int) -> None:
        place, count, counters = other * _LINE // 8, self._count, self._counters
        start = looked = time.monotonic()
        while counters[place] < count:
            now = time.monotonic()
            if now - start < _LOOKING_SECONDS:
                os.sched_yield()  # to whatever else this core has to do
                continue
            time.sleep(_NAP_SECONDS)
            if now - looked > _ALIVE_SECONDS:
                looked = now
                if self._has_ended(other) and counters[place] < count:  # it may have ended well, having raised it
                    raise dist.DistNetworkError(f"rank {other} of this machine has ended")

    def _has_ended(self, other: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, other)
        except OSError:  # it still holds its lock
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, other)  # for the others to see
        return True

    def close(self) -> None:
        """Let go of the lock; the memory goes with the last who looks at it."""
        os.close(self._file)


def size_of(world_size: int) -> int:
    """Bytes of the file: counters and slots."""
    return world_size * (_LINE + 2 * SLOT_BYTES)


@contextmanager
def sharing_memory(rank: int, world_size: int, device: torch.device) -> Iterator[None]:
    """Exchange small tensors through memory for the length of the block, where all ranks can: on CPUs of one machine.
    All ranks must enter it together."""
    memory = _open(rank, world_size) if world_size > 1 and device.type == "cpu" else None
    if memory is None:
        yield
        return
    try:
        with exchanging(memory):
            yield
    finally:
        memory.close()


def _open(rank: int, world_size: int) -> SharedMemory | None:
    """The memory of these ranks; None for all where one cannot open it: another machine, another container."""
    made: list[str | None] = [_make(world_size) if rank == 0 else None]
    dist.broadcast_object_list(made)
    if made[0] is None:
        return None
    path, memory = Path(made[0]), None
    with suppress(OSError):
        memory = _attach(path, rank, world_size)
    opened: list[bool] = [False] * world_size
    dist.all_gather_object(opened, memory is not None)
    if rank == 0:
        path.unlink(missing_ok=True)  # whoever has opened it keeps it, and nothing stays behind
    if memory is not None and not all(opened):
        memory.close()
        return None
    return memory


def _make(world_size: int) -> str | None:
    """A file whose name, drawn at random, no other machine has; None where there is no room or no such system."""
    if not _SUPPORTED or not _MEMORY.is_dir():
        return None
    try:
        file, name = tempfile.mkstemp(prefix="mcl_hf-", dir=_MEMORY)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, size_of(world_size))  # a page that does not fit would end the process later
    except OSError:
        Path(name).unlink(missing_ok=True)
        return None
    finally:
        os.close(file)
    return name


def _attach(path: Path, rank: int, world_size: int) -> SharedMemory:
    return SharedMemory(os.open(path, os.O_RDWR | os.O_CLOEXEC), rank, world_size)
