"""What the benchmarks share: taking turns, a process of its own for a measurement, and one form of tables.

What is compared takes turns in every round, so that a machine that slows down slows all of it; its fastest round or the
median is printed, beside the spread. torch's own `timer` waits for the device, where there is one.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.benchmark import timer

from mcl_hf.hub.markdown import table


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = timer,
    alternate: bool = True,
) -> dict[str, list[float]]:
    """Seconds that each of `runs` took in each round.

    Args:
        runs: name -> what is to be timed.
        rounds: that count.
        warmup: rounds before them.
        clock: seconds since some moment.
        alternate: whether every other round runs from the last one to the first.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name in reversed(runs) if alternate and turn % 2 else runs:
            start = clock()
            runs[name]()
            seconds = clock() - start
            if turn >= warmup:
                taken[name].append(seconds)
    return taken


def in_a_process(script: str, given: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
    """What `python script --worker GIVEN` prints last, as JSON: peak memory never falls again within a process.

    Raises:
        RuntimeError: it failed, which its last line tells, or was not done after `timeout` seconds.
    """
    command = [sys.executable, script, "--worker", json.dumps(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("not done when the time was over") from error
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200])
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    first, *others = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (titles, *rows)]
    print(table(first, others), flush=True)


def machine() -> str:
    """What a figure depends on, for the line above a table."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
