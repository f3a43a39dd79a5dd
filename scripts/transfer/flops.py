"""Floating-point operations of a training step, and how many steps an arm gets for its budget.

Flow: arms + scales -> **flops** -> pretrain_job. Counted by torch on the meta device: convolutions and products of
forward and backward passes, online and target network; optimizer and moving average are left out.
"""

import functools
import json
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mcl_hf.models import MCLConfig, MCLForPreTraining, MCLForSupervisedPreTraining

from .controls import MODELS

_COUNTED_BATCH = 64  # every level of the paper's four has whole montages from 32 images on


def training_flops(config: MCLConfig, objective: str, model: str | None = None) -> float:
    """Floating-point operations (2 a multiply-add) of one image's visit: its share of forward and backward passes."""
    return _count(json.dumps(config.to_dict(), sort_keys=True, default=str), objective, model)


@functools.lru_cache(maxsize=64)
def _count(fields: str, objective: str, model: str | None) -> float:
    config = MCLConfig.from_dict(json.loads(fields))
    kind: Any = MCLForSupervisedPreTraining if objective == "supervised" else MCLForPreTraining
    with torch.device("meta"):
        network = (MODELS[model] if model else kind)(config)
        views = [
            torch.empty(_COUNTED_BATCH, config.num_channels, config.image_size // ratio, config.image_size // ratio)
            for ratio in config.montage_ratios
        ]
        labels = torch.zeros(_COUNTED_BATCH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        second = labels if objective == "supervised" else views
        network(views, second).loss.backward()
    return counter.get_total_flops() / _COUNTED_BATCH


def steps_for(visits: int, batch: int, budget: str, own: float, reference: float) -> int:
    """Optimizer steps of an arm.

    Args:
        visits: of images, by the reference arm.
        batch: images a step.
        budget: "steps": as many as the reference; "flops": as many as cost the same.
        own: operations of one visit of the arm.
        reference: operations of one visit of the reference arm.

    Example:
        >>> steps_for(1000, 10, "steps", 1.0, 2.0), steps_for(1000, 10, "flops", 1.0, 2.0)
        (100, 200)
    """
    share = reference / own if budget == "flops" else 1.0
    return max(1, round(visits * share / batch))
