"""Stopping on request: SIGTERM, Ctrl-C and a terminal that closes (SIGHUP) finish the step, save, and leave.

Where it sits: around the loop. A second signal of the same kind acts at once, as it would without this file; not
SIGHUP, which shell and system both send. One that is ignored, as under `nohup`, stays so.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..data.workers import wake_workers

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class StopRequest:
    """Which signal asked this process to stop, if any."""

    def __init__(self) -> None:
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP for the length of the block."""
        taken = [signal.SIGTERM, signal.SIGINT]
        if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
            taken.append(_HANGUP)
        with _handled(taken, self._handle) as self._before:
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_IGN if number == _HANGUP else self._before[number])
        more = "" if number == _HANGUP else "; once more ends at once"
        if os.environ.get("RANK", "0") == "0":  # written past Python's buffers, in which the signal may have struck
            with suppress(OSError):  # `tee` has ended at the same Ctrl-C
                os.write(2, f"\n{self.name}: ending after what is at work now{more}\n".encode())
        wake_workers()  # the step is finished with what they prepare


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal: workers started inside this block leave it to the training
    process."""
    with _handled([signal.SIGINT], signal.SIG_IGN):
        yield


@contextmanager
def _handled(signals: list[signal.Signals], handler: Any) -> Iterator[dict[int, Any]]:
    """Signals with another handler for the length of the block, in the main thread; elsewhere Python sets none. Gives
    the handlers from before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
