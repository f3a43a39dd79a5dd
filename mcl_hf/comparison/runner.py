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
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm.auto import tqdm

from ..engine.finish import duration
from ..engine.provenance import num_cores
from ..engine.signals import StopRequest
from ..engine.tracking import last_step
from ..errors import InputError
from . import run_job
from .jobs import Job, Results

_POLL_SECONDS = 0.2


@dataclass
class Work:
    """Jobs that are to be done, and what is known of them."""

    planned: list[Job]  # in order
    needs: Mapping[Job, set[Job]]
    results: Results
    failed: dict[str, str]  # name -> why it has no result

    @property
    def remaining(self) -> list[Job]:
        """Jobs without a result that have not failed."""
        return [job for job in self.planned if job not in self.results and job.name not in self.failed]

    def ready(self) -> list[Job]:
        """Jobs that can start now; one whose needs have failed is failed, too."""
        for job in self.remaining:
            broken = {needed.name for needed in self.needs[job]} & set(self.failed)
            if broken:
                self.failed[job.name] = f"it needs {min(broken)}, which failed"
        return [job for job in self.remaining if self.needs[job] <= set(self.results)]

    def seconds_left(self) -> float | None:
        """As jobs of the kind, best of the same start, took for a step on average; None where none is done."""
        total = 0.0
        for job in self.remaining:
            of_kind = [done for done in self.results if _rough(done) == _rough(job)]
            alike = [done for done in of_kind if done.start == job.start] or of_kind
            if not alike:
                return None
            paces = [self.results[done]["process_seconds"] / max(1, done.steps) for done in alike]
            total += max(1, job.steps) * mean(paces)
        return total


class _Running:
    """A job's process, and its bar."""

    def __init__(self, job: Job, content: Mapping[str, Any], beside: int) -> None:
        root = str(Path(sys.modules["mcl_hf"].__path__[0]).resolve().parent)  # also where it is not installed
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"TQDM_MININTERVAL": "30", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if beside > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // beside)))
        self.log, self.result = Path(content["folder"]) / "log.jsonl", Path(content["result"])
        self.output = Path(f"{content['folder']}.txt")
        with self.output.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mcl_hf.comparison.run_job"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal reaches it through this process, once
            )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the job has ended already; its exit code says why
            self.process.stdin.write(json.dumps(content).encode() + b"\n")
            self.process.stdin.flush()  # left open: its end tells the job that this process is gone
        steps = content["options"].get("max_steps")
        self.bar = tqdm(total=steps, desc=job.name, unit="step", leave=False, dynamic_ncols=True)

    def exit_code(self) -> int | None:
        """None while it is at work; the bar moves to where the log is."""
        done = last_step(self.log)
        if done > self.bar.n:
            self.bar.update(done - self.bar.n)
            if self.bar.total is not None and done >= self.bar.total:
                self.bar.set_postfix_str("evaluating and saving")
        return self.process.poll()

    def close(self) -> None:
        """Wait for the process, which has ended or soon will."""
        self.bar.close()
        self.process.communicate()  # closes its standard input

    def why(self) -> str:
        """The last thing that it printed, its complaint, or how it ended."""
        if self.process.returncode < 0:
            return f"killed by {signal.Signals(-self.process.returncode).name} (too little memory, perhaps)"
        told = self.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return told[-1].strip().removeprefix("mcl-hf: error: ") if told else f"exit code {self.process.returncode}"


def run_jobs(
    work: Work, content: Callable[[Job], Mapping[str, Any]], beside: int, stop: StopRequest, done: Callable[[], None]
) -> None:
    """Run what remains, in order as far as what a job needs is there, and bring `work` up to date. Where a job finds
    input that cannot be used, those beside it are stopped, and it is raised.

    Args:
        content: what a job's process is told; called when its needs are done.
        beside: processes at a time.
        stop: handed on to the jobs at work, which are waited for.
        done: called after each job with a result.
    """
    at_work: dict[Job, _Running] = {}
    wrong: str | None = None
    told = False
    try:
        while True:
            if stop.name is None and wrong is None:
                for job in [job for job in work.ready() if job not in at_work][: beside - len(at_work)]:
                    _say(f"job {work.planned.index(job) + 1} of {len(work.planned)}: {job.name}")
                    at_work[job] = _Running(job, content(job), beside)
            elif not told:
                for running in at_work.values():
                    running.process.terminate()
                told = True
            if not at_work:
                break
            time.sleep(_POLL_SECONDS)
            for job, running in list(at_work.items()):
                code = running.exit_code()
                if code is None:
                    continue
                at_work.pop(job).close()
                if code == run_job.DONE and running.result.is_file():
                    found = work.results[job] = json.loads(running.result.read_text(encoding="utf-8"))
                    left = work.seconds_left()
                    more = f"; about {duration(left / beside)} left" if left else ""
                    _say(f"  {job.name}: {_found(found)} in {duration(found['process_seconds'])}{more}")
                    done()
                elif code == run_job.WRONG_INPUT and wrong is None:
                    wrong = f"job {job.name} could not go on: {running.why()}"
                elif stop.name is None and wrong is None:
                    work.failed[job.name] = running.why()
                    _say(f"  {job.name} failed: {work.failed[job.name]}; see {running.output}")
    finally:
        for running in at_work.values():
            running.process.kill()
            running.close()
    if wrong is not None:
        raise InputError(wrong)


def _say(line: str) -> None:
    """Print above the bars."""
    tqdm.write(line)
    sys.stdout.flush()


def _rough(job: Job) -> str:
    return "detector" if job.images else job.kind


def _found(result: Mapping[str, Any]) -> str:
    """A job's result in a few words."""
    figures = result["figures"]
    if "diverged" in result:
        return "its loss diverged"
    told = [f"{kind} AP {100 * figures[f'{kind}/AP']:.1f} %" for kind in ("box", "mask") if f"{kind}/AP" in figures]
    return ", ".join(told) or f"{result['visits']:,} visits, loss {figures['loss']:.3f}"
