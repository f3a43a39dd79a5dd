"""The batches of a run: how long the loop waited for them, and what happens when there are no more.

Where it sits: between a task's loader and its step, in the loop.
"""

import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch

from ..errors import InputError
from .signals import interrupts_ignored

B = TypeVar("B")


class DataError(InputError):
    """No batch could be made. Every rank raises it before the same step, so that they can save together."""


class TimedBatches(Iterator[B], Generic[B]):
    """The loader's batches, and how long the loop has waited for them, in seconds. All ranks must go through it in
    step: each learns from the others whether they have their batch.

    Raises:
        DataError: this rank's loader, or another's, cannot go on.
    """

    def __init__(self, batches: Iterator[B], num_processes: int = 1) -> None:
        self._batches, self._started, self.seconds = batches, False, 0.0
        # on the host, so that asking does not wait for the device
        self._group: Any = torch.distributed.new_group(backend="gloo") if num_processes > 1 else None

    def close(self) -> None:
        """Let the loader's workers end; nobody else waits for them where an error ends the run."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def __next__(self) -> B:
        start = time.perf_counter()
        error = None
        try:
            if self._started:
                batch = next(self._batches)
            else:
                with interrupts_ignored():  # the workers start here
                    batch = next(self._batches)
                self._started = True
        except InputError as caught:
            error = caught
        if self._group is not None:
            failed = torch.tensor(int(error is not None))
            torch.distributed.all_reduce(failed, group=self._group)
            if failed and error is None:
                raise DataError("the data of another process could not be read: see its message")
        if error is not None:
            raise DataError(str(error)) from error
        self.seconds += time.perf_counter() - start
        return batch
