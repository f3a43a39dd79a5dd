"""What pre-training and fine-tuning cost: floating-point operations, counted by torch, and how pre-trainings get equal.

Flow: starts -> **costs** -> jobs (steps of each run), report. Convolutions and products of forward and backward passes
of all networks count, 2 operations a multiply-add; optimizer and moving average are left out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...models import MCLForPreTraining
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.finetune import build_detector
from ..finetuning.step import other_inputs
from ..finetuning.train_loader import DetectionLoader
from ..finetuning.train_transform import TrainTransform
from .starts import Pretraining

_COUNTED_BATCH = 64  # every level of the paper's four has whole montages from 32 images on


def visit_flop(pretraining: Pretraining) -> float:
    """Of one image's visit, counted without computing anything."""
    config = pretraining.config
    with torch.device("meta"):
        network = MCLForPreTraining(config)
        views = [
            torch.empty(_COUNTED_BATCH, config.num_channels, config.image_size // ratio, config.image_size // ratio)
            for ratio in config.montage_ratios
        ]
    with FlopCounterMode(display=False) as counter:
        network(views, views).loss.backward()
    return counter.get_total_flops() / _COUNTED_BATCH


def step_flop(arguments: FinetuneArguments, data: Any) -> float:
    """Of one optimizer step on images of `data`: which regions a detector looks at follows from them, so it is run.

    Args:
        arguments: resolved.
        data: `DetectionData`.
    """
    torch.manual_seed(0)
    network = build_detector(arguments, data, None, []).train()
    batch_size, _ = arguments.batch_sizes(1)
    still = dataclasses.replace(arguments, flip=0.0, seed=0, augment="off")
    transform = TrainTransform.of(still, batch_size, batch_size)
    batch = next(iter(DetectionLoader(data, transform, batch_size=batch_size, seed=0, num_workers=0)))
    pixels = batch.pixels.float() / 127.5 - 1  # (N, C, H, W)
    with FlopCounterMode(display=False) as counter:
        network(pixel_values=pixels, **other_inputs(network, batch, torch.Generator().manual_seed(0))).loss.backward()
    return counter.get_total_flops()


def equal_steps(
    pretrainings: Mapping[str, Pretraining],
    visits: Mapping[str, int],
    flops: Mapping[str, float],
    equal: str,
    pace: Mapping[str, float],
) -> dict[str, int]:
    """Optimizer steps of each pre-training.

    Args:
        pretrainings: the first one is what the others are equal to.
        visits: of each, in terms of the first.
        flops: of a visit of each.
        equal: "flops", "steps" (as many visits), or "seconds".
        pace: seconds of a visit of each, measured; for "seconds" only.
    """
    first = next(iter(pretrainings))
    steps = {}
    for name, pretraining in pretrainings.items():
        share = 1.0
        if equal == "flops":
            share = flops[first] / flops[name]
        elif equal == "seconds":
            share = pace[first] / pace[name]
        batch = pretraining.arguments.batch_sizes(1)[1]
        steps[name] = max(1, round(visits[name] * share / batch))
    return steps
