"""`compare`: a plan, its jobs, and the answer, as the command and as a Python call.

Where it sits: plan -> setting (all checks) -> **compare** -> runner (jobs) -> answer -> report, after each job anew:

    OUTPUT_DIR/
        plan.yaml, comparison.json, results/     all that the answer is made of
        report.md, report.png, detections.png    the answer
        work/                                    weights and checkpoints while it runs

The same call again skips jobs that are done and continues those that were interrupted, whatever interrupted them.
"""

import fnmatch
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ..engine.launch import torch_of_its_own
from ..engine.options import RunOptions
from ..engine.signals import StopRequest
from ..engine.state import newest_whole_checkpoint, read_training_state
from ..engine.tracking import unheard
from ..errors import InputError
from ..files import write_json
from ..finetuning.arguments import DEFAULTS, FinetuneArguments
from ..new_folder import output_folder
from ..plain_text import plain_text
from ..pretraining.arguments import PretrainArguments
from .answer import ABOUT, PICTURE, PLAN, REPORT, SHOWN, Answer
from .jobs import Job, Results, digest_of, list_jobs, read_results, result_file
from .labelled import subset_seed
from .plan import ComparePlan, load_plan
from .report import means_table, write_report
from .runner import Work, run_jobs
from .setting import Setting, open_setting, outlook
from .starts import content_of_start

_FILES = ("data", "val_data", "test_data", "image_root", "val_image_root", "test_image_root")
_OPTIONS = ("pretrain", "finetune")
_WITHOUT_INFLUENCE = {
    "output_dir", "data", "init", "resume", "num_workers", "save_every_steps", "keep_last", "keep_every",
    "log_every_steps", "eval_batch_size", "eval_backend", "report_to", "log_images", "image_column", "objects_column",
}  # fmt: skip


def compare(
    plan: ComparePlan | str | Path | None = None,
    *,
    dry_run: bool = False,
    new_plan: bool = False,
    only: str | Sequence[str] | None = None,
    **fields: Any,
) -> Answer:
    """Pre-train and fine-tune from every start of a plan, and say what they are worth.

    Args:
        plan: all fields, or a YAML file of them; or leave it out and give
        fields: of `ComparePlan`, on top of the file.
        dry_run: check everything and print jobs, operations, hours and disk; nothing is trained.
        new_plan: put the answer of another plan away into `before-N/` and begin anew.
        only: run only the jobs whose name fits this pattern or one of these (`test-mcl-*-s0-*`), and those that they
            need.

    Raises:
        InputError: something given cannot be used, no job was started; or a job found it out, or jobs have failed. What
            is done stays done.

    Example:
        >>> import mcl_hf
        >>> answer = mcl_hf.compare(
        ...     data="my-coco", starts=["random", "timm:resnet50", "my-run"], images=[25, "all"], output_dir="answer"
        ... )  # doctest: +SKIP
        >>> answer.sentence  # doctest: +SKIP
        'With 25 labelled images my-run is above random (+7.1, 95 % +3.2 to +10.7); ...'
    """
    if not isinstance(plan, ComparePlan):
        plan = load_plan(plan, **fields)
    elif fields:
        raise InputError("give either a plan, or fields of one, not both")
    given = [*(getattr(plan, name) for name in _FILES), *(plan.unlabelled or ())]
    folder = output_folder(plan.output_dir, list(filter(None, given)))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file: choose a folder")
    work = Path(plan.work_dir) if plan.work_dir else folder / "work"
    made = [path for path in (folder, work) if not path.exists()]
    settled = False
    try:
        for path in (folder, work):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path} cannot be made: {error.strerror}") from error
        with FileLock(work / ".comparison.lock", timeout=0), torch_of_its_own(), unheard():
            _check_folder(folder)
            comparison = _Comparison(folder, open_setting(plan, work))
            planned = comparison.chosen(only)
            settled = not dry_run
            return comparison.run(planned, dry_run, new_plan)
    except Timeout as error:
        raise InputError(f"another comparison is at work in {work}: wait for it, or end it") from error
    except PermissionError as error:
        raise InputError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    finally:
        for path in reversed([] if settled else made):  # nothing was done here
            shutil.rmtree(path, ignore_errors=True)


