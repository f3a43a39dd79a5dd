"""Writing checkpoints beside training.

Where it sits: the loop starts a write at a saving step and asks for its outcome at later logging and saving steps, and
before it leaves. The training thread copies everything to host memory (`take_snapshot`: as many bytes as the checkpoint
has, held until it is written); one other thread serialises, hashes, fsyncs and renames. There is at most one write at a
time, so a disk slower than training holds it up, and memory holds one copy.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from .saving import SavesPretrained, take_snapshot, write_checkpoint
from .state import TrainingState


class CheckpointWriter:
    """One write at a time, in a thread of its own; for the main process, but for `in_flight`.

    Leaving the `with` block waits for the write. If that fails while another error is on its way, it becomes a note on
    that one.

    Args:
        output_dir: the run's folder.
        keep_last: see `write_checkpoint`.
        keep_every: see `write_checkpoint`.

    Attributes:
        in_flight: whether a write was started whose outcome nobody has asked for; kept by the loop, on every rank.
    """

    def __init__(self, output_dir: Path, keep_last: int = 0, keep_every: int = 0) -> None:
        self.output_dir, self.keep_last, self.keep_every = output_dir, keep_last, keep_every
        self.in_flight = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._write: Future[Path] | None = None

    def start(
        self, model: Any, processor: SavesPretrained, optimizer: torch.optim.Optimizer, state: TrainingState
    ) -> None:
        """Copy what the checkpoint will hold, and begin to write it. The write before must have been asked for."""
        snapshot = take_snapshot(model, optimizer, state)
        self._write = self._thread.submit(
            write_checkpoint, self.output_dir, model, processor, snapshot, self.keep_last, self.keep_every
        )

    def poll(self) -> Path | None:
        """As `wait`, but None at once where the write is still going on."""
        return self.wait() if self._write is not None and self._write.done() else None

    def wait(self) -> Path | None:
        """The checkpoint that was started, once it is whole; None where there is none.

        Raises:
            InputError: it could not be written.
        """
        write, self._write = self._write, None
        return None if write is None else write.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        failure = None if self._write is None else self._write.exception()
        if failure is not None and error is not None:
            error.add_note(str(failure))
        elif failure is not None:
            raise failure
