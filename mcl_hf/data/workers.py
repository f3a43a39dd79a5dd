"""Worker processes that end when the process ends that they work for, whichever way that is.

Where it sits: around every `DataLoader` of ours: `step_loader`, `pack`, `near_duplicates`, `evaluation/predict_data`.
At exit, multiprocessing sends each worker one SIGTERM and then waits for it without end. As ours take a first SIGTERM
for the training process's, they are killed before. Workers that somebody has stopped (SIGSTOP) are woken before.
"""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..errors import InputError

LOSS = (
    "a process that prepares images is gone ({}): where memory ran out, lower --num-workers or the batch size. A run "
    "continues with --resume auto"
)


def is_loss_of_a_worker(error: RuntimeError) -> bool:
    """Whether it is torch's word that a worker has died, which may come wherever the process is."""
    return str(error).startswith("DataLoader worker")


def batches_of(loader: DataLoader) -> Generator[Any, None, None]:
    """What a loader gives. Its workers end with the iterator, and at the latest with the process. Where one has died,
    an `InputError`; between two batches torch raises that as a RuntimeError, which `is_loss_of_a_worker` knows."""
    batches: Any = iter(loader)
    workers = getattr(batches, "_workers", [])  # torch has no public name for them; without workers there are none
    at_exit = Finalize(None, _kill, args=(workers, True), exitpriority=0)  # before multiprocessing waits
    try:
        yield from batches
    except Exception as error:
        for worker in workers:
            worker.join(timeout=0.1)  # a broken connection is noticed before an end
            if worker.exitcode:
                raise InputError(LOSS.format(f"exit code {worker.exitcode}")) from error
        raise
    finally:
        at_exit.cancel()
        try:
            if workers:
                wake_workers()  # torch gives each of them seconds to leave
                batches._shutdown_workers()  # a traceback may hold the iterator, which would end them when it goes
        finally:
            _kill(workers)


@dataclass
class _Items(Dataset):
    """Map from an index to what a function makes of it, or to the `InputError` that it raised: a worker's own would
    come with the worker's traceback in its message."""

    function: Callable[[int], Any]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.function(index)
        except InputError as error:
            return error


def each_of(
    function: Callable[[int], Any], indices: Sequence[int], per_task: int, num_workers: int
) -> Generator[Any, None, None]:
    """What `function`, which travels to the workers, makes of each index, in order; `per_task` of them are prepared at
    once by one of `num_workers` processes, 0: here. An `InputError` of its own, or of `batches_of`, is raised here."""
    tasks = [list(indices[first : first + per_task]) for first in range(0, len(indices), per_task)]
    loader: DataLoader = DataLoader(
        _Items(function),
        batch_sampler=tasks,
        num_workers=min(num_workers, len(tasks)),
        collate_fn=list,
        worker_init_fn=start_worker,
    )
    with closing(batches_of(loader)) as batches:
        for item in chain.from_iterable(batches):
            if isinstance(item, InputError):
                raise item
            yield item


def _kill(workers: Sequence[Any], exiting: bool = False) -> None:
    if exiting and workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise that a worker was killed
    for worker in workers:
        worker.kill()


def wake_workers() -> None:
    """Let this process's children go on that somebody has stopped: a batch that they owe would never come."""
    for child in multiprocessing.active_children():
        with suppress(OSError, AttributeError):  # it has ended; Windows cannot stop processes
            os.kill(child.pid or os.getpid(), signal.SIGCONT)


def start_worker(_worker_id: int) -> None:
    """A `DataLoader`'s `worker_init_fn`: let a worker leave when, and as, the process wants it that it works for.

    Launchers and schedulers send SIGTERM to every process of a job. The training process finishes its step and saves,
    for which it needs its workers: a first SIGTERM is for it alone, a second one ends the worker. A terminal that
    closes sends all of them SIGHUP, too. A spawned worker ends as a forked one does, by `os._exit`: its queue thread
    may still be sending a tensor when the interpreter shuts down, and then aborts the process."""
    signal.signal(signal.SIGTERM, _leave_next_time)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    atexit.register(os._exit, 0)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_next_time(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _leave_with_the_parent() -> None:
    """torch watches the process that has forked the worker, which may be a fork server that stays."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
