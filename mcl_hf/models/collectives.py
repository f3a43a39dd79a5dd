"""What the models ask of other processes: rank, world size, a gather, a sum.

Undistributed, a gather returns its input: one process is the same code with world size 1. Every function but `rank` and
`world_size` must be called by all ranks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

Exchange = Callable[[torch.Tensor], torch.Tensor | None]
"""A quicker way than a collective: a tensor `(...)` of each rank -> `(W, ...)` in rank order; None: not this one."""

_exchange: Exchange | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when undistributed."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when undistributed."""
    return dist.get_world_size() if _is_distributed() else 1


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Take `exchange` for tensors on the CPU, for the length of the block; all ranks must enter it."""
    global _exchange
    before, _exchange = _exchange, exchange
    try:
        yield
    finally:
        _exchange = before


@torch.no_grad()
def gather(tensor: torch.Tensor) -> torch.Tensor:
    """`(N, ...)` of each rank -> `(W * N, ...)` in rank order on every rank, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    own = tensor.detach().contiguous()
    every = _exchanged(own)  # (W, N, ...)
    if every is not None:
        return every.flatten(0, 1)
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    return torch.cat(parts)


@torch.no_grad()
def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks of a tensor `(...)`, with the same bits on every rank, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    own = tensor.detach().contiguous()
    every = _exchanged(own)  # (W, ...)
    if every is not None:
        return every.sum(0)
    joint = own.clone()
    dist.all_reduce(joint)
    return joint


def _exchanged(own: torch.Tensor) -> torch.Tensor | None:
    if _exchange is None or own.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return _exchange(own)
