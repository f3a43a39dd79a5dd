"""Make the pictures of a data set, in one process or several, in order.

Flow: compose | contact_render -> **workers** -> generate | contact. A job makes picture ``number`` from its number
alone, so that the bytes do not depend on how the pictures are divided over processes.
"""

import multiprocessing
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

from mcl_hf.errors import InputError

Record = tuple[str, dict[str, Any], list[dict[str, Any]]]
"""File name, image entry and annotations of one picture."""

_CHUNK = 32


class Job(Protocol):
    """What every picture of one folder shares; sent to each process once."""

    def make(self, number: int) -> Record:
        """Write picture ``number`` and return its record."""
        ...


class Workers:
    """Processes that make pictures, started once for all folders; with a count of 1, this process itself."""

    def __init__(self, jobs: Mapping[str, Job], count: int):
        if count < 1:
            raise InputError(f"--workers {count} is to be 1 or more.")
        self._jobs = jobs
        # Not forked: a fork of a process that has used threads may hang.
        self._processes = multiprocessing.get_context("spawn").Pool(count, _start, (jobs,)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes is not None:
            self._processes.terminate()

    def records(self, name: str, count: int) -> Iterator[Record]:
        """Make ``count`` pictures of a folder; their records, in order."""
        tasks = [(name, number) for number in range(count)]
        if self._processes is None:
            return (self._jobs[name].make(number) for _, number in tasks)
        return self._processes.imap(_make, tasks, _CHUNK)


_JOBS: Mapping[str, Job] = {}


def _start(jobs: Mapping[str, Job]) -> None:
    global _JOBS
    _JOBS = jobs


def _make(task: tuple[str, int]) -> Record:
    name, number = task
    return _JOBS[name].make(number)
