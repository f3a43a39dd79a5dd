"""`mcl-hf doctor --plan`: a few real steps of a run, and what all of it will need.

Memory, time and disk are measured with the run's own settings on this machine, at two batch sizes no larger than its
own, and extrapolated; what several processes lose by talking to each other is not known here, and said so.
"""

import dataclasses
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with accelerate
import torch

from ..engine.saving import most_checkpoints
from ..engine.state import should_save
from ..errors import InputError
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.rehearsal import open_train_loader, rehearse_detector, resolve
from ..finetuning.view_scale import about_scale
from ..pretraining.arguments import PretrainArguments
from ..pretraining.plan import SPARE, Line, Measured, Plan, disagreement, largest_batch, make_plan
from ..pretraining.rehearsal import OutOfMemory, backbone_images, images_per_core_second, rehearse
from ..pretraining.run_data import open_data, open_loader
from .command import say
from .pack import num_cores

Arguments = PretrainArguments | FinetuneArguments

DISAGREEMENT = 1.5
"""Ratio of the times of an image at two batch sizes from which on a plan is called rough."""
ON_CPU, ON_GPU = 16, 256
"""Largest batch that is rehearsed: a step must not take minutes."""
DETECTOR_ON_CPU, DETECTOR_ON_GPU = 2, 16
SAVERS: tuple[dict[str, Any], ...] = (
    {"sides_in_turn": True},
    {"activation_checkpointing": True},
    {"sides_in_turn": True, "activation_checkpointing": True},
)
"""What makes a batch smaller in memory at the same gradients, cheapest first."""


def print_plan(arguments: Arguments, world_size: int) -> None:
    """Measure and print; refuses what the run itself would refuse. `output_dir`, where given, tells which disk is
    meant; processes share this machine's memory where there is no GPU."""
    data: Any
    loader: Any
    if isinstance(arguments, FinetuneArguments):
        arguments.check_given()
        arguments, data = resolve(arguments)
        batch_size, global_batch_size = arguments.batch_sizes(world_size)
        say(data.description)
        loader = open_train_loader(arguments, data, min(batch_size, len(data)))
    else:
        batch_size, global_batch_size = arguments.batch_sizes(world_size)
        data = open_data(arguments)
        say(data.description)
        config = arguments.model_config()
        open_loader(arguments, config, data, batch_size, world_size=world_size)  # refuses as the run
        loader = open_loader(arguments, config, data, min(16, len(data)))
    say("decoding and augmenting some images ...", sys.stderr)
    per_core = images_per_core_second(loader)
    measured = measure(arguments, batch_size)
    max_steps = arguments.total_steps(len(data), global_batch_size)
    saves = [step for step in range(1, max_steps + 1) if should_save(step, arguments.save_every_steps, max_steps)]
    plan = make_plan(
        measured, batch_size=batch_size, backbone_images=lambda size: _images(arguments, size),
        passes=arguments.gradient_accumulation_steps, world_size=world_size, max_steps=max_steps,
        images_per_core_second=per_core,
        kept_checkpoints=most_checkpoints(saves, arguments.keep_last, arguments.keep_every),
    )  # fmt: skip
    room = _room_gib(arguments, world_size)
    lines = [
        f"steps    {max_steps} of {global_batch_size} images: {max_steps * global_batch_size / len(data):.1f} passes "
        f"over {len(data)} images",
        f"time     {plan.seconds_per_step:.2f} s a step, {plan.images_per_second:.1f} images/s, {plan.hours:.1f} hours"
        + (f" if {world_size} processes lose nothing by waiting for each other" if world_size > 1 else "")
        + (", evaluations not counted" if isinstance(arguments, FinetuneArguments) else ""),
        *_memory_lines(arguments, measured, plan, batch_size, room),
        *_data_lines(arguments, plan, per_core, world_size),
        _disk_line(arguments, plan),
        "measured " + ", ".join(f"N={run.batch_size}: {run.seconds:.2f} s, {run.peak_gib:.2f} GiB" for run in measured),
    ]
    if disagreement(measured) > DISAGREEMENT:
        lines.append(
            f"warning: an image of the larger batch took {disagreement(measured):.1f} times as long as one of the "
            "smaller, or the other way round: this machine is busy, and the times above are rough"
        )
    scale = None if isinstance(arguments, FinetuneArguments) else about_scale(arguments, data)
    if scale is not None:
        lines.append(scale)
    say("\n".join(lines))


