"""`compare_starts`: does a start help on the user's own annotated data? Every start, label fraction and seed is a job.

Where it sits: `mcl-hf finetune --compare` -> compare_plan (all checks) -> **compare** (one process a job, one after the
other) -> compare_report and viz.comparison, written anew after every job:

    OUTPUT_DIR/
        comparison.md, comparison.json, comparison.png      the sentence, the tables, the plot
        comparison_settings.json, START/fraction-F/seed-S/  see compare_plan and compare_job

The same call again skips jobs that are done and continues the one that was interrupted, whatever interrupted it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from mcl_hf.detection import compare_job
from mcl_hf.detection.compare_job import JobResult, drop_rest, read_result
from mcl_hf.detection.compare_plan import Job, Plan, make_plan, write_json
from mcl_hf.detection.compare_report import Comparison, renamed, sentence, short_names, table, to_json, to_markdown
from mcl_hf.detection.finetune_arguments import FinetuneArguments, load_finetune_arguments
from mcl_hf.errors import InputError
from mcl_hf.training.finish import duration
from mcl_hf.training.options import given_options
from mcl_hf.training.resume import output_folder
from mcl_hf.training.signals import StopRequest

FRACTIONS, SEEDS = (0.1, 1.0), 3
"""What is compared where nothing else is asked for."""


@dataclass
class ComparisonResult:
    """What came of a call.

    Attributes:
        output_dir: of the comparison.
        comparison: of all jobs done, in this call or before.
        sentence: which start won, or that the data cannot tell.
        stopped_by: "SIGTERM" or "SIGINT" where a signal ended it early, else None.
    """

    output_dir: Path
    comparison: Comparison
    sentence: str
    stopped_by: str | None = None


def compare_starts(
    starts: Sequence[str],
    *,
    fractions: Sequence[float] = FRACTIONS,
    seeds: int = SEEDS,
    keep_models: bool = False,
    arguments: FinetuneArguments | None = None,
    recipe: str | None = None,
    **options: object,
) -> ComparisonResult:
    """Fine-tune from every start, on every fraction of the labels, with every seed, and say what they are worth.

    Args:
        starts: each `random`, `timm:NAME`, or a checkpoint's folder or repository; two or more.
        fractions: shares of the training images, in (0, 1]; a larger one of a seed holds the smaller one.
        seeds: how many, counted from the option `seed`.
        keep_models: keep the finished detectors and their evaluations.
        arguments: options of the runs; or leave it out and give
        recipe: name or YAML file, and
        options: fields of `FinetuneArguments` on top of it; neither `init` nor `data_fraction`.

    Raises:
        InputError: something given cannot be used, no job was started; or a job found it out, or jobs have failed. What
            is done stays done.

    Example:
        >>> from mcl_hf.detection.compare import compare_starts
        >>> result = compare_starts(
        ...     ["random", "timm:resnet50", "my-run"], recipe="auto", data="my-coco", output_dir="does-it-help"
        ... )  # doctest: +SKIP
        >>> result.sentence  # doctest: +SKIP
        'With 10 % of the labels my-run won: ...'
    """
    arguments = given_options(arguments, load_finetune_arguments, recipe, options)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--compare starts processes of its own: call mcl-hf finetune without a launcher")
    folder = output_folder(arguments.output_dir, [arguments.data] if arguments.data else [])
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file: choose a folder")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".comparison.lock", timeout=0):
            plan = make_plan(arguments, starts, fractions, seeds)
            made = False
            return _run(plan, keep_models)
    except Timeout as error:
        raise InputError(f"another comparison is at work in {folder}: wait for it, or end it") from error
    except PermissionError as error:
        raise InputError(f"output_dir {folder} cannot be written: {error.strerror}") from error
    finally:
        if made and folder.is_dir():  # refused before anything was done
            (folder / ".comparison.lock").unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def _run(plan: Plan, keep_models: bool) -> ComparisonResult:
    for line in plan.lines:
        print(line)
    for line in plan.warnings:
        print(f"warning: {line}")
    if find_spec("matplotlib") is None:
        print("warning: comparison.png is drawn with matplotlib, which is not installed: pip install 'mcl_hf[viz]'")
    results = {job: result for job in plan.jobs if (result := read_result(job.folder)) is not None}
    for job, result in results.items():
        drop_rest(job.folder, result.model_kept)  # a kill may have come between
    print(
        f"{len(plan.jobs)} jobs: {len(plan.starts)} starts x {len(plan.fractions)} fractions x {len(plan.seeds)} seeds"
        + (f", {len(results)} done before" if results else ""),
        flush=True,
    )
    failed: dict[str, str] = {}
    stop = StopRequest()
    with stop.listening():
        for number, job in enumerate(plan.jobs, 1):
            if job in results:
                continue
            print(f"job {number} of {len(plan.jobs)}: {job}; its output: {job.output}", flush=True)
            code = run_process(job, plan.output_dir / ".job.lock", keep_models, stop)
            if stop.name is not None:
                break
            result = read_result(job.folder)
            if code == compare_job.DONE and result is not None:
                results[job] = result
                print(
                    f"  {_found(result)} in {duration(result.seconds)}{_left(plan.jobs, results, failed)}", flush=True
                )
            elif code == compare_job.WRONG_INPUT:
                raise InputError(f"job {number} ({job}) could not go on: {_last_line(job.output)}")
            else:
                failed[str(job)] = _why(code, job.output)
                print(f"  failed: {failed[str(job)]}; see {job.output}", flush=True)
            comparison = write_report(plan, results, failed)
    comparison = write_report(plan, results, failed)
    said = sentence(renamed(comparison, short_names(plan.starts)))
    if stop.name is None:
        print("\n".join(table(renamed(comparison, short_names(plan.starts)))))
        print(said)
    print(f"written: {', '.join(str(path) for path in _files(plan.output_dir) if path.exists())}")
    if stop.name is not None:
        print(
            f"stopped by {stop.name} after {len(results)} of {len(plan.jobs)} jobs: the same command goes on",
            flush=True,
        )
    if failed:
        job_name, reason = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(plan.jobs)} jobs failed, and the tables lack them; the same command tries them "
            f"again. The first, {job_name}: {reason}"
        )
    return ComparisonResult(plan.output_dir, comparison, said, stop.name)


def run_process(job: Job, lock: Path, keep_model: bool, stop: StopRequest) -> int:
    """Run a job in a process of its own and return its exit code; a stop request is handed on, and waited for."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])  # also where the package is not installed
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TQDM_MININTERVAL": "30", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    content = {"arguments": asdict(job.arguments), "start": job.start, "keep_model": keep_model, "lock": str(lock)}
    with job.output.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcl_hf.detection.compare_job"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches it through this process, once
        )
        assert process.stdin is not None
        try:
            _send(process.stdin, content)
            return _wait(process, stop)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdin.close()


