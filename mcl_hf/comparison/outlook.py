"""What a plan would take: jobs, operations, time and disk, before anything is trained.

Flow: setting + jobs -> **outlook** -> `mcl-hf compare --dry-run`. Operations are counted; how fast they are done here
is measured by rehearsing a few real steps, as `mcl-hf doctor --plan` does.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..engine.finish import duration
from ..finetuning.rehearsal import rehearse_detector
from ..models import MCLConfig, MCLModel
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
    seconds = flop["pretrain"] / _visit_rate(setting) if counts["pretrain"] else 0.0
    if counts["tune"] or counts["test"]:
        seconds += (flop["tune"] + flop["test"]) / _step_rate(setting)
    size = 4 * max((_parameters(own.config) for own in setting.pretrainings.values()), default=0)
    left_out = "pre-trainings of equal seconds, " if setting.plan.equal == "seconds" else ""
    disk = (counts["pretrain"] + 6 * setting.plan.jobs) * size
    return [
        *(f"{kind:>8}: {count} jobs, {flop[kind] / 1e12:,.0f} TFLOP" for kind, count in counts.items() if count),
        f"about {duration(seconds)} here, one job after the other and as fast as a few steps just now; {left_out}"
        f"waiting for data and evaluation are not counted; about {disk / 2**20:,.0f} MiB of disk in {setting.work}",
    ]


def _visit_rate(setting: Setting) -> float:
    """Operations a second of the first pre-training."""
    own = next(iter(setting.pretrainings.values()))
    size = min(_MOST, own.arguments.batch_sizes(1)[0])
    return size * own.visit_flop / rehearse(own.arguments, size, setting.work).seconds


def _step_rate(setting: Setting) -> float:
    """Operations a second of fine-tuning."""
    arguments = replace(setting.plain_arguments, data=setting.plan.data, images=setting.plan.image_root)
    return setting.step_flop / rehearse_detector(arguments, arguments.batch_sizes(1)[0]).seconds


def _parameters(config: MCLConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MCLModel(config).parameters())
