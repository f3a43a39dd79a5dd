"""What of a detector trains, and how fast: frozen stages, frozen batch norm, layer-wise learning rates.

Flow: detector -> **freezing** -> optimizer groups -> fine-tuning. Names are the field's: detectron2's `FREEZE_AT`,
FrozenBN, and layer-wise learning-rate decay (BEiT, arXiv 2106.08254).
"""

import re
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..models.modeling_mcl import MCLBackbone

MOST_STAGES = 5
"""Stem and four stages."""


def freeze(model: nn.Module, freeze_at: int, frozen_bn: bool) -> list[str]:
    """Take parts of a detector's backbone out of training, for good: `model.train()` does not bring them back. Lines
    that say what was frozen are returned.

    Args:
        model: changed in place.
        freeze_at: 0 nothing, 1 the stem, 2 stem and first stage, ... 5 all of the backbone (as detectron2 counts).
        frozen_bn: all batch norms of the backbone keep their statistics and affine parameters.

    Raises:
        InputError: `freeze_at` is not within 0 to 5, or the backbone is not one of timm's.
    """
    if not 0 <= freeze_at <= MOST_STAGES:
        raise InputError(f"freeze_at must be 0 (nothing) to {MOST_STAGES} (all of the backbone), got {freeze_at}")
    prefix, backbone = backbone_of(model)
    if freeze_at and prefix == "model.backbone.":
        raise InputError(
            "freeze_at counts the stages of timm networks, and this detector has another backbone: give --freeze-at 0"
        )
    frozen = [parameter for name, parameter in backbone.named_parameters() if stage_of(name) < freeze_at]
    for parameter in frozen:
        parameter.requires_grad_(False)
    norms = 0
    for name, module in backbone.named_modules():
        if isinstance(module, _BatchNorm) and (frozen_bn or stage_of(f"{name}.weight") < freeze_at):
            module.eval()
            module.train = partial(_stay, module)  # type: ignore[assignment] # whatever its model is told
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            norms += 1
        norms += "FrozenBatchNorm" in type(module).__name__ and not isinstance(module, _BatchNorm)  # transformers' own
    lines = [f"frozen: {len(frozen)} tensors of the backbone's first {freeze_at} stages"] if freeze_at else []
    return lines + ([f"frozen: {norms} batch norms of the backbone"] if norms else [])


def backbone_of(model: nn.Module) -> tuple[str, Any]:
    """Prefix of its parameters' names, and the backbone's network: timm's, also inside of transformers' detectors, or
    what else such a detector has there."""
    for name, module in model.named_modules():
        if isinstance(module, MCLBackbone):
            return f"{name}.backbone.", module.backbone
    inner: Any = model if hasattr(model, "backbone") else model.model
    return ("backbone." if inner is model else "model.backbone."), inner.backbone


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` does of a module that is kept in eval mode; outside of a class, so that it can be pickled."""
    return module


def stage_of(name: str) -> int:
    """Stage of a backbone's parameter: 1 to 4 by timm's names, 0 what has no stage in its name, which is all of the
    stem in ResNets, RegNets, ConvNeXts and Swins."""
    from_one = re.match(r"(?:layer|s)(\d+)\.", name)  # ResNet, RegNet
    from_zero = re.match(r"(?:stages|layers|blocks)[._](\d+)\.", name)
    if from_one is not None:
        return int(from_one[1])
    return 0 if from_zero is None else min(int(from_zero[1]) + 1, MOST_STAGES - 1)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    backbone_scale: float = 1.0,
    slow: str = "",
) -> list[dict[str, Any]]:
    """Groups for an optimizer: norms without weight decay, and each stage at its own learning rate, of which
    `lr_scale` is the share.

    Args:
        model: a detector; what does not require gradients is left out.
        lr: of everything outside of the backbone.
        weight_decay: of all but norms' parameters (detectron2's `WEIGHT_DECAY_NORM` 0).
        layer_decay: stage s of the backbone learns at `lr * layer_decay ** (5 - s)`, the stem being 0; 1: all alike.
        backbone_scale: share of `lr` that the backbone learns at.
        slow: pattern of names that learn at a tenth of it; none where it is empty.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    prefix, _ = backbone_of(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 0.1 if slow and re.search(slow, name) else 1.0
        if name.startswith(prefix):
            scale = backbone_scale * layer_decay ** (MOST_STAGES - stage_of(name.removeprefix(prefix)))
        decay = 0.0 if id(parameter) in norms else weight_decay
        new = {"params": [], "lr": lr * scale, "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), new)["params"].append(parameter)
    return list(groups.values())
