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
    """Which signal asked this process to stop, if any.

    Example:
        >>> stop = StopRequest()
        >>> with stop.listening():
        ...     stop.name is None
        True
    """

    def __init__(self) -> None:
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP for the length of the block (in the main thread; elsewhere Python takes
        none)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [signal.SIGTERM, signal.SIGINT]
        if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
            taken.append(_HANGUP)
        before: dict[int, Any] = {number: signal.signal(number, self._handle) for number in taken}
        self._before = before
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
