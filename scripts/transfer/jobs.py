"""Jobs: every arm, fold, seed and step of the pipeline is one, and leaves one JSON file when it is done.

Flow: scales + arms -> **jobs** -> runner -> pretrain_job | probe_job | detect_job | cost_job -> `write_result` ->
report.

    OUT/results/KIND-ARM-fF-sS[...].json      committed: raw results; a job whose file is there is never run again
    WORK/KIND-ARM-fF-sS[...]/                 not committed: checkpoints of jobs that are not done
    WORK/starts/ARM-fF-sS/                    what probes and detectors start from

Results say what made them: command, options, data, versions, machine, seed, seconds, and the commit where the project
was clean. A file is written whole or not at all.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from mcl_hf.errors import InputError
from mcl_hf.training.state import installed_versions

from .arms import find_arm
from .margins import margins_hash
from .scales import Scale

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("pretrain", "probe", "detect")
Kind = Literal["pretrain", "probe", "detect", "cost"]


@dataclass(frozen=True)
class Bench:
    """One benchmark: what is measured, on which data, and where things lie.

    Attributes:
        scale: settings that are equal for all arms.
        visits: of images by MCL; the scale's unless another number was asked for.
        data: folder of a fold's data, with `{fold}` where the number stands.
        contact: folder of the second set, or None.
        work: folder for what is not committed.
        out: folder of the results.
        split: part of the data that is asked: "val" for tuning, "test" for results.
    """

    scale: Scale
    visits: int
    data: str
    work: Path
    out: Path
    contact: Path | None = None
    split: str = "test"

    def fold_folder(self, fold: int) -> Path:
        """Where a fold's data lies, or is to lie."""
        return Path(self.data.format(fold=fold))

    def data_of(self, fold: int) -> Path:
        """The folder of a fold.

        Raises:
            InputError: it is not there.
        """
        folder = self.fold_folder(fold)
        if not (folder / "annotations").is_dir():
            raise InputError(
                f"{folder} holds no scenes (annotations/ is missing): make them with scripts/make_scenes.py generate, "
                "and name them with --data, such as --data 'scenes/fold-{fold}'"
            )
        return folder

    @property
    def results(self) -> Path:
        """Folder of the result files."""
        return self.out / "results"


@dataclass(frozen=True)
class Job:
    """A step of the pipeline for one arm, fold and seed.

    Attributes:
        kind: of the step.
        arm: its name.
        fold, seed: of data and randomness.
        detection: name of a `scales.Detection`, for detectors.
        split: that is asked, for probes and detectors.
        trial: number of a trial of `tuning`, which changes the pre-training; None: the arm as it is.
    """

    kind: Kind
    arm: str
    fold: int
    seed: int
    detection: str | None = None
    split: str | None = None
    trial: int | None = None

    @property
    def name(self) -> str:
        """Of its file and its folder.

        Example:
            >>> Job("detect", "mcl", 0, 1, "frozen-100", "test").name
            'detect-mcl-f0-s1-frozen-100'
        """
        parts = [self.kind, self.arm, f"f{self.fold}", f"s{self.seed}"]
        parts += [self.detection] if self.detection else []
        parts += [self.split] if self.split not in (None, "test") else []
        parts += [f"trial{self.trial}"] if self.trial is not None else []
        return "-".join(parts)

    def command(self, scale: str) -> str:
        """What runs this job alone, and those that it needs."""
        words = ["python scripts/benchmark_transfer.py", f"--scale {scale}", "--data DATA"]
        words += [f"--only {self.arm}" if self.trial is None else f"--tune {self.arm}"]
        words += [f"--fold {self.fold}", f"--seed {self.seed}"]
        words += ["--cost"] if self.kind == "cost" else []
        words += [f"--split {self.split}"] if self.split not in (None, "test") and self.trial is None else []
        return " ".join(words)


