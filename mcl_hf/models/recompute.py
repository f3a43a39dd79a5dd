"""Activation checkpointing that recomputes only what is cheap: norms and activations, never convolutions.

Half of a ResNet's activations are the outputs of norm and ReLU, which follow from the convolution's output in no time:
they are dropped in the forward pass and made again, stage by stage, in the backward pass. Gradients are those of the
plain step, and batch norm counts each batch once.

Source: selective activation checkpointing of torch (`torch.utils.checkpoint`); the published code has none.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_MATRIX_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


def recompute_activations(network: nn.Module) -> nn.Module:
    """Let every stage of a network built of repeated blocks drop its cheap activations until the backward pass.

    Changes the stages' `forward` in place: call it on a network that is about to train, after any copying. ValueError:
    no repeated blocks were found in it.
    """
    stages = find_stages(network)
    if not stages:
        raise ValueError(f"{type(network).__name__} has no repeated blocks to recompute")
    keep_activations(network)
    for stage in stages:
        norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
        stage.forward = functools.partial(_run_stage, stage.forward, functools.partial(_contexts, norms))
    return network


def keep_activations(network: nn.Module) -> None:
    """Undo `recompute_activations`."""
    for stage in find_stages(network):
        stage.__dict__.pop("forward", None)


def find_stages(network: nn.Module) -> list[nn.Module]:
    """What is made again at a time: runs of blocks, or the blocks of a list, which has no forward pass of its own.

    A stage is the unit because a block's output follows from its last convolution too: of a whole stage only the first
    input and the convolutions' outputs are kept.
    """
    stages: list[nn.Module] = []
    for stage, blocks in _find_runs(network):
        stages += blocks if isinstance(stage, nn.ModuleList) else [stage]
    return stages


def find_block_classes(network: nn.Module) -> list[str]:
    """Names of the classes of a network's blocks, each of which belongs on one device: its branches meet."""
    return sorted({type(block).__name__ for _, blocks in _find_runs(network) for block in blocks})


def _find_runs(network: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Modules whose children are blocks (all of one class that has parts of its own), and these."""
    runs: list[tuple[nn.Module, list[nn.Module]]] = []
    for child in network.children():
        blocks = list(child.children())
        classes = {type(block) for block in blocks}
        only = next(iter(classes)) if len(classes) == 1 else None
        if only is None or issubclass(only, nn.Sequential) or not all(list(block.children()) for block in blocks):
            runs += _find_runs(child)
        else:
            runs.append((child, blocks))
    return runs


def _run_stage(forward: Callable[..., Any], contexts: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A stage's forward pass under checkpointing."""
    args = tuple(list(value) if isinstance(value, list) else value for value in args)  # DenseNet appends to its input
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """What a stage's forward pass runs in, the first time and when it is repeated in the backward pass."""
    first, again = create_selective_checkpoint_contexts(_policy)
    return first, _repeat(again, norms)


def _policy(_context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep the outputs of what is worth more time than its memory.

    A convolution with a bias is recomputed: no norm follows it but perhaps an activation in place, which would change
    the kept tensor (squeeze-and-excitation).
    """
    if operation in _MATRIX_PRODUCTS or (operation == torch.ops.aten.convolution.default and args[2] is None):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _repeat(recomputing: AbstractContextManager, norms: list[_BatchNorm]) -> Iterator[None]:
    """Recompute without counting the batch a second time: momentum 0 keeps running statistics, bit for bit."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm, _, counter in kept:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else counter.clone()
        with recomputing:
            yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter
