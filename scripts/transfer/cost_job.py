"""Time and memory of a training step of every arm: the price of MCL next to image-level contrast and supervision.

Flow: `--cost` -> **cost_job** -> results -> report. A job takes a few steps on batches of random pixels, in a process
of its own (peak memory never falls again within one), and keeps the fastest; data loading is left out. On a busy
machine the numbers are of the machine as it was: its load average stands beside them.

With a GPU, the paper's recipe is measured too, and its hours follow from its 31,200 steps of 4,096 images. Without one
they are not estimated.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from mcl_hf.models import MCLForPreTraining, MCLForSupervisedPreTraining
from mcl_hf.training.arguments import PretrainArguments, load_arguments
from mcl_hf.training.arithmetic import set_arithmetic
from mcl_hf.training.optim import build_optimizer
from mcl_hf.training.peak_memory import peak_memory_gib

from .arms import find_arm
from .controls import MODELS
from .flops import training_flops
from .jobs import Bench, Job, plain_options, write_result
from .pretrain_job import pretrain_options

STEPS = 6
PAPER_RECIPE, PAPER_BATCH = "mcl-r50-in1k-100ep", 128


def cost_jobs(arms: Sequence[str]) -> list[Job]:
    """One job for each pre-training among the arms."""
    sources = dict.fromkeys(find_arm(name).source for name in arms if find_arm(name).objective != "none")
    return [Job("cost", name, 0, 0) for name in sources]


def run_cost(bench: Bench, job: Job) -> bool:
    """Measure the steps of an arm and write the result; True when it is done."""
    started = time.time()
    arm = find_arm(job.arm)
    arguments = PretrainArguments(**pretrain_options(bench, arm, job.fold, job.seed))
    device = torch.device("cuda" if torch.cuda.is_available() and arguments.device == "auto" else "cpu")
    set_arithmetic(device, arguments.tf32)
    before = peak_memory_gib(device)
    kind = MODELS[arm.model] if arm.model else None
    seconds = fastest_step(arguments, arguments.batch_sizes(1)[0], device, kind)
    found: dict[str, Any] = {
        "step_seconds": seconds,
        "images_per_second": arguments.batch_sizes(1)[0] / seconds,
        "gflop_a_visit": training_flops(arguments.model_config(), arm.objective, arm.model) / 1e9,
        "peak_memory_gib": peak_memory_gib(device),
        "memory_before_gib": before,
        "device": str(device),
        "paper_gpu_hours": paper_hours(device) if job.arm == "mcl" else None,
    }
    write_result(bench, job, plain_options(vars(arguments)), {}, time.time() - started, found)
    return True


def paper_hours(device: torch.device) -> dict[str, float] | None:
    """Hours of one such GPU for the paper's recipe in either scope; None on the CPU."""
    if device.type != "cuda":
        return None
    hours = {}
    for scope in ("published", "lean"):
        arguments = load_arguments(PAPER_RECIPE, region_scope=scope)
        seconds = fastest_step(arguments, PAPER_BATCH, device, None)
        images = (arguments.max_steps or 0) * (arguments.global_batch_size or 0)
        hours[scope] = images * seconds / PAPER_BATCH / 3600
    return hours


def fastest_step(arguments: PretrainArguments, batch: int, device: torch.device, model_class: Any) -> float:
    """Seconds of the fastest of a few training steps of `batch` images of random pixels."""
    supervised = arguments.objective == "supervised"
    config = arguments.model_config(**({"num_labels": 13} if supervised else {}))
    kind: Any = model_class or (MCLForSupervisedPreTraining if supervised else MCLForPreTraining)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = kind(config).to(device=device, memory_format=layout).train()
    optimizer = build_optimizer(model, arguments.optimizer, 1e-4, arguments.weight_decay)
    sides = [
        [
            torch.randn(batch, config.num_channels, config.image_size // r, config.image_size // r, device=device)
            .contiguous(memory_format=layout)
            for r in config.montage_ratios
        ]
        for _ in range(1 if supervised else 2)
    ]  # fmt: skip
    labels = torch.arange(batch, device=device) % 13
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.precision)
    times = []
    for _ in range(STEPS):
        _wait(device)
        started = time.perf_counter()
        with nullcontext() if half is None else torch.autocast(device.type, dtype=half):
            output = model(sides[0], labels) if supervised else model(*sides)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not supervised:
            model.update_target(arguments.target_momentum)
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