def plan_jobs(bench: Bench, arms: Sequence[str], folds: Sequence[int], seeds: Sequence[int]) -> list[Job]:
    """All jobs of some arms in the order in which they are run: one fold of all arms before the next one.

    An arm that shares another's pre-training brings that job along.
    """
    jobs: dict[Job, None] = {}
    for seed in seeds:
        for fold in folds:
            for name in arms:
                arm = find_arm(name)
                if arm.objective != "none":
                    jobs[Job("pretrain", arm.source, fold, seed)] = None
                jobs[Job("probe", name, fold, seed, split=bench.split)] = None
            for detection in bench.scale.detections:
                for name in arms:
                    jobs[Job("detect", name, fold, seed, detection.name, bench.split)] = None
    return list(jobs)


def result_file(bench: Bench, job: Job) -> Path:
    """Where a job's result lies."""
    return bench.results / f"{job.name}.json"


def read_result(bench: Bench, job: Job) -> dict[str, Any] | None:
    """A finished job's result, None where it is not done.

    Raises:
        InputError: the file is damaged.
    """
    return _read(result_file(bench, job))


def all_results(bench: Bench) -> list[dict[str, Any]]:
    """Every result of a benchmark, by file name."""
    return [_read(file) or {} for file in sorted(bench.results.glob("*.json"))]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{file} is damaged: delete it to run this job again") from error


def write_result(
    bench: Bench,
    job: Job,
    options: Mapping[str, Any],
    data: Mapping[str, str],
    seconds: float,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Write what a job found, which makes it done.

    Args:
        bench: the benchmark.
        job: that is done.
        options: of the run, without paths.
        data: names of files -> hashes of what was trained on and asked.
        seconds: that it took, over all attempts.
        found: figures.
    """
    content = {
        "job": asdict(job),
        "scale": bench.scale.name,
        "command": job.command(bench.scale.name),
        "options": dict(options),
        "data": dict(data),
        "seed": job.seed,
        "seconds": round(seconds, 1),
        "commit": clean_commit(),
        "margins": margins_hash() if job.split == "test" else None,
        "versions": installed_versions(),
        "machine": machine(),
        **found,
    }
    write_json(result_file(bench, job), content)
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent, and on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(content, indent=1) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


def machine() -> dict[str, Any]:
    """The processor, the GPU and how busy they were; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def clean_commit() -> str | None:
    """The project's commit, where what is outside of `evaluation/` is as committed; None otherwise."""
    try:
        status = ["git", "status", "--porcelain", "--", ".", ":!evaluation"]
        if subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip():
            return None
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        return head.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Short hashes of files of the data: equal for equal data, wherever it lies.

    Raises:
        InputError: one is missing.
    """
    found = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing: the data was not made by this project's make_scenes.py generate?")
        found[name] = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    return found


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run without its paths, as JSON has them."""
    left = ("output_dir", "data", "val_data", "init", "resume")
    return json.loads(json.dumps({name: value for name, value in options.items() if name not in left}))


def check_same(bench: Bench, job: Job, options: Mapping[str, Any], data: Mapping[str, str]) -> None:
    """Refuse to mix results of other settings or other data with these.

    Raises:
        InputError: the job is done, with something else.
    """
    done = read_result(bench, job)
    if done is None:
        return
    now = plain_options(options)
    free = {"num_workers", "save_every_steps", "keep_last", "log_every_steps", "device", "eval_batch_size"}
    names = [name for name in {*now, *done["options"]} - free if now.get(name) != done["options"].get(name)]
    names += [name for name, value in data.items() if done["data"].get(name) != value]
    if names:
        raise InputError(
            f"{result_file(bench, job)} was made with another {', '.join(sorted(names)[:4])}: a comparison needs equal "
            "conditions; name another folder with --out, or move the old results away"
        )


def drop(folder: Path, kept: Sequence[str] = ()) -> None:
    """Delete all of a folder but some names, and the folder if nothing is kept."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
