"""What a plan would take: jobs, operations, time and disk, before anything is trained.

Flow: setting + jobs -> **outlook** -> `mcl-hf compare --dry-run`. Operations are counted; how fast they are done here
is measured by rehearsing a few real steps, as `mcl-hf doctor --plan` does.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...engine.finish import duration
from ...models import MCLModel
from ...pretraining.rehearsal import rehearse
from ..finetuning.rehearsal import rehearse_detector
from .jobs import Job
from .setting import Setting, pretraining_arguments

_KINDS = {"pace": "pre-training", "pretrain": "pre-training", "tune": "detector", "test": "detector"}
_MOST = 64
"""Largest batch of a pre-training that is rehearsed: a step must not take minutes."""


def outlook(setting: Setting, jobs: Sequence[Job]) -> list[str]:
    """A line for each kind of job, and one with time and disk.

    Raises:
        InputError: the rehearsed runs refuse what they are given.
    """
    flop = {kind: sum(_flop(setting, job) for job in jobs if job.kind == kind) for kind in _KINDS}
    lines = [
        f"{kind:>8}: {count} jobs, {flop[kind] / 1e12:,.0f} TFLOP"
        for kind in _KINDS if (count := sum(job.kind == kind for job in jobs))
    ]  # fmt: skip
    rates = _flop_rates(setting, {_KINDS[job.kind] for job in jobs})
    seconds = sum(flop[kind] / rates[_KINDS[kind]] for kind in _KINDS if flop[kind])
    size = 4 * max((_parameters(setting, name) for name in setting.pretrainings), default=0)
    left_out = "pre-trainings of equal seconds, " if setting.plan.equal == "seconds" else ""
    disk = (sum(job.kind == "pretrain" for job in jobs) + 6 * setting.plan.jobs) * size
    return [
        *lines,
        f"about {duration(seconds)} here, one job after the other and as fast as a few steps just now; {left_out}"
        f"waiting for data and evaluation are not counted; about {disk / 2**20:,.0f} MiB of disk in {setting.work}",
    ]


def _flop(setting: Setting, job: Job) -> float:
    if _KINDS[job.kind] == "detector":
        return setting.step_flop * job.steps
    if setting.plan.equal == "seconds":  # their lengths are not known yet
        return 0.0
    visits = setting.pretraining_steps({})[job.start] * setting.pretrainings[job.start].arguments.batch_sizes(1)[1]
    return visits * setting.visit_flops[job.start]


def _flop_rates(setting: Setting, kinds: set[str]) -> dict[str, float]:
    """Operations a second of each kind of run."""
    rates = {}
    if "pre-training" in kinds:
        name, own = next(iter(setting.pretrainings.items()))
        size = min(_MOST, own.arguments.batch_sizes(1)[0])
        seconds = rehearse(pretraining_arguments(setting, own), size, setting.work).seconds
        rates["pre-training"] = size * setting.visit_flops[name] / seconds
    if "detector" in kinds:
        plan = setting.plan
        arguments = replace(setting.plain_arguments(), data=plan.data, images=plan.image_root)
        seconds = rehearse_detector(arguments, arguments.batch_sizes(1)[0]).seconds
        rates["detector"] = setting.step_flop / seconds
    return rates


def _parameters(setting: Setting, name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MCLModel(setting.pretrainings[name].config).parameters())