class _Comparison:
    """One call: the setting, its jobs and their results."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder, self.setting, self.plan = folder, setting, setting.plan
        of_start = {start.name: start.of for start in setting.starts}
        self.needs = list_jobs(self.plan, of_start, setting.lengths, setting.rates)
        self.listed = [asdict(job) for job in self.needs]
        self.commit = _commit_of_this()
        self.results: Results = {}
        self.failed: dict[str, str] = {}
        self.known: dict[Job, dict[str, Any]] = {}  # what the version that made a result, or began to, recorded

    def run(self, planned: list[Job], dry_run: bool, new_plan: bool) -> Answer:
        for line in [*self.setting.lines, *(f"warning: {line}" for line in self.setting.warnings)]:
            print(plain_text(line, keep="\n"))
        if dry_run:
            self._take_over()
            left = [job for job in planned if job not in self.results]
            print(f"{len(left)} of {len(planned)} jobs are left", *outlook(self.setting, left), sep="\n")
            return self._answer()
        self._settle_plan(new_plan)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(job.kind for job in planned).items())
        done = sum(job in self.results for job in planned)
        print(f"{len(planned)} jobs: {kinds}" + (f"; {done} done before" if done else ""), flush=True)
        stop = StopRequest()
        with stop.listening():
            work = Work(planned, self.needs, self.results, self.failed)
            run_jobs(work, self._content, self.plan.jobs, stop, lambda: write_report(self._answer()))
        answer = replace(self._answer(), stopped_by=stop.name)
        write_report(answer, self.setting.data.test)
        if stop.name is not None:
            done = sum(job in self.results for job in planned)
            print(f"stopped by {stop.name} after {done} of {len(planned)} jobs: the same command goes on")
            return answer
        print(f"{means_table(answer)}\n{answer.sentence}\nwritten: {self.folder / REPORT}", flush=True)
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise InputError(
                f"{len(self.failed)} of {len(planned)} jobs failed, and the tables lack them; the same command tries "
                f"them again. The first, {name}: {reason}"
            )
        return answer

    def chosen(self, only: str | Sequence[str] | None) -> list[Job]:
        """Jobs that fit `only`, and those that they need, in order."""
        patterns = ["*"] if only is None else [only] if isinstance(only, str) else only
        found = set()
        for pattern in patterns:
            fitting = {job for job in self.needs if fnmatch.fnmatchcase(job.name, pattern)}
            if not fitting:
                such = next(iter(self.needs)).name
                raise InputError(f"--only {pattern} fits none of {len(self.needs)} jobs, such as {such}")
            found |= fitting
        for job in reversed(self.needs):  # what a job needs stands before it
            found |= self.needs[job] if job in found else set()
        return [job for job in self.needs if job in found]

    def _content(self, job: Job) -> dict[str, Any]:
        """All that a job's process needs; what it depends on must be done."""
        arguments, flop, start, data = self._finetuning(job) if job.images else self._pretraining(job)
        plain = _plain(arguments)
        folder = self.setting.work / job.name
        checkpoint = None if job in self.known else newest_whole_checkpoint(folder)[0]
        if checkpoint is not None:
            self.known[job] = {"options": read_training_state(checkpoint).arguments, "start": start}
        known = self.known.get(job)
        without = _WITHOUT_INFLUENCE | (set() if known is None else _new_options(arguments, set(known["options"])))
        shown = {name: value for name, value in plain.items() if name not in without}
        first = job.kind == "test" and job.subset == 0 and job.images == self.plan.images[0]
        scales = self.plan.scales if first else []
        settings = {**shown, "scales": scales, "label_group": self.plan.label_group}
        return {
            "record": {
                "job": asdict(job),
                "digest": digest_of(job, settings, data, start),
                "command": f"mcl-hf compare {PLAN} --only '{job.name}'",
                "options": shown,
                "data": data,
                "start": start,
                "commit": self.commit,
            },
            "folder": str(folder),
            "result": str(result_file(self.folder, job.name)),
            "options": plain,
            "plan": asdict(self.plan),
            "flop": flop,
            "scales": scales,
            "show": first and job.seed == self.plan.first_seed,
        }

    def _pretraining(self, job: Job) -> tuple[PretrainArguments, float, str | None, dict[str, Any]]:
        """Options, operations of a visit, digest of the start where it lies here, and data."""
        own = self.setting.pretrainings[job.start]
        steps = 1 if job.kind == "pace" else self.setting.pretraining_steps(self._pace())[job.start]
        arguments = replace(own.arguments, seed=job.seed, max_steps=steps, epochs=None)
        init = arguments.init or "random"
        content = self._content_of_start(job, init)
        start = None if content == init else content
        return arguments, own.visit_flop, start, {"unlabelled": self._answer().about["unlabelled"]}

    def _finetuning(self, job: Job) -> tuple[FinetuneArguments, float, str, dict[str, Any]]:
        """Options, operations, digest of the start, and data."""
        start = next(start for start in self.setting.starts if start.name == job.start)
        rate = job.rate or self._answer().chosen_rate(job.start, job.images)
        if any(need.kind == "tune" and need not in self.results for need in self.needs[job]):  # see `_is_there_or_gone`
            rate = self.known[job]["options"]["base_learning_rate"]
        arguments = self.setting.arguments(start, job.steps, rate)
        arguments = replace(arguments, seed=subset_seed(job.seed, job.subset))
        if start.of is None:
            digest = self._content_of_start(job, f"{start.init}")
        else:
            source = Job("pretrain", start.of, job.seed)
            arguments = replace(arguments, init=str(self.setting.work / source.name))
            digest = (self.results.get(source) or self._content(source)["record"])["digest"]
        parts = ("train", "validation" if job.kind == "tune" else "test")
        data = {name: record["fingerprint"] for name, record in self.setting.data.records.items() if name in parts}
        return arguments, self.setting.step_flop * job.steps, digest, data

    def _content_of_start(self, job: Job, init: str) -> str:
        """`content_of_start`; the name alone for a result of an earlier version, which knew no start by its weights."""
        by_name = job in self.known and "start" not in self.known[job]
        return init if by_name else content_of_start(init)

    def _pace(self) -> dict[str, float]:
        """Pre-training -> seconds of a visit, of those that are timed."""
        timed = {job.start: result for job, result in self.results.items() if job.kind == "pace"}
        return {name: 1 / result["images_per_second"] for name, result in timed.items()}

    def _settle_plan(self, new_plan: bool) -> None:
        """Take over results of this plan; drop others while no test image was asked, and refuse after that."""
        file, results = self.folder / PLAN, self.folder / "results"
        before = load_plan(str(file)) if file.is_file() else self.plan
        fields = {name: value for name, value in asdict(self.plan).items() if name not in ("output_dir", "work_dir")}
        changed = [name for name, value in fields.items() if getattr(before, name) != value]
        decisive = [name for name in changed if _decisive(before, name) != _decisive(self.plan, name)]
        if decisive and any(results.glob("test-*.json")):
            self._put_away(
                new_plan,
                f"{self.folder} has asked the test images by a plan with another {', '.join(decisive)}: a plan that "
                "changes after looking proves nothing; --new-plan puts that answer away and begins anew",
            )
        stale = self._take_over()
        first = next(iter(stale), "")  # what others need stands before them
        told = f" ({stale[first]})" if stale.get(first) else ""
        if any(name.startswith("test-") for name in stale):
            self._put_away(
                new_plan,
                f"{result_file(self.folder, first)} is of other options, data or starts{told}, and the test images "
                "have been asked: use the same ones, or --new-plan, which puts that answer away and begins anew",
            )
        elif stale:
            print(f"{len(stale)} results are of an earlier plan{told} and are made anew")
            for name in stale:
                result_file(self.folder, name).unlink()
        results.mkdir(exist_ok=True)
        if changed or not file.is_file():
            file.write_text(yaml.safe_dump(fields, sort_keys=False, width=120), encoding="utf-8")
        write_json(self.folder / ABOUT, self._answer().about)

    def _take_over(self) -> dict[str, str]:
        """Read results of this plan, with weights that jobs to come need; names of others, and what differs."""
        stale = {}
        for job, found in read_results(self.folder, list(self.needs)).items():
            self.known[job] = found
            whole = all(map(self._is_there_or_gone, self.needs[job]))
            record = self._content(job)["record"] if whole else found
            if whole and record["digest"] == found["digest"]:
                self.results[job] = found
            else:
                stale[job.name] = _difference(found, record)
                del self.known[job]
        for job in [job for job in self.results if job.kind == "pretrain"]:
            wanted = any(job in needs and other not in self.results for other, needs in self.needs.items())
            if wanted and not (self.setting.work / job.name / "model.safetensors").exists():
                print(f"{job.name} is made again: its weights are not in {self.setting.work}")
                del self.results[job]
        return stale

    def _is_there_or_gone(self, job: Job) -> bool:
        """Whether a job has a result of this plan, or had one that was deleted: what was made of it stays."""
        if job in self.results or job.kind == "pace" or result_file(self.folder, job.name).exists():
            return job in self.results
        return job.kind == "tune" or self.needs[job] <= set(self.results)

    def _put_away(self, allowed: bool, refusal: str) -> None:
        if not allowed:
            raise InputError(refusal)
        number = next(n for n in range(1, 10_000) if not (self.folder / f"before-{n}").exists())
        target = self.folder / f"before-{number}"
        target.mkdir()
        for name in (PLAN, ABOUT, REPORT, PICTURE, SHOWN, "results"):
            if (self.folder / name).exists():
                shutil.move(self.folder / name, target / name)
        self.results.clear()
        self.known.clear()
        print(f"the earlier answer is in {target}")

    def _answer(self) -> Answer:
        about = {**self.setting.about(self._pace()), "jobs": self.listed, "failed": dict(self.failed)}
        done = {job: self.results[job] for job in self.needs if job in self.results}
        return Answer(self.folder, self.plan, done, about)


