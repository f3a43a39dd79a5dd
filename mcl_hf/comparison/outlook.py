"""What a plan would take: jobs, operations, time and disk, before anything is trained.

Flow: setting + jobs -> **outlook** -> `mcl-hf compare --dry-run`. Operations are counted, their speed is rehearsed.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..engine.finish import duration
from ..finetuning.rehearsal import rehearse_detector
from ..models import MCLModel
from ..pretraining.rehearsal import rehearse
from .jobs import Job
from .setting import Setting

_MOST = 64
"""Largest batch of a pre-training that is rehearsed: a step must not take minutes."""


def outlook(setting: Setting, jobs: Sequence[Job]) -> list[str]:
    """A line for each kind of job, and one with time and disk."""
    steps = setting.pretraining_steps({})  # none of equal seconds, which are not known yet
    counts = Counter(job.kind for job in jobs)
    flop: dict[str, float] = defaultdict(float)
    for job in jobs:
        if job.images:
            flop[job.kind] += setting.step_flop * job.steps
        else:
            own = setting.pretrainings[job.start]
            flop[job.kind] += steps.get(job.start, 0) * own.batch * own.visit_flop
    seconds = 0.0
    if counts["pretrain"]:
        first = next(iter(setting.pretrainings.values()))
        size = min(_MOST, first.arguments.batch_sizes(1)[0])
        visit = rehearse(first.arguments, size, setting.work).seconds / size
        seconds += visit * flop["pretrain"] / first.visit_flop
    if counts["tune"] or counts["test"]:
        arguments = replace(setting.plain_arguments, data=setting.plan.data, images=setting.plan.image_root)
        step = rehearse_detector(arguments, arguments.batch_sizes(1)[0]).seconds
        seconds += step * (flop["tune"] + flop["test"]) / setting.step_flop
    with torch.device("meta"):
        networks = [MCLModel(own.config) for own in setting.pretrainings.values()]
    size = 4 * max((network.num_parameters() for network in networks), default=0)  # bytes
    left_out = "pre-trainings of equal seconds, " if setting.plan.equal == "seconds" else ""
    disk = (counts["pretrain"] + 6 * setting.plan.jobs) * size
    return [
        *(f"{kind:>8}: {count} jobs, {flop[kind] / 1e12:,.0f} TFLOP" for kind, count in counts.items()),
        f"about {duration(seconds)} here, one job after the other and as fast as a few steps just now; {left_out}"
        f"waiting for data and evaluation are not counted; about {disk / 2**20:,.0f} MiB of disk in {setting.work}",
    ]
