"""When a process of a run dies, the others end, and say which it was.

Where it sits: `launch.py` puts it around a run of several processes. Without it the others would wait in a collective
until that times out (NCCL: 10 minutes), and then show a traceback of their own. Launchers end the processes of their
own machine (torchrun at once); this also reaches other machines, and names the cause.

Every process writes a beat into the key-value store that the launcher's environment names (`MASTER_ADDR`,
`MASTER_PORT`), and looks at the others' every few seconds, in a thread: no collective, no word with the device. A
process that fails writes why; one that is killed falls silent, and whoever notices first writes that for the others:
the store may live in the process that ends first, so it ends when the others know.
"""

import itertools
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from ..errors import InputError
from ..plain_text import plain_text

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0  # after which a process counts as dead
SILENCE_AFTER_ERROR_SECONDS = 8.0  # the same where a collective has failed already
GRACE_SECONDS = 10.0  # from the finding to the end of a process that is stuck in a collective
TELLING_SECONDS = 10.0  # that a process which ends waits for the others to know why
_FAILED, _LOST = "failed: ", "lost: "  # what a process that ends writes in place of its beat
_runs = itertools.count()  # each run of a process has its own keys; all ranks count alike


class RankLostError(InputError):
    """Another process of the run is gone; the message names it."""


class Lifeline:
    """Watches over the other processes of a run; with one, or without a launcher's store, nothing is watched."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self._keys = [f"beat/{other}" for other in range(world_size)]
        self._finding: str | None = None
        self._failed: str | None = None
        self._silent: int | None = None
        self._silence = SILENCE_SECONDS
        self._stop = threading.Event()
        self._store = _store() if world_size > 1 else None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the length of the block; all ranks must enter it together. A RankLostError takes the place of the
        error of a collective that failed because another process is gone."""
        if self._store is None:
            yield
            return
        self._store.set(self._keys[self.rank], f"{socket.gethostname()} 0")
        for key in self._keys:  # until they are there, each in the time that the store gives
            self._store.wait([key])
        thread = threading.Thread(target=self._watch, args=(self._store,), name="lifeline", daemon=True)
        thread.start()
        try:
            yield
            dist.barrier()  # who leaves first might take the store along
        except BaseException as error:
            if is_lost_connection(error) and (finding := self._wait_for_finding()):
                self._wait_until_told(self._store)
                raise RankLostError(finding) from error
            self._failed = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self._wait_until_told(self._store)
            raise
        finally:
            self._stop.set()
            thread.join(timeout=BEAT_SECONDS)

    def _wait_for_finding(self) -> str | None:
        self._silence = SILENCE_AFTER_ERROR_SECONDS
        # Longer than the watch needs: on a busy machine its thread runs late.
        limit = time.monotonic() + SILENCE_AFTER_ERROR_SECONDS + GRACE_SECONDS
        while self._finding is None and time.monotonic() < limit:
            time.sleep(0.1)
        return self._finding

    def _wait_until_told(self, store: dist.Store) -> None:
        """Stay until every other process has written why it ends; one that is dead never does."""
        others = [key for rank, key in enumerate(self._keys) if rank not in (self.rank, self._silent)]
        limit = time.monotonic() + TELLING_SECONDS
        try:
            if self._failed is not None:
                store.set(self._keys[self.rank], _FAILED + self._failed)
            while time.monotonic() < limit:
                if all(sign.decode().startswith((_FAILED, _LOST)) for sign in store.multi_get(others)):
                    return
                time.sleep(0.1)
        except RuntimeError:  # the store is gone, and nobody is left to be told
            return

    def _watch(self, store: dist.Store) -> None:
        others = [rank for rank in range(len(self._keys)) if rank != self.rank]
        heard: dict[int, tuple[str, float]] = {}

        def place(rank: int) -> str:
            return f" on {heard[rank][0].split()[0]}" if rank in heard else ""

        for beat in itertools.count(1):
            ended = self._stop.wait(BEAT_SECONDS if self._failed is None else 0.1)
            try:
                mine = f"{socket.gethostname()} {beat}" if self._failed is None else _FAILED + self._failed
                store.set(self._keys[self.rank], mine)
                if ended or self._failed is not None:
                    return
                signs = [sign.decode() for sign in store.multi_get([self._keys[rank] for rank in others])]
            except RuntimeError as error:
                if not self._stop.is_set():
                    self._end(f"the store of the run is gone, and with it rank 0 or the launcher ({error})")
                return
            now = time.monotonic()
            for rank, sign in zip(others, signs, strict=True):
                if sign.startswith(_FAILED):
                    return self._end(f"rank {rank}{place(rank)} {sign}", store)
                if sign.startswith(_LOST):  # another process noticed first
                    return self._end(sign.removeprefix(_LOST), store)
                if heard.get(rank, ("", 0.0))[0] != sign:
                    heard[rank] = (sign, now)
                elif now - heard[rank][1] > self._silence:
                    self._silent = rank
                    return self._end(
                        f"rank {rank}{place(rank)} has given no sign of life for {now - heard[rank][1]:.0f} s: "
                        "it was killed, or its machine or network is gone",
                        store,
                    )

    def _end(self, cause: str, store: dist.Store | None = None) -> None:
        """Leave the finding to the main thread, which a failed collective wakes up; end the process if none does."""
        if store is not None:
            with suppress(RuntimeError):  # nobody is left to be told
                store.set(self._keys[self.rank], _LOST + cause)
        self._finding = f"{' '.join(cause.split())}; rank {self.rank} ends with it. Continue with --resume auto"
        if not self._stop.wait(GRACE_SECONDS + SILENCE_AFTER_ERROR_SECONDS):
            print(f"mcl-hf: error: {plain_text(self._finding)}", file=sys.stderr, flush=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(2)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is that of a collective whose other side is gone."""
    words = ("gloo", "connection closed", "connection reset", "nccl")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def _store() -> dist.Store | None:
    """A connection of its own to the store that the launcher named, None where it named none."""
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"mcl_hf/{attempt}/{next(_runs)}", store)
