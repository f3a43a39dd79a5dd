"""Batch norm over the batches of all processes, as published for the whole model (SyncBN).

torch's SyncBatchNorm runs on CUDA only and asks the device in every forward pass which ranks had images: the host waits
there, and torch.compile cuts its graph at each norm. The classes here do the same with one collective a pass, for the
CPU and for networks that will be compiled, which are traced without a cut.
"""

from typing import Any

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.autograd import Function

from .collectives import gather, total, world_size


def cross_rank_batch_norm(norm: nn.modules.batchnorm._BatchNorm, input: torch.Tensor) -> torch.Tensor:
    """Batch-normalise `(N, C, ...)` with the statistics of all ranks in training, with running statistics otherwise."""
    if not norm.training or world_size() == 1:
        return nn.modules.batchnorm._BatchNorm.forward(norm, input)
    count, mean, variance = _joint_statistics(input.detach())
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), norm.momentum)
    return _Normalise.apply(input, norm.weight, norm.bias, count, mean, variance, norm.eps)


def _joint_statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count `(1,)`, mean `(C,)` and biased variance `(C,)` of all ranks' `(N, C, ...)`, in at least float32.

    Put together as of Chan, Golub and LeVeque (1979): nothing large is subtracted from anything large. A rank may have
    nothing.
    """
    channels, axes = values.shape[1], [0, *range(2, values.dim())]
    wide = torch.promote_types(values.dtype, torch.float32)
    if values.numel() == 0:
        own = values.new_zeros(2 * channels, dtype=wide)
    elif values.device.type == "cpu" and not torch.compiler.is_compiling():  # torch's own pass, 15 times as fast
        nothing = values.new_zeros(channels, dtype=wide)
        own = torch.cat(torch.batch_norm_update_stats(values, nothing, nothing.clone(), 0.0))
    else:
        variance, mean = torch.var_mean(values.to(wide), axes, correction=0)
        own = torch.cat([mean, variance])
    number = own.new_full((1,), values.numel() / channels)  # filled on the device: a list would be copied there
    every = gather(torch.cat([own, number])[None])  # (W, 2 C + 1)
    means, variances, counts = every.split([channels, channels, 1], dim=1)  # (W, C), (W, C), (W, 1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return count, mean, variance


class _Normalise(Function):
    """Normalisation by given statistics of all ranks; the gradient knows that every rank's values made them: what that
    adds to it is, per channel, a line in the values, which is a normalisation, too."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
        count: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, eps: float,
    ) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(values, weight, count, mean, variance)
        ctx.eps = eps
        return _by_statistics(values, weight, bias, mean, variance, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        values, weight, count, mean, variance = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        if values.numel() == 0:
            of_values, of_weight, of_bias = torch.zeros_like(values), torch.zeros_like(mean), torch.zeros_like(mean)
        else:
            of_values, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                gradients[0], values, scale, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        if ctx.needs_input_grad[0]:
            joint = total(torch.cat([of_weight, of_bias]) / count)
            slope, shift = joint.chunk(2)
            inverse = torch.rsqrt(variance + ctx.eps)
            # gradient - scale / deviation * (shift + slope * normalised values)
            slope, shift = scale * inverse * slope, scale * inverse * shift
            of_values = of_values - _by_statistics(values, slope, shift, mean, variance, ctx.eps)
        return of_values, None if weight is None else of_weight, None if weight is None else of_bias, *[None] * 4


def _by_statistics(
    values: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    mean: torch.Tensor, variance: torch.Tensor, eps: float,
) -> torch.Tensor:  # fmt: skip
    """Normalised `(N, C, ...)`; torch's kernel divides by N."""
    if values.numel() == 0:
        return values.clone()
    return torch.native_batch_norm(values, weight, bias, mean, variance, False, 0.0, eps)[0]


class CrossRankBatchNorm1d(nn.BatchNorm1d):
    forward = cross_rank_batch_norm


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    forward = cross_rank_batch_norm


class CrossRankBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(cross_rank_batch_norm(self, x)))


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: CrossRankBatchNorm1d,
    nn.BatchNorm2d: CrossRankBatchNorm2d,
    BatchNormAct2d: CrossRankBatchNormAct2d,
}


def convert_cross_rank_norm(model: nn.Module, device_type: str = "cpu", compiled: bool = False) -> nn.Module:
    """Make every batch norm of `model` normalise over the batches of all ranks; names, parameters and buffers stay. To
    be called on all ranks, before the model is wrapped.

    Args:
        model: Converted in place where the classes above are taken.
        device_type: Where it will train; the classes above are taken on `"cpu"`, torch's SyncBatchNorm elsewhere.
        compiled: Whether it will be compiled: the classes above on any device.
    """
    if device_type != "cpu" and not compiled:
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _CLASSES:
            module.__class__ = _CLASSES[type(module)]  # same state, other forward
    return model
