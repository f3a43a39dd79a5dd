"""Which jobs a comparison consists of, what each depends on, and where its result lies.

Flow: plan, starts, labelled, costs -> **jobs** -> runner. A job is done when its result is there:

    OUTPUT_DIR/results/NAME.json      figures, options, command, seed, seconds, versions, machine, digest
    WORK_DIR/NAME/, NAME.txt          the run while it is at work, and what it printed

Kinds: `pace` times a few steps of a pre-training (only for `equal: seconds`), `pretrain` makes a start, `tune` measures
a learning rate on validation images, `test` asks the test images, once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError

Kind = Literal["pace", "pretrain", "tune", "test"]


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        kind: what it is for.
        start: name of the start, or of the pre-training.
        seed: of the comparison.
        images: labelled images, as the plan has it; "" in pre-training.
        subset: number of the labelled subset within the seed.
        steps: of fine-tuning.
        rate: base learning rate of fine-tuning; None where it is yet to be chosen.
    """

    kind: Kind
    start: str
    seed: int
    images: str = ""
    subset: int = 0
    steps: int = 0
    rate: float | None = None

    @property
    def name(self) -> str:
        """Of its result and its folder; the chosen learning rate of a test job stays out of it."""
        parts = [self.kind, self.start]
        if self.images:
            parts += [f"i{self.images}", f"t{self.steps}"]
        if self.kind == "tune":
            parts.append(f"lr{self.rate:g}")
        return "-".join([*parts, f"s{self.seed}", *([f"k{self.subset}"] if self.images else [])])


@dataclass(frozen=True)
class JobList:
    """All jobs of a plan, in the order in which they are run.

    Attributes:
        jobs: in that order; those of tests have no learning rate yet where one is to be chosen.
        of_start: start -> name of its pre-training; None for starts that are there already.
    """

    jobs: Sequence[Job]
    of_start: Mapping[str, str | None]

    def needs(self, job: Job) -> Iterator[str]:
        """Names of the jobs that must be done before."""
        if job.kind == "pretrain":
            yield from (other.name for other in self.jobs if other.kind == "pace")
            return
        if job.kind in ("tune", "test") and self.of_start[job.start] is not None:
            yield Job("pretrain", self.of_start[job.start] or "", job.seed).name
        if job.kind == "test" and job.rate is None:
            yield from (
                other.name for other in self.jobs if other.kind == "tune" and other.start == job.start
                and other.images == job.images
            )  # fmt: skip


def list_jobs(
    *,
    of_start: Mapping[str, str | None],
    pretrainings: Sequence[str],
    pace: bool,
    images: Sequence[str],
    lengths: Mapping[tuple[str, str], int],
    curve_steps: Sequence[int],
    seeds: Sequence[int],
    tuning_seed: int,
    subsets: int,
    rates: Sequence[float],
) -> JobList:
    """All jobs: learning rates first, then one seed of everything after the other.

    Args:
        of_start: see `JobList`, in the plan's order.
        pretrainings: their names.
        pace: whether they are to be timed.
        images: numbers of labelled images.
        lengths: (start, images) -> steps of fine-tuning.
        curve_steps: further lengths, at the fewest images, for every start alike.
        seeds, tuning_seed, subsets: of the plan.
        rates: grid of learning rates; one of them is not chosen.
    """
    jobs = [Job("pace", name, 0) for name in pretrainings] if pace else []
    chosen = len(rates) > 1
    if chosen:
        jobs += [Job("pretrain", name, tuning_seed) for name in pretrainings]
        jobs += [
            Job("tune", start, tuning_seed, count, subset, lengths[start, count], rate)
            for count in images for subset in range(subsets) for rate in rates for start in of_start
        ]  # fmt: skip
    fixed = None if chosen else rates[0]
    for seed in seeds:
        jobs += [Job("pretrain", name, seed) for name in pretrainings]
        for count in images:
            for subset in range(subsets):
                for start in of_start:
                    own = lengths[start, count]
                    more = [steps for steps in curve_steps if count == images[0] and steps != own]
                    jobs += [Job("test", start, seed, count, subset, steps, fixed) for steps in (own, *more)]
    return JobList(jobs, of_start)


# ----------------------------------------------------------------------------------------------------------------
# results


def result_file(output_dir: Path, name: str) -> Path:
    """Where the result of a job lies."""
    return output_dir / "results" / f"{name}.json"


def read_result(output_dir: Path, name: str) -> dict[str, Any] | None:
    """The result of a job, None where it is not done.

    Raises:
        InputError: its file is not what a job writes.
    """
    file = result_file(output_dir, name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is damaged: delete it to run this job again") from error
    wanted = ({"job", "digest", "figures"}, dict)
    if not isinstance(content, wanted[1]) or not wanted[0] <= set(content) or not isinstance(content["figures"], dict):
        raise InputError(f"{file} is damaged: delete it to run this job again")
    return content


def digest_of(job: Job, options: Mapping[str, Any], data: Mapping[str, Any], start: str | None) -> str:
    """What decides on a job's result, as a short hash: its options without paths, its data, the start it needs."""
    text = json.dumps([asdict(job), options, data, start], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