def _plain(arguments: RunOptions) -> dict[str, Any]:
    """Options as JSON has them."""
    return dict(json.loads(json.dumps(asdict(arguments), default=str)))


def _new_options(arguments: RunOptions, known: set[str]) -> set[str]:
    """Options that an older version did not have, at their default, which does what was done then."""
    defaults = {name: field.get_default() for name, field in arguments.__pydantic_fields__.items()}
    if isinstance(arguments, FinetuneArguments):
        defaults |= DEFAULTS
    return {name for name, value in _plain(arguments).items() if name not in known and value == defaults[name]}


def _decisive(plan: ComparePlan, field: str) -> Any:
    """What of a field may not change after looking: data may be moved, and a precision be written out where `auto` now
    means another, since each result is held against its data and precision."""
    if field in ("jobs", "unlabelled", *_FILES):
        return None
    value = getattr(plan, field)
    return {key: given for key, given in (value or {}).items() if key != "precision"} if field in _OPTIONS else value


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs in two records of a job, in a few words."""
    was, given = before["options"], now["options"]
    differing = [name for name in sorted({*was, *given}) if was.get(name) != given.get(name)]
    told = [f"{name} {was.get(name)}, now {given.get(name)}" for name in differing]
    told += [f"other {name} images" for name, of in now["data"].items() if before.get("data", {}).get(name) != of]
    return "; ".join(told or (["another start"] if before.get("start", now["start"]) != now["start"] else []))


def _check_folder(folder: Path) -> None:
    there = {path.name for path in folder.iterdir() if path.name[0] != "."} - {"work", "prepare.py", "README.md"}
    if there and not there & {PLAN, "results", ABOUT}:
        raise InputError(
            f"{folder} holds something else than a comparison ({', '.join(sorted(there)[:3])}): choose a new or an "
            "empty --output-dir"
        )


def _commit_of_this() -> str | None:
    """The commit of the checkout that this package runs from, where it is as committed; None otherwise."""
    own = Path(__file__)
    tracked = ["git", "ls-files", "--error-unmatch", own.name]  # not an installation inside of another repository
    command = ["git", "status", "--porcelain=v2", "--branch", "--", ".."]  # its first line names the commit
    try:
        subprocess.run(tracked, cwd=own.parent, capture_output=True, check=True)
        told = subprocess.run(command, cwd=own.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    lines = told.stdout.splitlines()
    return lines[0].split()[-1] if all(line.startswith("#") for line in lines) else None
