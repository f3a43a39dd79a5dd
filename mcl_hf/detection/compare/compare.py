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
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ...engine.signals import StopRequest
from ...errors import InputError
from ...files import write_json
from ...new_folder import output_folder
from ...plain_text import plain_text
from .answer import ABOUT, PICTURE, PLAN, REPORT, SHOWN, Answer
from .jobs import Job, JobList, digest_of, list_jobs, read_result, result_file
from .labelled import subset_seed
from .outlook import outlook
from .plan import ComparePlan, load_plan
from .report import summary, write_report
from .runner import Progress, run_jobs
from .setting import Setting, about_setting, commit_of_this, open_setting, pretraining_arguments

_FREE = ("output_dir", "work_dir", "jobs")
"""Fields of a plan that may change at any time."""
_PATHS = ("data", "val_data", "test_data", "image_root", "val_image_root", "test_image_root", "unlabelled")
"""Fields that may change as long as the data are the same."""
_WITHOUT_INFLUENCE = {
    "output_dir", "data", "init", "resume", "num_workers", "save_every_steps", "keep_last", "keep_every",
    "log_every_steps", "eval_batch_size", "eval_backend", "report_to", "log_images", "image_column", "objects_column",
}  # fmt: skip


def compare(
    plan: ComparePlan | str | None = None,
    *,
    dry_run: bool = False,
    new_plan: bool = False,
    only: str | None = None,
    **fields: Any,
) -> Answer:
    """Pre-train and fine-tune from every start of a plan, and say what they are worth.

    Args:
        plan: all fields, or a YAML file of them; or leave it out and give
        fields: of `ComparePlan`, on top of the file.
        dry_run: check everything and print jobs, operations, hours and disk; nothing is trained.
        new_plan: put the answer of another plan away into `before-N/` and begin anew.
        only: run only the jobs whose name fits this pattern (`test-mcl-*-s0-*`), and those that they need.

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
    given = [path for name in _PATHS for path in _listed(getattr(plan, name))]
    folder = output_folder(plan.output_dir, given)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file: choose a folder")
    work = Path(plan.work_dir) if plan.work_dir else folder / "work"
    made = [path for path in (folder, work) if not path.exists()]
    settled = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / ".comparison.lock", timeout=0):
            _check_folder(folder)
            setting = open_setting(plan, work)
            settled = not dry_run
            return _Comparison(folder, setting).run(dry_run, new_plan, only)
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
        self.jobs: JobList = list_jobs(
            of_start={start.name: start.pretraining for start in setting.starts},
            pretrainings=list(setting.pretrainings),
            pace=self.plan.equal == "seconds",
            images=self.plan.images,
            lengths=setting.lengths(),
            curve_steps=self.plan.curve_steps,
            seeds=self.plan.seed_list,
            tuning_seed=self.plan.tuning_seed,
            subsets=self.plan.subsets,
            rates=setting.rates,
        )
        self.records = setting.data.records()
        self.commit = commit_of_this()
        self.results: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    def run(self, dry_run: bool, new_plan: bool, only: str | None) -> Answer:
        for line in [*self.setting.lines, *(f"warning: {line}" for line in self.setting.warnings)]:
            print(plain_text(line, keep="\n"))
        planned = self._chosen(only)
        if dry_run:
            print("\n".join(outlook(self.setting, planned)))
            return self._answer()
        self._settle_plan(new_plan)
        progress = Progress(planned, self.results, self.failed)
        kinds = Counter(job.kind for job in planned)
        done = sum(job.name in self.results for job in planned)
        print(
            f"{len(planned)} jobs: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
            + (f"; {done} done before" if done else ""),
            flush=True,
        )
        stop = StopRequest()
        with stop.listening():
            run_jobs(
                progress,
                lambda job: set(self.jobs.needs(job)),
                self._content,
                self.plan.jobs,
                stop,
                lambda job: write_report(self._answer()),
            )
        answer = replace(self._answer(), stopped_by=stop.name)
        write_report(answer, self.setting.data.test)
        if stop.name is not None:
            print(f"stopped by {stop.name} after {len(self.results)} of {len(planned)} jobs: the same command goes on")
            return answer
        print("\n".join(summary(answer)))
        print(f"written: {self.folder / REPORT}", flush=True)
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise InputError(
                f"{len(self.failed)} of {len(planned)} jobs failed, and the tables lack them; the same command tries "
                f"them again. The first, {name}: {reason}"
            )
        return answer

    def _chosen(self, only: str | None) -> list[Job]:
        """Jobs that fit `only`, and those that they need, in order."""
        if only is None:
            return list(self.jobs.jobs)
        by_name = {job.name: job for job in self.jobs.jobs}
        wanted = [name for name in by_name if fnmatch.fnmatchcase(name, only)]
        if not wanted:
            raise InputError(f"--only {only} fits none of {len(by_name)} jobs, such as {next(iter(by_name))}")
        found: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name not in found:
                found.add(name)
                wanted += self.jobs.needs(by_name[name])
        return [job for job in self.jobs.jobs if job.name in found]

    # ----------------------------------------------------------------------------------------------------------------
    # what a job is told

    def _content(self, job: Job) -> dict[str, Any]:
        """All that a job's process needs; what it depends on must be done."""
        if job.kind in ("pace", "pretrain"):
            options, flop, start = self._pretraining(job)
            data: dict[str, Any] = {"unlabelled": self._about()["unlabelled"]}
        else:
            options, flop, start = self._finetuning(job)
            part = "validation" if job.kind == "tune" else "test"
            data = {name: record["fingerprint"] for name, record in self.records.items() if name in ("train", part)}
        plain = json.loads(json.dumps(options, default=str))
        shown = {name: value for name, value in plain.items() if name not in _WITHOUT_INFLUENCE}
        first = job.subset == 0 and job.images == self.plan.images[0] and job.kind == "test"
        show = first and job.seed == self.plan.first_seed
        scales = self.plan.scales if first else []
        settings = {**shown, "scales": scales, "label_group": self.plan.label_group}
        return {
            "job": asdict(job),
            "folder": str(self.setting.work / job.name),
            "lock": str(self.setting.work / f".{job.name}.lock"),
            "output": str(self.setting.work / f"{job.name}.txt"),
            "result": str(result_file(self.folder, job.name)),
            "digest": digest_of(job, settings, data, start),
            "options": plain,
            "shown_options": shown,
            "data": data,
            "plan": asdict(self.plan),
            "reading": self.setting.reading,
            "flop": flop,
            "scales": scales,
            "show": show,
            "commit": self.commit,
            "command": f"mcl-hf compare {PLAN} --only '{job.name}'",
        }

    def _pretraining(self, job: Job) -> tuple[dict[str, Any], float, None]:
        pretraining = self.setting.pretrainings[job.start]
        arguments = pretraining_arguments(self.setting, pretraining)
        steps = 1 if job.kind == "pace" else self.setting.pretraining_steps(self._pace())[job.start]
        options = asdict(replace(arguments, seed=job.seed, max_steps=steps, epochs=None))
        return options, self.setting.visit_flops[job.start], None

    def _finetuning(self, job: Job) -> tuple[dict[str, Any], float, str]:
        start = next(start for start in self.setting.starts if start.name == job.start)
        rate = job.rate if job.rate is not None else self._answer().chosen_rate(job.start, job.images)
        assert rate is not None, "its tuning is done"
        arguments = self.setting.arguments(start, job.images, job.steps, rate)
        digest = f"{start.init}"
        if start.pretraining is not None:
            source = Job("pretrain", start.pretraining, job.seed)
            arguments = replace(arguments, init=str(self.setting.work / source.name))
            digest = self.results[source.name]["digest"]
        options = asdict(replace(arguments, seed=subset_seed(job.seed, job.subset)))
        return options, self.setting.step_flop * job.steps, digest

    def _pace(self) -> dict[str, float]:
        """Pre-training -> seconds of a visit, of those that are timed."""
        names = {name: Job("pace", name, 0).name for name in self.setting.pretrainings}
        return {name: 1 / self.results[job]["images_per_second"] for name, job in names.items() if job in self.results}

    # ----------------------------------------------------------------------------------------------------------------
    # the plan and the results of before

    def _settle_plan(self, new_plan: bool) -> None:
        """Take over results that are of this plan, drop those of an earlier one as long as no test image was asked, and
        refuse to mix after that.

        Raises:
            InputError: the plan or its data changed after the test images were asked.
        """
        file = self.folder / PLAN
        before = load_plan(str(file)) if file.is_file() else None
        known = list((self.folder / "results").glob("*.json"))
        asked = any(path.name.startswith("test-") for path in known)
        if before is not None and asked:
            changed = [
                name for name, value in asdict(self.plan).items()
                if name not in (*_FREE, *_PATHS) and value != getattr(before, name)
            ]  # fmt: skip
            if changed and not new_plan:
                raise InputError(
                    f"{self.folder} has asked the test images by a plan with another {', '.join(changed)}: a plan that "
                    "changes after looking proves nothing; --new-plan puts that answer away and begins anew"
                )
            if changed:
                self._put_away()
                known = []
        stale = self._take_over()
        if stale and any(name.startswith("test-") for name in stale) and not new_plan:
            raise InputError(
                f"{result_file(self.folder, min(stale))} is of other options, data or starts, and the test images have "
                "been asked: use the same ones, or --new-plan, which puts that answer away and begins anew"
            )
        if stale and any(name.startswith("test-") for name in stale):
            self._put_away()
            self.results.clear()
        elif stale:
            print(f"{len(stale)} results are of an earlier plan and are made anew")
            for name in stale:
                result_file(self.folder, name).unlink()
        (self.folder / "results").mkdir(exist_ok=True)
        fields = {name: value for name, value in asdict(self.plan).items() if name not in ("output_dir", "work_dir")}
        if before is None or any(getattr(before, name) != value for name, value in fields.items()):
            file.write_text(yaml.safe_dump(fields, sort_keys=False, width=120), encoding="utf-8")
        write_json(self.folder / ABOUT, self._about())

    def _take_over(self) -> list[str]:
        """Read results that are of this plan, with the weights that jobs to come need; names of those of another."""
        stale = []
        for job in self.jobs.jobs:
            found = read_result(self.folder, job.name)
            if found is None:
                continue
            if not set(self.jobs.needs(job)) <= set(self.results) or self._content(job)["digest"] != found["digest"]:
                stale.append(job.name)
            else:
                self.results[job.name] = found
        for job in self.jobs.jobs:
            weights = self.setting.work / job.name / "model.safetensors"
            if job.kind == "pretrain" and job.name in self.results and not weights.exists():
                of_it = [other for other in self.jobs.jobs if job.name in self.jobs.needs(other)]
                if any(other.name not in self.results for other in of_it):
                    print(f"{job.name} is made again: its weights are not in {self.setting.work}")
                    del self.results[job.name]
        return stale

    def _put_away(self) -> None:
        number = next(n for n in range(1, 10_000) if not (self.folder / f"before-{n}").exists())
        target = self.folder / f"before-{number}"
        target.mkdir()
        for name in (PLAN, ABOUT, REPORT, PICTURE, SHOWN, "results"):
            if (self.folder / name).exists():
                shutil.move(self.folder / name, target / name)
        print(f"the earlier answer is in {target}")

    # ----------------------------------------------------------------------------------------------------------------
    # what is told

    def _about(self) -> dict[str, Any]:
        return {**about_setting(self.setting, self._pace()), "jobs": [asdict(job) for job in self.jobs.jobs]}

    def _answer(self) -> Answer:
        done = {job: self.results[job.name] for job in self.jobs.jobs if job.name in self.results}
        of_start = {start.name: start.pretraining for start in self.setting.starts}
        return Answer(
            self.folder, self.plan, list(of_start), of_start, done, len(self.jobs.jobs), dict(self.failed),
            self._about(),
        )  # fmt: skip


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _check_folder(folder: Path) -> None:
    there = {path.name for path in folder.iterdir() if path.name[0] != "."} - {"work", "prepare.py", "README.md"}
    if there and not there & {PLAN, "results", ABOUT}:
        raise InputError(
            f"{folder} holds something else than a comparison ({', '.join(sorted(there)[:3])}): choose a new or an "
            "empty --output-dir"
        )
