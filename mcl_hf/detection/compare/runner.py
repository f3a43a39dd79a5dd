"""Jobs side by side, each in a process of its own, until all are done or something asks to stop.

Flow: jobs -> **runner** -> run_job. What is done is never run again; what was interrupted goes on where it stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...engine.finish import duration
from ...engine.signals import StopRequest
from ...engine.tracking import last_step
from ...errors import InputError
from . import run_job
from .jobs import Job

_POLL_SECONDS = 0.2


@dataclass
class Progress:
    """What is known of a comparison's jobs while it runs.

    Attributes:
        planned: all jobs.
        results: name -> result of those that are done.
        failed: name -> why it has no result.
    """

    planned: list[Job]
    results: dict[str, dict[str, Any]]
    failed: dict[str, str] = field(default_factory=dict)

    def remaining(self) -> list[Job]:
        """Jobs without a result that have not failed."""
        return [job for job in self.planned if job.name not in self.results and job.name not in self.failed]

    def seconds_left(self) -> float | None:
        """An estimate from the jobs done: one takes as long a step as those of its kind and start did on average, else
        those of its kind; None where none of a kind is done."""
        known: dict[tuple[str, ...], list[float]] = {}
        for job in self.planned:
            if job.name in self.results:
                seconds = self.results[job.name]["process_seconds"] / max(1, job.steps)
                for key in ((_rough(job), job.start), (_rough(job),)):
                    known.setdefault(key, []).append(seconds)
        total = 0.0
        for job in self.remaining():
            alike = known.get((_rough(job), job.start)) or known.get((_rough(job),))
            if not alike:
                return None
            total += max(1, job.steps) * sum(alike) / len(alike)
        return total


def run_jobs(
    progress: Progress,
    needs: Callable[[Job], set[str]],
    content: Callable[[Job], Mapping[str, Any]],
    beside: int,
    stop: StopRequest,
    done: Callable[[Job], None],
) -> None:
    """Run what remains, at most `beside` jobs at a time, in their order as far as what they need is there.

    Args:
        progress: brought up to date.
        needs: names of the jobs that must be done before one.
        content: what a job's process is told; called when its needs are done.
        beside: processes at a time.
        stop: handed on to the jobs at work, which are waited for.
        done: called after each job with a result.

    Raises:
        InputError: a job found input that cannot be used; those beside it are stopped first.
    """
    at_work: dict[Job, subprocess.Popen[bytes]] = {}
    bars: dict[Job, tqdm] = {}
    folders: dict[Job, Path] = {}
    wrong: str | None = None
    told = False
    try:
        while True:
            if stop.name is None and wrong is None:
                for job in _ready(progress, at_work, needs)[: beside - len(at_work)]:
                    _say(f"job {progress.planned.index(job) + 1} of {len(progress.planned)}: {job.name}")
                    told_of = content(job)
                    at_work[job], folders[job] = _start(told_of, beside), Path(told_of["folder"])
                    bars[job] = tqdm(
                        total=told_of["options"].get("max_steps"), desc=job.name, unit="step", leave=False,
                        dynamic_ncols=True,
                    )  # fmt: skip
            elif not told:
                for process in at_work.values():
                    process.terminate()
                told = True
            if not at_work:
                break
            time.sleep(_POLL_SECONDS)
            for job, bar in bars.items():
                _follow(bar, folders[job])
            for job in [job for job, process in at_work.items() if process.poll() is not None]:
                code, told_of = at_work[job].returncode, content(job)
                _close(at_work.pop(job))
                bars.pop(job).close()
                result = json.loads(Path(told_of["result"]).read_text()) if Path(told_of["result"]).is_file() else None
                if code == run_job.DONE and result is not None:
                    progress.results[job.name] = result
                    left = progress.seconds_left()
                    more = "" if left is None or not progress.remaining() else f"; about {duration(left / beside)} left"
                    _say(f"  {job.name}: {_found(result)} in {duration(result['process_seconds'])}{more}")
                    done(job)
                elif code == run_job.WRONG_INPUT and wrong is None:
                    wrong = f"job {job.name} could not go on: {_last_line(Path(told_of['output']))}"
                elif stop.name is None and wrong is None:
                    progress.failed[job.name] = _why(code, Path(told_of["output"]))
                    _say(f"  {job.name} failed: {progress.failed[job.name]}; see {told_of['output']}")
    finally:
        for bar in bars.values():
            bar.close()
        for process in at_work.values():
            process.kill()
            process.wait()
            _close(process)
    if wrong is not None:
        raise InputError(wrong)


def _follow(bar: tqdm, folder: Path) -> None:
    """Move a job's bar to where its log is; what follows the last step takes a while, too."""
    done = last_step(folder / "log.jsonl")
    if done > bar.n:
        bar.update(done - bar.n)
        if bar.total is not None and done >= bar.total:
            bar.set_postfix_str("evaluating and saving")


def _say(line: str) -> None:
    """Print above the bars."""
    tqdm.write(line)
    sys.stdout.flush()


def _ready(progress: Progress, at_work: Mapping[Job, Any], needs: Callable[[Job], set[str]]) -> list[Job]:
    """Jobs that can start now; one whose needs have failed is failed, too."""
    ready = []
    for job in progress.remaining():
        wanted = needs(job) - set(progress.results)
        broken = wanted & set(progress.failed)
        if broken:
            progress.failed[job.name] = f"it needs {min(broken)}, which failed"
        elif not wanted and job not in at_work:
            ready.append(job)
    return ready


def _start(content: Mapping[str, Any], beside: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[3])  # also where the package is not installed
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TQDM_MININTERVAL": "30", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if beside > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // beside)))
    output = Path(content["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcl_hf.detection.compare.run_job"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches it through this process, once
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(content).encode() + b"\n")
        process.stdin.flush()  # left open: its end tells the job that this process is gone
    except BrokenPipeError:  # the job has ended already; its exit code says why
        pass
    return process


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _rough(job: Job) -> str:
    return "detector" if job.images else job.kind


def _found(result: Mapping[str, Any]) -> str:
    """A job's result in a few words."""
    figures = result["figures"]
    if "diverged" in result:
        return "its loss diverged"
    if "box/AP" in figures:
        kinds = [kind for kind in ("box", "mask") if f"{kind}/AP" in figures]
        return ", ".join(f"{kind} AP {100 * figures[f'{kind}/AP']:.1f} %" for kind in kinds)
    return f"{result['visits']:,} visits, loss {figures['loss']:.3f}"


def _last_line(file: Path) -> str:
    """Of what a job printed: its complaint."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    told = [line.strip() for line in lines if line.strip()]
    return told[-1].removeprefix("mcl-hf: error: ") if told else ""


def _why(code: int, output: Path) -> str:
    """Why a job has no result."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name} (too little memory, perhaps)"
    return _last_line(output) or f"exit code {code}"
