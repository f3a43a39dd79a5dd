"""One optimizer step of fine-tuning.

Where it sits: the loop of `mcl_hf.training` calls `finetune_step`, as it calls pre-training's `train_step`. Which
anchors and proposals the losses sample comes from counters (seed, position, rank), so a resumed run samples what the
uninterrupted one would have sampled.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcl_hf.detection.finetune_arguments import FinetuneArguments
from mcl_hf.detection.train_loader import DetectionBatch
from mcl_hf.training.host_copies import copy_to_device
from mcl_hf.training.optimizer_step import optimizer_step
from mcl_hf.training.run import Run
from mcl_hf.training.schedules import step_learning_rate
from mcl_hf.training.step import counter_seed

WARMUP_FACTOR = 1e-3
"""Share of the learning rate that the first step runs at (detectron2)."""


@dataclass(kw_only=True)
class FinetuneRun(Run):
    """A fine-tuning run; its `batch` is a `DetectionBatch` on the device.

    Attributes:
        mean, scale: of uint8 pixels on the device, `(C, 1, 1)`: normalised = (pixel - mean) / scale.
        milestones: steps from which the learning rate is a tenth of what it was.
    """

    arguments: FinetuneArguments
    mean: Tensor
    scale: Tensor
    milestones: Sequence[int]


def finetune_step(run: FinetuneRun, batches: Iterator[DetectionBatch], step: int, broken: list[str]) -> dict[str, Any]:
    """One optimizer step, 0-based `step`; names of unreadable images are appended to `broken`.

    Returns:
        The losses of its last forward pass, tensors still on the device, learning rate and gradient norm.
    """
    lr = step_learning_rate(
        step, run.peak_lr, run.milestones, warmup_steps=run.warmup_steps, warmup_factor=WARMUP_FACTOR
    )
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    outputs = optimizer_step(run, batches, step, broken, functools.partial(forward_backward, run, step))
    return {**outputs, "learning_rate": lr}


def forward_backward(
    run: FinetuneRun, step: int, batch: DetectionBatch, position: int, gradients_meet: Callable[[bool], Any]
) -> dict[str, Any]:
    """Forward and backward pass of one batch; see `optimizer_step` for the arguments."""
    run.batch = batch.map(functools.partial(copy_to_device, device=run.accelerator.device))
    with gradients_meet(True):
        output = forward(run, run.model, run.batch, position)
        loss = run.guard.watch(output.loss, step)
        run.accelerator.backward(loss / run.arguments.gradient_accumulation_steps)
    return {"loss": output.loss, **output.loss_dict}


def forward(run: FinetuneRun, model: Any, batch: DetectionBatch, position: int) -> Any:
    """The detector's output on a batch that lies on the device.

    Args:
        run: of which seed and rank are taken.
        model: the detector, wrapped or bare.
        batch: on the device.
        position: counts forward passes; decides which anchors and regions are sampled.
    """
    seeds = (run.arguments.seed, position, run.accelerator.process_index)
    torch.manual_seed(counter_seed("dropout", *seeds))
    return model(
        pixel_values=normalise(run, batch),
        labels=batch.labels,
        image_sizes=batch.image_sizes,
        generator=torch.Generator().manual_seed(counter_seed("regions", *seeds)),
    )


def normalise(run: FinetuneRun, batch: DetectionBatch) -> Tensor:
    """uint8 `(N, C, H, W)` on the device -> float, ``(x - 255 mean) / (255 std)`` by channel, and 0 on the padding."""
    pixels = (batch.pixels - run.mean) / run.scale
    for index, (height, width) in enumerate(batch.image_sizes):
        pixels[index, :, height:] = 0
        pixels[index, :, :, width:] = 0
    layout = torch.channels_last if run.arguments.channels_last else torch.contiguous_format
    return pixels.contiguous(memory_format=layout)
