"""Which jobs a comparison consists of, what each depends on, and where its result lies, which makes it done.

Flow: plan, starts, setting (lengths, rates) -> **jobs** -> runner.

    OUTPUT_DIR/results/NAME.json      figures, options, command, seed, seconds, versions, machine, digest
    WORK_DIR/NAME/, NAME.txt          the run while it is at work, and what it printed

Kinds: `pace` times a few steps of a pre-training (only for `equal: seconds`), `pretrain` makes a start, `tune` measures
a learning rate on validation images, `test` asks the test images, once.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from .plan import ComparePlan

Results = dict["Job", dict[str, Any]]
"""What the files of the jobs that are done hold."""


@dataclass(frozen=True)
class Job:
    """One run of a comparison."""

    kind: Literal["pace", "pretrain", "tune", "test"]
    start: str  # its name, or that of the pre-training
    seed: int  # of the comparison
    images: str = ""  # labelled ones, as the plan has it; none in pre-training
    subset: int = 0  # number of the labelled subset within the seed
    steps: int = 0  # of fine-tuning
    rate: float | None = None  # base learning rate of fine-tuning; None where it is yet to be chosen

    @property
    def name(self) -> str:
        """Of its result and its folder, whose place no slash in a start may change; without a chosen learning rate."""
        start = self.start.replace("/", "%2F")
        if not self.images:
            return f"{self.kind}-{start}-s{self.seed}"
        rate = f"-lr{self.rate:g}" if self.kind == "tune" else ""
        return f"{self.kind}-{start}-i{self.images}-t{self.steps}{rate}-s{self.seed}-k{self.subset}"


def list_jobs(
    plan: ComparePlan,
    of_start: Mapping[str, str | None],
    lengths: Mapping[tuple[str, str], int],
    rates: Sequence[float],
) -> dict[Job, set[Job]]:
    """All jobs in the order in which they are run, learning rates first, then one seed of everything after the other,
    and those that must be done before each.

    Args:
        plan: what is asked.
        of_start: start -> name of its pre-training; None for starts that are there already.
        lengths: (start, images) -> steps of fine-tuning.
        rates: grid of learning rates; a single one is not chosen, and stands in the test jobs.
    """
    pretrainings = list(dict.fromkeys(filter(None, of_start.values())))
    paces = [Job("pace", name, 0) for name in pretrainings if plan.equal == "seconds"]
    tunes: dict[tuple[str, str], set[Job]] = defaultdict(set)
    needs: dict[Job, set[Job]] = {job: set() for job in paces}
    chosen = len(rates) > 1
    for seed in [plan.tuning_seed, *plan.seed_list] if chosen else plan.seed_list:
        needs |= {Job("pretrain", name, seed): set(paces) for name in pretrainings}
        tuning = seed == plan.tuning_seed
        tried = [None] if chosen and not tuning else rates
        for images, subset, rate, start in itertools.product(plan.images, range(plan.subsets), tried, of_start):
            further = plan.curve_steps if images == plan.images[0] and not tuning else []
            source = of_start[start]
            begins = set() if source is None else {Job("pretrain", source, seed)}
            for steps in dict.fromkeys([lengths[start, images], *further]):
                job = Job("tune" if tuning else "test", start, seed, images, subset, steps, rate)
                needs[job] = begins if tuning else begins | tunes[start, images]
                if tuning:
                    tunes[start, images].add(job)
    return needs


def result_file(output_dir: Path, name: str) -> Path:
    """Where the result of a job lies."""
    return output_dir / "results" / f"{name}.json"


def read_results(output_dir: Path, jobs: Sequence[Job]) -> Results:
    """Results of those jobs that are done, each of which has to be what a job writes."""
    found = {}
    for job in jobs:
        file = result_file(output_dir, job.name)
        try:
            found[job] = content = json.loads(file.read_text(encoding="utf-8"))
            if not ({"job", "digest", "options"} <= set(content) and isinstance(content["figures"], dict)):
                raise ValueError("lacks what every job writes")
        except FileNotFoundError:
            continue
        except (ValueError, OSError, TypeError, KeyError) as error:
            raise InputError(f"{file} is damaged: delete it to run this job again") from error
    return found


def digest_of(job: Job, options: Mapping[str, Any], data: Mapping[str, Any], start: str | None) -> str:
    """What decides on a job's result, as a short hash: its options without paths, its data, the start it needs."""
    text = json.dumps([asdict(job), options, data, start], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
