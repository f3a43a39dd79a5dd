"""Optimizers: LARS exactly as published, its rule of which parameters it adapts, and torch's own AdamW and SGD; and
learning rate and target momentum as pure functions of the step.

Where it sits: a task builds the optimizer once; each of its steps asks for the values it needs and sets the learning
rate of all groups, so a resumed run needs only its step.

Source: "Large Batch Training of Convolutional Networks", arXiv 1708.03888, in the form of the published code
(GuoQiushan/MCL @1912aa9): the learning rate is inside the momentum buffer, so a decaying rate does not shrink past
updates. `timm.optim.Lars` applies it outside, which is a different update under a schedule.

Differs from the published code: a tensor whose weight norm or gradient norm is zero takes the plain step (trust ratio
1). Published, a tensor of zeros never moves again, and zeros with a zero gradient end in a ZeroDivisionError. Norms
stay on the device (the published code copies two numbers per tensor to the host at every step).

Schedules: those of the published code. Warm-up multiplies the cosine that is *already decaying*, so the peak is a
little below the base value.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

OPTIMIZERS = ("lars", "adamw", "sgd")

# Smallest and largest number of images a step that the learning-rate rule has been used with, and by whom.
_USED_WITH = {
    "lars": (4096, 4096, "the published code"),
    "adamw": (16, 64, "this library's demo"),
    "sgd": (4, 8, "this library's tests only"),
}

# The published pattern, dot unescaped as there. It misses nine batch-norm scales of a ResNet-50 (downsample.1,
# mlp.1), which are therefore adapted and decayed: a rule that excludes "all norms and biases" would be another
# recipe.
_PUBLISHED_EXCLUSION = re.compile(r"(bn|gn)(\d+)?.(weight|bias)")
_PUBLISHED_BACKBONES = re.compile(r"resnet(18|34|50|101|152)(\..*)?")


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum, as published for MCL.

    For each tensor `local = trust_coefficient |w| / (|g| + weight_decay |w|)` (1 where the group has `adapt=False` or a
    norm is zero), `d = (g + weight_decay w) local lr`, `buffer = momentum buffer + d`, `w = w - buffer`. Groups may set
    `lr`, `momentum`, `weight_decay`, `trust_coefficient` (published as eta) and `adapt`.

    Works with `torch.amp.GradScaler` without a host sync: `grad_scale` and `found_inf`, when set as attributes, divide
    the gradients and skip the update on the device.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-5,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        defaults["trust_coefficient"] = trust_coefficient
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f"LARS: {name} must not be negative, got {value}")
        super().__init__(params, {**defaults, "adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. `closure` re-evaluates the model, as in every torch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group, grad_scale, found_inf)
        return loss

    def _step_group(
        self, params: list[Tensor], group: dict[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        grads: Any = [p.grad for p in params]
        buffers = []
        for p in params:
            state = self.state[p]
            if "momentum_buffer" not in state:
                # 0.9 * 0 + d is the published first step, which sets the buffer to d
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            buffers.append(state["momentum_buffer"])

        if grad_scale is not None:
            grads = torch._foreach_div(grads, grad_scale.to(grads[0].dtype))
        decay = group["weight_decay"]
        updates = torch._foreach_add(grads, params, alpha=decay)
        if group["adapt"]:
            weight_norm = torch.stack(torch._foreach_norm(params))  # (number of tensors,)
            grad_norm = torch.stack(torch._foreach_norm(grads))
            local = group["trust_coefficient"] * weight_norm / (grad_norm + decay * weight_norm)
            local = torch.where((weight_norm > 0) & (grad_norm > 0), local, torch.ones_like(local))
            torch._foreach_mul_(updates, list(local.unbind()))
        torch._foreach_mul_(updates, group["lr"])

        moved = torch._foreach_mul(buffers, group["momentum"])
        torch._foreach_add_(moved, updates)
        if found_inf is None:
            torch._foreach_copy_(buffers, moved)
            torch._foreach_sub_(params, moved)
            return
        # A skipped step leaves weights and buffers bit for bit as they are; a product with zero would keep a NaN.
        skip = found_inf.to(params[0].device).reshape(()) != 0
        torch._foreach_copy_(buffers, [torch.where(skip, old, new) for old, new in zip(buffers, moved, strict=True)])
        torch._foreach_sub_(params, [new.masked_fill(skip, 0.0) for new in moved])


def is_excluded(name: str, parameter: Tensor, backbone: str) -> bool:
    """Whether LARS leaves a parameter without weight decay and without a rate of its own: by the published pattern on
    the published backbones (ResNet-18 to -152); on any other, where it has at most one dimension."""
    if _PUBLISHED_BACKBONES.fullmatch(backbone):
        return "bias" in name or _PUBLISHED_EXCLUSION.search(name) is not None
    return parameter.ndim <= 1


def parameter_groups(
    model: Any, optimizer_name: str, weight_decay: float, backbone_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups of the parameters that train, with `weight_decay` and without; two more for a backbone of another
    rate. The rule of "lars" depends on the timm name `model.config.backbone`; "adamw" and "sgd" leave all 1-d
    parameters without weight decay. `lr_scale` of the groups of the backbone is `backbone_lr_scale`, their share of the
    learning rate; 1 of the others."""
    backbone = model.config.backbone if optimizer_name == "lars" else ""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for scale, decays in itertools.product(dict.fromkeys((1.0, backbone_lr_scale)), (True, False)):
        group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        groups[scale, decays] = group | ({"adapt": decays} if optimizer_name == "lars" else {})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = backbone_lr_scale if name.startswith("mcl.backbone.") else 1.0
            groups[scale, not is_excluded(name, parameter, backbone)]["params"].append(parameter)
    return list(groups.values())


