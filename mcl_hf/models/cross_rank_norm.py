"""Batch norm over the batches of all processes.

The published model is converted to SyncBN as a whole (backbone, FPN, head, predictors and target). torch's
SyncBatchNorm has fused kernels, runs on CUDA only, and asks the device in every forward pass which ranks had images:
the host waits there, and torch.compile cuts its graph at each norm. The classes here do the same with all-reduces and
plain operations. They serve the CPU, so that several processes can be tested anywhere, and networks that will be
compiled: they are traced without a cut and fused by the compiler.
"""

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from .collectives import sum_over_ranks, world_size


def cross_rank_batch_norm(norm: nn.modules.batchnorm._BatchNorm, values: torch.Tensor) -> torch.Tensor:
    """Batch-normalise `(N, C, ...)` with the statistics of all ranks in training, with running statistics otherwise."""
    if not norm.training or world_size() == 1:
        return nn.modules.batchnorm._BatchNorm.forward(norm, values)
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    axes = [0, *range(2, values.dim())]
    shape = [1, -1, *([1] * (values.dim() - 2))]
    count = wide.new_full((1,), values.numel() / values.shape[1])  # filled on the device: a list would be copied there
    total, count = sum_over_ranks(torch.cat([wide.sum(axes), count])).split([values.shape[1], 1])
    centred = wide - (total / count).view(shape)
    variance = sum_over_ranks(centred.square().sum(axes)) / count  # of centred values: no cancellation
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_((total / count).to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), norm.momentum)
    normalised = centred * torch.rsqrt(variance.view(shape) + norm.eps)
    if norm.weight is not None:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(values.dtype)


class CrossRankBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all ranks."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return cross_rank_batch_norm(self, input)


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all ranks."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return cross_rank_batch_norm(self, input)


class CrossRankBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with activation, over all ranks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(cross_rank_batch_norm(self, x)))


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: CrossRankBatchNorm1d,
    nn.BatchNorm2d: CrossRankBatchNorm2d,
    BatchNormAct2d: CrossRankBatchNormAct2d,
}


def convert_cross_rank_norm(model: nn.Module, device_type: str = "cpu", compiled: bool = False) -> nn.Module:
    """Make every batch norm of `model` normalise over the batches of all ranks.

    Names, parameters and buffers stay. Must be called on all ranks, before the model is wrapped.

    Args:
        model: Converted in place where the classes above are taken.
        device_type: Where it will train; the classes above are taken on `"cpu"`, torch's SyncBatchNorm elsewhere.
        compiled: Whether it will be compiled: the classes above on any device.

    Returns:
        The converted model.
    """
    if device_type != "cpu" and not compiled:
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _CLASSES:
            module.__class__ = _CLASSES[type(module)]  # same state, other forward
    return model


__all__ = ["convert_cross_rank_norm", "cross_rank_batch_norm"]
