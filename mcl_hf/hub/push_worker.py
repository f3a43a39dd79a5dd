"""One thread that pushes while training goes on: the newest upload counts, and no error leaves it.

Where it sits: `background.py` hands it uploads and asks it what became of them -> **push_worker** -> `repository.py`.
"""

import itertools
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .markdown import one_line
from .repository import HubAwayError

WAITS = (1.0, 4.0, 15.0)
"""Seconds between the tries of one upload; the last of them again and again, until there is a newer one."""


@dataclass
class Upload:
    """What is to be on the Hub: files by their path in the repository, and the step of the checkpoint among them, or of
    the finished model of a `release`, which gets a tag. The folder is deleted afterwards."""

    files: dict[str, Path]
    step: int
    folder: Path
    release: bool = False


class PushWorker:
    """One thread that pushes one upload after the other, the newest that waits.

    Attributes:
        started: whether there is a thread.
        busy: whether it is pushing.
        lines: to be printed.
        error: why the last upload is not on the Hub, in one line; None where it is.
    """

    def __init__(self, push: Callable[[Upload], None]) -> None:
        self._push = push
        self._changed = threading.Condition()
        self._waiting: Upload | None = None
        self._ending = self.started = self.busy = False
        self.lines: deque[str] = deque()
        self.error: str | None = None

    def start(self) -> None:
        """Begin to wait for uploads."""
        self.started = True
        # A daemon: a push that hangs must not keep a finished process from ending. A commit is whole or absent.
        threading.Thread(target=self._work, name="push-to-hub", daemon=True).start()

    def submit(self, upload: Upload | None) -> None:
        """Take the place of what waits or did not get through: the newest counts. None ends the thread once it can."""
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting.folder, ignore_errors=True)
            self._waiting, self._ending = upload, upload is None
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether nothing is under way or waiting; within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy and self._waiting is None, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_wanted)
                if self._waiting is None:
                    return
                upload, self._waiting, self.busy = self._waiting, None, True
            self._try(upload)
            shutil.rmtree(upload.folder, ignore_errors=True)
            with self._changed:
                self.busy = False
                self._changed.notify_all()

    def _is_wanted(self) -> bool:
        return self._ending or self._waiting is not None

    def _try(self, upload: Upload) -> None:
        """Push; while the Hub is away, again, until something newer waits."""
        for tries in itertools.count(1):
            try:
                self._push(upload)
                self.error = None
                return
            except Exception as error:  # training must not end by it, whatever it is: it is told
                told, away = one_line(str(error) or type(error).__name__), isinstance(error, HubAwayError)
            if told != self.error and (tries >= len(WAITS) or not away):
                self.lines.append(f"step {upload.step:,} is not on the Hub: {told}")
            self.error = told
            with self._changed:
                if not away or self._changed.wait_for(self._is_wanted, WAITS[min(tries, len(WAITS)) - 1]):
                    return
