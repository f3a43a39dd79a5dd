"""Runs jobs one after the other, each in a process of its own, until all are done, time is over or a signal comes.

Flow: benchmark_transfer.py -> **runner** -> pretrain_job | probe_job | detect_job. Memory and state of one job never
reach the next. Several benchmarks may work on the same folders side by side: a job is held by a lock. Kill everything
when you like: pre-training and fine-tuning resume exactly from their newest checkpoint, and what is done stays done. A
job whose parent is gone saves and leaves.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mcl_hf.errors import InputError
from mcl_hf.training.finish import duration
from mcl_hf.training.signals import StopRequest

from .arms import find_arm
from .cost_job import run_cost
from .detect_job import run_detection
from .jobs import Bench, Job, read_result
from .margins import margins_hash
from .pretrain_job import is_pretrained, run_pretraining
from .probe_job import run_probe

DONE, WRONG_INPUT, STOPPED = 0, 2, 130
HELD = -1000
"""No exit code: another benchmark is at the job."""
WAIT_SECONDS = 30.0
_SAVING_SECONDS = 600  # that a job whose parent was killed may take to leave
_RUN: dict[str, Callable[[Bench, Job], bool]] = {
    "pretrain": run_pretraining,
    "probe": run_probe,
    "detect": run_detection,
    "cost": run_cost,
}


def run_here(bench: Bench, job: Job) -> bool:
    """Run one job in this process; whether it is done (and not stopped by a signal).

    Raises:
        InputError: the job cannot be run; or the test split is asked before margins were written down.
    """
    if job.split == "test" and bench.scale.name != "smoke":
        margins_hash()
    return _RUN[job.kind](bench, job)


def needed(bench: Bench, jobs: Sequence[Job]) -> list[Job]:
    """Jobs that are open, and pre-trainings that are done elsewhere but whose weights an open job needs here."""
    open_jobs = [job for job in jobs if read_result(bench, job) is None]
    wanted = {
        (find_arm(job.arm).source, job.fold, job.seed, job.trial)
        for job in open_jobs
        if job.kind in ("probe", "detect")
    }
    return [
        job
        for job in jobs
        if job in open_jobs
        or (
            job.kind == "pretrain"
            and (job.arm, job.fold, job.seed, job.trial) in wanted
            and not is_pretrained(bench, job)
            and any(not _has_start(bench, other) for other in open_jobs if _is_of(other, job))
        )
    ]


def _is_of(other: Job, job: Job) -> bool:
    return (find_arm(other.arm).source, other.fold, other.seed, other.trial) == (job.arm, job.fold, job.seed, job.trial)


def _has_start(bench: Bench, job: Job) -> bool:
    label = f"{job.arm}-f{job.fold}-s{job.seed}" + (f"-trial{job.trial}" if job.trial is not None else "")
    return (bench.work / "starts" / label / "config.json").exists()


def run_all(bench: Bench, jobs: Sequence[Job], command: Sequence[str], hours: float | None, threads: int) -> int:
    """Run what is open, in order, and wait for what another benchmark is at; exit code.

    Args:
        bench: the benchmark.
        jobs: planned.
        command: that runs the job whose name is appended to it.
        hours: after which no job is started any more.
        threads: of each job.

    Raises:
        InputError: a job found that it cannot go on; or jobs have failed, after all others were run.
    """
    ends = float("inf") if hours is None else time.monotonic() + 3600 * hours
    print(f"{len(jobs)} jobs, {len(jobs) - len(needed(bench, jobs))} done before", flush=True)
    stop = StopRequest()
    failed: dict[str, str] = {}
    bench.work.mkdir(parents=True, exist_ok=True)
    with stop.listening():
        while True:
            started = held = 0
            for job in needed(bench, jobs):
                if job.name in failed:
                    continue
                if time.monotonic() > ends:
                    left = len(needed(bench, jobs))
                    print(f"{hours:g} hours are over; {left} jobs stay open: the same command goes on", flush=True)
                    return DONE
                code = _start_if_free(bench, jobs, job, command, threads, stop)
                if stop.name is not None:
                    print(f"stopped by {stop.name}: the same command goes on", flush=True)
                    return STOPPED
                started += code is not None and code != HELD
                held += code == HELD
                if code == WRONG_INPUT:
                    raise InputError(f"{job.name} could not go on: {_last_line(_output(bench, job))}")
                if code == DONE and job in needed(bench, jobs):
                    failed[job.name] = "it ended without a result"
                elif code not in (None, DONE, HELD):
                    failed[job.name] = f"exit code {code}: {_last_line(_output(bench, job))}"
                if job.name in failed:
                    print(f"  failed: {failed[job.name]}; see {_output(bench, job)}", flush=True)
            if not held and not started:
                break
            if not started:
                _wait(stop)
    if failed:
        raise InputError(f"{len(failed)} jobs failed, the first: {'; '.join(next(iter(failed.items())))}")
    return DONE


def _start_if_free(
    bench: Bench, jobs: Sequence[Job], job: Job, command: Sequence[str], threads: int, stop: StopRequest
) -> int | None:
    """Run a job; its exit code, `HELD` where another benchmark is at it, None where it cannot be run now."""
    lock = FileLock(bench.work / f".{job.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return HELD
    try:
        if job not in needed(bench, jobs) or _missing(bench, job) is not None:
            return None
        return _run_process(bench, job, command, threads, stop)
    finally:
        lock.release()


def _wait(stop: StopRequest) -> None:
    ends = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends and stop.name is None:
        time.sleep(min(0.5, WAIT_SECONDS))


def _missing(bench: Bench, job: Job) -> str | None:
    """The pre-training that a job needs and that is neither here nor running before it."""
    arm = find_arm(job.arm)
    if job.kind in ("pretrain", "cost") or not arm.parts or _has_start(bench, job):
        return None
    source = Job("pretrain", arm.source, job.fold, job.seed, trial=job.trial)
    return None if is_pretrained(bench, source) else source.name


def _output(bench: Bench, job: Job) -> Path:
    return bench.work / f"{job.name}.log"


def _run_process(bench: Bench, job: Job, command: Sequence[str], threads: int, stop: StopRequest) -> int:
    print(f"{time.strftime('%H:%M')}  {job.name}", flush=True)
    started = time.monotonic()
    environment = {"TQDM_MININTERVAL": "60", **os.environ, "OMP_NUM_THREADS": str(threads)}
    with _output(bench, job).open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, job.name],
            stdin=subprocess.PIPE,  # its end tells the job that this process is gone
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        told = False
        try:
            while process.poll() is None:
                if stop.name is not None and not told:
                    process.terminate()
                    told = True
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    print(f"  {duration(time.monotonic() - started)}", flush=True)
    return process.returncode


def run_as_child(bench: Bench, job: Job) -> int:
    """What a job's own process does: run it, and leave when the parent is gone; exit code."""
    done = threading.Event()
    threading.Thread(target=_leave_when_alone, args=(done,), daemon=True).start()
    try:
        with FileLock(bench.work / f".{job.name}.run.lock", timeout=_SAVING_SECONDS):
            return DONE if run_here(bench, job) else STOPPED
    except Timeout:
        print(f"benchmark_transfer: error: an earlier {job.name} still runs: end it", file=sys.stderr, flush=True)
        return WRONG_INPUT
    except InputError as error:
        print(f"benchmark_transfer: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return WRONG_INPUT
    finally:
        done.set()


def _leave_when_alone(done: threading.Event) -> None:
    """Ask this process to save and leave when whoever started it is gone."""
    while os.read(0, 1):
        pass
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    told = [line.strip() for line in lines if line.strip()]
    return told[-1].removeprefix("benchmark_transfer: error: ") if told else ""


def estimated_hours(bench: Bench, job: Job, results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Hours that an open job will take, from finished ones of its kind; None where none is done.

    Args:
        bench: the benchmark.
        job: open.
        results: of finished jobs, by name.
    """
    alike = [r for r in results.values() if r["job"]["kind"] == job.kind and r["job"]["trial"] is None]
    if job.kind == "detect":
        alike = [r for r in alike if r["job"]["detection"] == job.detection]
    same = [r for r in alike if r["job"]["arm"] == job.arm]
    chosen = same or alike
    if not chosen:
        return None
    return sum(r["seconds"] for r in chosen) / len(chosen) / 3600
