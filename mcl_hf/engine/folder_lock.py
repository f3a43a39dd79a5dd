"""One run at a time in a folder: what a second one would delete and rename is the first one's.

Where it sits: `launch.py` holds the lock around a whole run, on the main process. It is a lock of the operating system
on `OUTPUT_DIR/.run.lock`, so that it ends with its process, whichever way that ends; NFS passes it on to other
machines. Threads of one process share such locks, which end as soon as any of them closes the file: they are kept apart
by a set of names.
"""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".run.lock"
_HELD: set[str] = set()  # folders that this process holds
_GUARD = threading.Lock()


class FolderLock:
    """A run's claim on its folder, which is made where it is not there."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir, self._place = output_dir, os.path.realpath(output_dir)
        self._file: IO[str] | None = None

    def acquire(self) -> str | None:
        """Claim the folder; a warning where its disk has no locks. An InputError where another run holds it, or nothing
        can be written there."""
        with _GUARD:
            if self._place in _HELD:
                raise self._in_use("this process")
            warning = self._acquire()
            if self._file is not None:
                _HELD.add(self._place)
            return warning

    def _in_use(self, owner: str) -> InputError:
        return InputError(
            f"another run is at work in {self.output_dir} ({owner}): wait for its end, or choose another --output-dir"
        )

    def _acquire(self) -> str | None:
        path = self.output_dir / LOCK
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except (FileExistsError, NotADirectoryError):
            return None  # no folder: `find_start` says so
        except OSError as error:
            raise InputError(f"output_dir {self.output_dir} cannot be written: {error.strerror}") from error
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            owner = file.read(200) or "another process"
            file.close()
            raise self._in_use(owner) from error
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            return f"the disk of {self.output_dir} has no locks ({error.strerror}): let no second run write there"
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            file.close()  # whoever held it has just removed it
            return self._acquire()
        with suppress(OSError):  # a full disk: whose lock it is remains untold
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._file = file
        return None

    def close(self) -> None:
        """Give the folder back, if it was claimed."""
        if self._file is not None:
            with suppress(OSError):  # a disk that has become read-only, of which another error tells
                (self.output_dir / LOCK).unlink()
            self._file.close()
            self._file = None
            _HELD.discard(self._place)
