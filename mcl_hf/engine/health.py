"""Is the run still sound? Numbers that tell, and the guard that stops a non-finite loss from reaching weights or disk.

Where it sits: the guard inside the loop's step. Its flag stays on the device, where it turns the update off (the
optimizer's `found_inf`); it is copied to the host at logging and saving steps only, so the guard costs no sync in
between. `collapse.py` computes effective rank and distance of the target, at logging steps only.

Source: effective rank: Roy and Vetterli, "The effective rank", EUSIPCO 2007; as a measure of self-supervised embeddings
RankMe, arXiv 2210.02885, section 3.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import InputError
from .state import how_to_go_on

_OVERFLOWS = 10  # in a row; a scaler that starts too high finds its scale in fewer


class NonFiniteLossError(InputError):
    """The loss or its gradient became infinite or NaN; the message names the step and the samples."""


def second_moments(queries: Sequence[Sequence[Tensor]]) -> Tensor:
    """`Z^T Z` of normalised vectors: sides x L tensors `(Q, D)` -> `(sides, L, D, D)` float64. Sums over ranks are
    those of the whole batch."""
    if queries[0][0].device.type == "mps":  # has no float64
        queries = [[level.cpu() for level in side] for side in queries]
    return torch.stack([torch.stack([level.double().T @ level.double() for level in side]) for side in queries])


def effective_rank(moments: Tensor) -> Tensor:
    """`exp` of the entropy of the singular values' shares: how many directions vectors use, 1 to D.

    From second moments `Z^T Z` `(..., D, D)` of L2-normalised vectors Z `(Q, D)` -> `(...)`, of the same dtype. They
    are not centred, so that vectors which have collapsed to one point have rank 1, whatever noise is left between them.
    """
    singular = torch.linalg.eigvalsh(torch.nan_to_num(moments)).clamp(min=0).sqrt()  # (..., D)
    shares = singular / singular.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(moments.dtype).tiny)
    return torch.special.entr(shares).sum(dim=-1).exp()


@torch.no_grad()
def relative_distance(tensors: Iterable[Tensor], references: Iterable[Tensor]) -> Tensor:
    """`|a - b| / |b|` over all tensors of two lists, as one scalar on their device."""
    pairs = list(zip(tensors, references, strict=True))
    difference = torch.stack([torch.linalg.vector_norm(a - b) for a, b in pairs]).norm()
    return difference / torch.stack([torch.linalg.vector_norm(b) for _, b in pairs]).norm()


class FiniteGuard:
    """Watches losses and gradient norms of a run, and remembers the sample ids of the last `keep` forward passes: those
    between two checks.

    Once a value was not finite, every later update is turned off too (the loss is multiplied by NaN, so all ranks see
    it in the reduced gradient), and `check` raises at the next logging or saving step. Steps that overflow where fp16's
    gradient scaler is at work (`scaled`) are no fault, and it skips them itself.
    """

    def __init__(self, device: torch.device, scaled: bool, keep: int) -> None:
        self.scaled = scaled
        self.overflows = 0
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=keep)

    def remember(self, step: int, sample_ids: Tensor) -> None:
        """Keep the ids `(N,)` of the images of one forward pass."""
        self._recent.append((step, sample_ids))

    def watch(self, loss: Tensor, step: int) -> Tensor:
        """The loss to back-propagate: itself, or NaN from the first non-finite one on."""
        self._mark(~torch.isfinite(loss.detach()), step)
        return loss * torch.where(self.first_bad_step >= 0, float("nan"), 1.0)

    def update_mask(self, grad_norm: Tensor, step: int) -> Tensor:
        """1.0 where this step's update must be skipped, from the total gradient norm over all ranks; else 0.0."""
        bad = ~torch.isfinite(grad_norm.detach())
        if not self.scaled:
            self._mark(bad, step)
        return bad.float()

    def count_overflow(self, skipped: bool) -> None:
        """Count how many steps in a row the fp16 scaler has skipped."""
        self.overflows = self.overflows + 1 if skipped else 0

    def overflow_line(self) -> str | None:
        """What is wrong where fp16 gradients overflow at every step: then nothing is learned, and no loss shows it."""
        if self.overflows < _OVERFLOWS:
            return None
        return (
            f"overflow: the gradients of the last {self.overflows} steps were too large for fp16, and none of these "
            "steps changed the weights. Use --precision bf16 or fp32, or lower the learning rate"
        )

    def _mark(self, bad: Tensor, step: int) -> None:
        self.first_bad_step = torch.where((self.first_bad_step < 0) & bad, step, self.first_bad_step)

    def check(self, output_dir: Path, rank: int) -> None:
        """Stop the run if any rank saw a non-finite value (a host sync; all ranks must call it): a NonFiniteLossError
        names the first such step (counted from 1) and this rank's images of that step; the ids of all remembered steps
        go to `non-finite-samples-rank<r>.json`."""
        latest = torch.iinfo(torch.int64).max
        first = torch.where(self.first_bad_step < 0, latest, self.first_bad_step)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(first, op=dist.ReduceOp.MIN)
        step = int(first)
        if step == latest:
            return
        path = output_dir / f"non-finite-samples-rank{rank}.json"
        recent = [{"step": number + 1, "sample_ids": ids.tolist()} for number, ids in self._recent]
        kept = f" (all recent ones in {path})"
        try:
            path.write_text(json.dumps(recent), encoding="utf-8")
        except OSError:  # a full disk
            kept = ""
        ids = [number for at, tensor in self._recent if at == step for number in tensor.tolist()]
        shown = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite since step {step + 1}: the update was left out and nothing was "
            f"saved after it; samples of that step on rank {rank}: {shown}{kept}. "
            f"Look at these images, or lower the learning rate, and {how_to_go_on(output_dir)}"
        )

    def check_weights(self, network: nn.Module, step: int, output_dir: Path) -> None:
        """Refuse to save tensors that are not finite, whatever made them so (a host sync), by a NonFiniteLossError that
        names the first."""
        tensors = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(list(tensors.values()), float("inf"))])
        broken = [name for name, fine in zip(tensors, torch.isfinite(largest).tolist(), strict=True) if not fine]
        if broken:
            raise NonFiniteLossError(
                f"{len(broken)} tensors are not finite after step {step} ({broken[0]}): this step was not saved. "
                f"Lower the learning rate, and {how_to_go_on(output_dir)}"
            )