def measure(arguments: Arguments, batch_size: int) -> list[Measured]:
    """Rehearse two batch sizes, the run's own or smaller ones, smaller first; not even four images may fit."""
    detects = isinstance(arguments, FinetuneArguments)
    on_cpu, on_gpu = (DETECTOR_ON_CPU, DETECTOR_ON_GPU) if detects else (ON_CPU, ON_GPU)
    largest = min(batch_size, on_gpu if _on_gpu(arguments) else on_cpu)
    while True:
        measured = []
        try:
            for size in sorted({min(largest, max(2, largest // 2)), largest}):
                say(f"rehearsing {size} images a step ...", sys.stderr)
                run: Any = rehearse_detector if detects else rehearse
                measured.append(run(arguments, size))
            return measured
        except OutOfMemory as error:
            if largest <= 4:
                smaller = "--min-size-train for smaller images" if detects else "--region-size for smaller views"
                raise InputError(f"{error}: take a smaller backbone, or {smaller}") from error
            largest //= 2


def _memory_lines(
    arguments: Arguments, measured: Sequence[Measured], plan: Plan, batch_size: int, room: float
) -> list[str]:
    """What the batch takes, the largest that fits, and, where it does not, what would make it fit."""
    where = "of the GPU" if _on_gpu(arguments) else "of the machine's free memory"
    largest = _largest(arguments, measured, room)
    line = (
        f"memory   {batch_size} images per process take {plan.peak_gib:.1f} GiB; {room:.1f} GiB {where} can be used, "
        f"enough for {largest}"
    )
    if plan.peak_gib <= room:
        return [line]
    lines = [line, f"         {batch_size} DO NOT FIT"]
    for saver in SAVERS:
        if not _applies(arguments, saver) or all(getattr(arguments, name) for name in saver):
            continue
        changed = dataclasses.replace(arguments, **saver)
        flags = " ".join(f"--{name.replace('_', '-')}" for name in saver)
        fits = _largest(changed, measure(changed, batch_size), room)
        lines.append(f"         with {flags}: {fits} fit")
        if fits >= batch_size:
            return lines
    more = "" if isinstance(arguments, FinetuneArguments) else ", with --queue-size for more negatives"
    lines.append(f"         or take --batch-size {largest}{more}")
    return lines


def _applies(arguments: Arguments, saver: dict[str, bool]) -> bool:
    """Whether the run could take these options at all."""
    if isinstance(arguments, FinetuneArguments):
        return "sides_in_turn" not in saver
    in_turn = "sides_in_turn" in saver and arguments.objective == "supervised"
    return not in_turn and not ("activation_checkpointing" in saver and arguments.compile)


def _largest(arguments: Arguments, measured: Sequence[Measured], room: float) -> int:
    memory = Line.through([(run.backbone_images, run.peak_gib) for run in measured])
    return largest_batch(memory, lambda size: _images(arguments, size), room)


def _images(arguments: Arguments, size: int) -> int:
    """That the backbone sees of a batch of `size`: montages come with it in pre-training."""
    return size if isinstance(arguments, FinetuneArguments) else backbone_images(arguments, size)


def _data_lines(arguments: Arguments, plan: Plan, per_core: float, world_size: int) -> list[str]:
    cores, needed, workers = num_cores(), plan.data_cores * world_size, max(1, math.ceil(plan.data_cores))
    lines = [
        f"data     one core prepares {per_core:.0f} images/s, a process needs {plan.data_cores:.2f} cores: "
        f"--num-workers {workers}"
    ]
    if needed > 0.9 * cores:
        lines.append(
            f"         that is {needed:.1f} cores, and this machine has {cores}: training would wait for data; where "
            "images are large, mcl-hf pack makes them cheap to decode"
        )
    elif workers > arguments.num_workers:
        lines.append(f"         the run has --num-workers {arguments.num_workers}: it would wait for data")
    if not _on_gpu(arguments):
        lines.append("         on a machine without a GPU, workers take their cores from the training itself")
    return lines


def _disk_line(arguments: Arguments, plan: Plan) -> str:
    folder = Path(arguments.output_dir or ".").absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    verdict = "" if plan.disk_gib < free else " (NOT ENOUGH)"
    return f"disk     {plan.disk_gib:.2f} GiB for checkpoints and the finished model; {free:.0f} GiB are free{verdict}"


def _room_gib(arguments: Arguments, world_size: int) -> float:
    """GiB that one process may fill."""
    if _on_gpu(arguments):
        return SPARE * torch.cuda.get_device_properties(0).total_memory / 2**30
    return SPARE * psutil.virtual_memory().available / 2**30 / world_size


def _on_gpu(arguments: Arguments) -> bool:
    return arguments.device == "auto" and torch.cuda.is_available()