def learning_rate_warning(name: str, images_per_step: int) -> list[str]:
    """A line where the rule `base_learning_rate * images_per_step / 256` leaves the batches it has been used with."""
    smallest, largest, who = _USED_WITH[name]
    if smallest <= images_per_step <= largest:
        return []
    used = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    return [
        f"warning: the learning rate grows with the batch, base_learning_rate x images / 256; with {name} this was "
        f"used at {used} images a step ({who}), not at {images_per_step}: watch the loss of the first epochs"
    ]


def build_optimizer(
    model: Any, name: str, lr: float, weight_decay: float, backbone_lr_scale: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer of a run, momentum 0.9 (AdamW: betas 0.9 and 0.999), over the groups of `parameter_groups`; an
    InputError for none of `OPTIMIZERS`. All can skip an update on the device (`found_inf`): the loop keeps a non-finite
    step out of the weights with it."""
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer '{name}' is unknown: choose one of {', '.join(OPTIMIZERS)}")
    groups = parameter_groups(model, name, weight_decay, backbone_lr_scale)
    if name == "lars":
        return LARS(groups, lr=lr, momentum=0.9, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    return sgd(groups, lr)


def sgd(groups: list[dict[str, Any]], lr: float) -> torch.optim.SGD:
    """SGD with momentum 0.9 over groups that name their weight decay, able to skip an update on the device."""
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
    for group in optimizer.param_groups:
        for p in group["params"]:
            # Zeros give torch's own first step, and unlike its empty buffers they survive a first step that is skipped.
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    return optimizer


def learning_rate(
    step: int, max_steps: int, base_lr: float, min_lr: float = 1e-4, warmup_steps: int = 0, warmup_ratio: float = 1e-4
) -> float:
    """Learning rate in effect during 0-based `step` of `max_steps`.

    `c(k) = min_lr + (base_lr - min_lr) (1 + cos(pi k / K)) / 2`; for `k < warmup_steps` it is multiplied by
    `1 - (1 - k / warmup_steps) (1 - warmup_ratio)`; published, the first step runs at a ten-thousandth.
    """
    cosine = min_lr + 0.5 * (base_lr - min_lr) * (1.0 + math.cos(math.pi * step / max_steps))
    if step < warmup_steps:
        cosine *= 1.0 - (1.0 - step / warmup_steps) * (1.0 - warmup_ratio)
    return cosine


def target_momentum(step: int, max_steps: int, base_momentum: float = 0.99) -> float:
    """Momentum of the target's moving average at 0-based `step`: from `base_momentum` to 1 along half a cosine."""
    return 1.0 - (1.0 - base_momentum) * (math.cos(math.pi * step / max_steps) + 1.0) / 2.0


def step_learning_rate(
    step: int, base_lr: float, milestones: Sequence[int], warmup_steps: int, warmup_factor: float
) -> float:
    """Learning rate in effect during 0-based `step` of a detector's schedule, detectron2's `WarmupMultiStepLR`: it
    rises along a line from `warmup_factor * base_lr`, and is a tenth from each milestone on."""
    lr = base_lr * 0.1 ** sum(1 for milestone in milestones if step >= milestone)
    if step < warmup_steps:
        lr *= warmup_factor + (1.0 - warmup_factor) * step / warmup_steps
    return lr