def _send(pipe: IO[bytes], content: dict[str, object]) -> None:
    try:
        pipe.write(json.dumps(content).encode() + b"\n")
        pipe.flush()  # left open: its end tells the job that this process is gone
    except BrokenPipeError:  # the job has ended already; its exit code says why
        return


def _wait(process: subprocess.Popen[bytes], stop: StopRequest) -> int:
    told = False
    while process.poll() is None:
        if stop.name is not None and not told:
            process.terminate()
            told = True
        time.sleep(0.1)
    return process.returncode


def write_report(plan: Plan, results: dict[Job, JobResult], failed: dict[str, str]) -> Comparison:
    """Write table, JSON and plot of the jobs done so far."""
    comparison = Comparison(
        plan.starts, plan.fractions, plan.seeds, list(results.values()), dict(failed), plan.data, plan.warnings
    )
    markdown, data, picture = _files(plan.output_dir)
    write_json(data, to_json(comparison))
    readable = renamed(comparison, short_names(plan.starts))
    markdown.write_text(to_markdown(readable), encoding="utf-8")
    if results and find_spec("matplotlib") is not None:
        from mcl_hf.viz.comparison import comparison_picture

        comparison_picture(
            {fraction: readable.scores(fraction) for fraction in readable.fractions},
            {fraction: [vars(pair) for pair in readable.differences(fraction)] for fraction in readable.fractions},
            "mask AP" if readable.figure == "eval/mask/AP" else "box AP",
            sentence(readable),
        ).save(picture)
    return comparison


def seconds_left(remaining: Sequence[Job], results: Mapping[Job, JobResult]) -> float | None:
    """Estimate from the jobs done: one that remains takes as long as those of its start and fraction took on average,
    else those of its fraction, else all of them. None where no job is done."""
    total = 0.0
    for job in remaining if results else []:
        alike = [result.seconds for result in results.values() if result.fraction == job.fraction]
        same = [r.seconds for r in results.values() if (r.start, r.fraction) == (job.start, job.fraction)]
        known = same or alike or [result.seconds for result in results.values()]
        total += sum(known) / len(known)
    return total if results else None


def _left(jobs: Sequence[Job], results: Mapping[Job, JobResult], failed: Mapping[str, str]) -> str:
    remaining = [job for job in jobs if job not in results and str(job) not in failed]
    seconds = seconds_left(remaining, results)
    return f"; about {duration(seconds)} left" if remaining and seconds is not None else ""


def _found(result: JobResult) -> str:
    names = {"eval/box/AP": "box AP", "eval/mask/AP": "mask AP"}
    return ", ".join(f"{names[key]} {100 * value:.1f}" for key, value in result.figures.items() if key in names)


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


def _files(output_dir: Path) -> tuple[Path, Path, Path]:
    return output_dir / "comparison.md", output_dir / "comparison.json", output_dir / "comparison.png"
