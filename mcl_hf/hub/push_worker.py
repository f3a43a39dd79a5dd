"""One thread that pushes while training goes on: the newest upload counts, and no error leaves it.

Where it sits: `background.py` hands it uploads and asks it what became of them -> **push_worker** -> `repository.py`.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .refusals import HubAwayError

WAITS = (1.0, 4.0, 15.0)
"""Seconds between the tries of one upload."""


@dataclass
class Upload:
    """What is to be on the Hub.

    Attributes:
        files: path in the repository -> file here.
        message: title of the commit.
        step: of the checkpoint among the files.
        kept: `keep_last` and `keep_every` of the run.
        folder: to delete afterwards.
        release: whether the finished model is among the files, and gets a tag.
    """

    files: dict[str, Path]
    message: str
    step: int
    kept: tuple[int, int]
    folder: Path
    release: bool = False


class PushWorker:
    """One thread that pushes one upload after the other, the newest that waits.

    Attributes:
        unsent: the upload that did not get through last.
        away: whether that was because the Hub could not be reached.
        last_error: why, in one line.
    """

    def __init__(self, push: Callable[[Upload], None]) -> None:
        self._push = push
        self._changed = threading.Condition()
        self._waiting: Upload | None = None
        self._current: Upload | None = None
        self._lines: list[str] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.unsent: Upload | None = None
        self.away = False
        self.last_error: str | None = None

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    @property
    def busy(self) -> bool:
        """Whether it is pushing."""
        return self._current is not None

    @property
    def idle(self) -> bool:
        """Whether it has nothing to push; `unsent` apart."""
        return self._current is None and self._waiting is None

    def start(self) -> None:
        """Begin to wait for uploads."""
        # A daemon: a push that hangs must not keep a finished process from ending. A commit is whole or absent.
        self._thread = threading.Thread(target=self._work, name="push-to-hub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end once it can; it is not waited for."""
        self._stopping.set()
        with self._changed:
            self._waiting = None
            self._changed.notify_all()

    def submit(self, upload: Upload) -> None:
        """Take the place of what is waiting or was not sent: the newest counts."""
        with self._changed:
            for old in (self._waiting, self.unsent):
                if old is not None:
                    shutil.rmtree(old.folder, ignore_errors=True)
            self._waiting, self.unsent = upload, None
            self._changed.notify_all()

    def try_again(self) -> None:
        """Put what was not sent back in line."""
        with self._changed:
            if self._waiting is None:
                self._waiting, self.unsent = self.unsent, None
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether nothing is under way, waiting or unsent; within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.idle and self.unsent is None, seconds)

    def take_lines(self) -> list[str]:
        """What is to be printed, once."""
        with self._changed:
            lines, self._lines = self._lines, []
            return lines

    def _work(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._stopping.is_set())
                upload, self._waiting = self._waiting, None
                self._current = upload
            if upload is not None:
                error = self._try(upload)
                with self._changed:
                    self._finish(upload, error)
                    self._changed.notify_all()

    def _try(self, upload: Upload) -> Exception | None:
        """Push; what passes is waited for. The error that remains, if any."""
        for wait in (*WAITS, None):
            try:
                self._push(upload)
                return None
            except HubAwayError as error:
                if wait is None or self._stopping.wait(wait) or self._waiting is not None:
                    return error
            except Exception as error:  # training must not end by it, whatever it is: it is told, and kept
                return error
        return None

    def _finish(self, upload: Upload, error: Exception | None) -> None:
        self._current = None
        self.away = isinstance(error, HubAwayError)
        self.last_error = None if error is None else " ".join((str(error) or type(error).__name__).split())
        if self.last_error is not None:
            self._lines.append(f"step {upload.step:,} is not on the Hub: {self.last_error}")
        if error is not None and self._waiting is None:
            self.unsent = upload
        else:
            shutil.rmtree(upload.folder, ignore_errors=True)
