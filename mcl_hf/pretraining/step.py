"""One optimizer step.

Where it sits: the loop calls `train_step` until the run is long enough. Order, as published: learning rate, target
momentum, forward, backward, clip, optimizer, zero gradients, moving average of the *new* weights.

Everything random comes from counters (seed, position, rank, side), so a resumed run draws what the uninterrupted one
would have drawn. Nothing here waits for the device (on several GPUs torch's SyncBatchNorm does: cross_rank_norm.py).
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engine.arithmetic import copy_to_device
from ..engine.loop import optimizer_step
from ..engine.optim import learning_rate, target_momentum
from ..engine.run import Run
from .arguments import PretrainArguments

if TYPE_CHECKING:
    from ..data import ViewBatch

_HEALTH = ("level_losses", "random_losses", "positive_similarity", "negative_similarity", "feature_std")
_SUPERVISED = ("level_losses", "random_losses", "accuracy", "feature_std", "queries")


@dataclass
class Batch:
    """One forward pass: the loader's uint8 views, and the montages drawn for them (L - 1 index tensors a side)."""

    views: "ViewBatch"
    montage_a: list[Tensor]
    montage_b: list[Tensor] | None


@dataclass(kw_only=True)
class PretrainRun(Run):
    """A pre-training run; its `batch` is a `Batch`. Uint8 views are normalised on the device: (view - mean) / scale."""

    arguments: PretrainArguments
    mean: Tensor  # (C, 1, 1)
    scale: Tensor  # (C, 1, 1)


def train_step(run: PretrainRun, batches: Iterator["ViewBatch"], step: int, broken: list[str]) -> dict[str, Any]:
    """One optimizer step, 0-based `step`; names of unreadable images are appended to `broken`. Returns what the log
    shows of its last forward pass, tensors still on the device, and `queries`: for each side, L tensors `(Q, D)`."""
    arguments = run.arguments
    lr = learning_rate(step, run.state.max_steps, run.peak_lr, arguments.min_lr, run.warmup_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    outputs = optimizer_step(run, batches, step, broken, functools.partial(forward_backward, run, step))
    if arguments.objective == "contrastive":
        momentum = target_momentum(step, run.state.max_steps, arguments.target_momentum)
        run.network.update_target(momentum)
        outputs["target_momentum"] = momentum
    return {**outputs, "learning_rate": lr}


def forward_backward(
    run: PretrainRun, step: int, views: "ViewBatch", position: int, gradients_meet: Callable[[bool], Any]
) -> dict[str, Any]:
    """Forward and backward pass of one batch; see `optimizer_step` for the arguments."""
    arguments, rank = run.arguments, run.accelerator.process_index
    parts = arguments.gradient_accumulation_steps
    torch.manual_seed(counter_seed("dropout", arguments.seed, position, rank))
    montages = [
        run.network.draw_montages(
            len(views.sample_ids),
            torch.Generator().manual_seed(counter_seed("montage", arguments.seed, position, rank, side)),
        )
        for side in range(1 if views.views_b is None else 2)
    ]
    views = views.augmented(functools.partial(copy_to_device, device=run.accelerator.device))
    run.batch = Batch(views, montages[0], montages[1] if len(montages) > 1 else None)
    # What is on the host when it gets there, DDP copies itself, and waits for the device to do so.
    montages = [[copy_to_device(level, run.accelerator.device) for level in side] for side in montages]
    views_a = normalise(run, views.views_a)
    if arguments.objective == "supervised":
        with gradients_meet(True):
            output = run.model(views_a, _on_device(run, views.labels), montage=montages[0])
            run.accelerator.backward(run.guard.watch(output.loss, step) / parts)
        return {"loss": output.loss, **{name: getattr(output, name) for name in _SUPERVISED}}

    views_b = normalise(run, views.views_b or [])
    both = {"montage_a": montages[0], "montage_b": montages[1], "group_ids": _group_ids(run, views)}
    if not arguments.sides_in_turn:
        with gradients_meet(True):
            output = run.model(views_a, views_b, **both)
            run.accelerator.backward(run.guard.watch(output.loss, step) / parts)
        return {"loss": output.loss, **{name: getattr(output, name) for name in (*_HEALTH, "queries")}}

    with run.accelerator.autocast():
        keys = run.network.compute_keys(views_a, views_b, montages[0], montages[1])
    outputs: list[dict[str, Tensor]] = []
    queries: tuple[tuple[Tensor, ...], ...] = ()
    for side in ("a", "b"):
        with gradients_meet(side == "b"):
            output = run.model(views_a, views_b, keys=keys, sides=(side,), **both)
            run.accelerator.backward(run.guard.watch(output.loss, step) / parts)
        outputs.append({name: getattr(output, name).detach() for name in ("loss", *_HEALTH)})
        queries += output.queries
        del output  # its graph would double the memory that running in turn saves
    return {"queries": queries, **{name: outputs[0][name] + outputs[1][name] for name in outputs[0]}}


def counter_seed(purpose: str, *counters: int) -> int:
    """A seed from counters: equal counters give equal numbers, whatever happened before."""
    digest = hashlib.blake2b(repr((purpose, counters)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def normalise(run: PretrainRun, views: Sequence[Tensor]) -> list[Tensor]:
    """uint8 `(N, C, s, s)`, here or on the device -> float on the device, `(x - 255 mean) / (255 std)` by channel."""
    layout = torch.channels_last if run.arguments.channels_last else torch.contiguous_format
    on_device = [copy_to_device(view, run.accelerator.device) for view in views]
    return [((view - run.mean) / run.scale).contiguous(memory_format=layout) for view in on_device]


def _group_ids(run: PretrainRun, views: "ViewBatch") -> Tensor | None:
    """`(N,)` ids of images that are no negatives of each other; with a queue, an image's own past keys at the least."""
    if views.group_ids is None and run.network.config.queue_size:
        return _on_device(run, views.sample_ids)
    return _on_device(run, views.group_ids)


def _on_device(run: PretrainRun, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else copy_to_device(tensor, run.accelerator.device)
