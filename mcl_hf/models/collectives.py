"""What the models ask of other processes: rank, world size, a gather of keys.

Everything works undistributed too, where a gather returns its input: one process is the same code with world size 1.
Every function but `rank` and `world_size` must be called by all ranks.
"""

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when undistributed."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when undistributed."""
    return dist.get_world_size() if is_distributed() else 1


@torch.no_grad()
def gather(tensor: torch.Tensor) -> torch.Tensor:
    """`(N, ...)` of each rank -> `(W * N, ...)` in rank order on every rank, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)
