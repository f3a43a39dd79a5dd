"""`Run`: everything that a pre-training run consists of, and what its ranks agree on.

Where it sits: built by `pretrain.py`, worked on by `loop.py` and `step.py`, seen by callbacks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .arguments import PretrainArguments
from .checkpoint_writer import CheckpointWriter
from .health import FiniteGuard
from .signals import StopRequest
from .state import SavesPretrained, TrainingState
from .tracking import Tracking

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data import ViewBatch, ViewLoader

T = TypeVar("T")


def on_main_process(accelerator: "Accelerator", function: Callable[[], T]) -> T:
    """Run `function` on the main process; every rank gets its value, or raises what it raised. All ranks must call
    it."""
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [function()]
        except Exception as error:
            outcome = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class Callback(Protocol):
    """What can be hung into the loop: pictures, probes, uploads. Called on every rank; any method may be left out."""

    def on_record(self, run: "Run", record: dict[str, Any]) -> None:
        """Before a record goes to the log: further numbers may be put into it, the same on every rank."""

    def on_log(self, run: "Run", record: dict[str, Any]) -> None:
        """After a record went to the log."""

    def on_save(self, run: "Run", checkpoint: Path) -> None:
        """After a checkpoint is whole; the run may be some steps further by then."""

    def on_end(self, run: "Run") -> None:
        """After the finished model was written."""


@dataclass
class Batch:
    """One forward pass: the loader's uint8 views, and the montages drawn for them (L - 1 index tensors a side)."""

    views: "ViewBatch"
    montage_a: list[Tensor]
    montage_b: list[Tensor] | None


@dataclass
class Run:
    """Parts of a run.

    Attributes:
        model: wrapped for several processes and mixed precision; `network` is the bare one.
        optimizer: Accelerate's wrapper.
        mean, scale: of the uint8 views on the device, `(C, 1, 1)`: normalised = (view - mean) / scale.
        peak_lr: learning rate that the warm-up rises to.
        warmup_steps: steps that it takes.
        batch: the last one that went through the model, for pictures.
        metrics: the last record of the log.
    """

    arguments: PretrainArguments
    accelerator: "Accelerator"
    model: nn.Module
    network: Any
    optimizer: Any
    loader: "ViewLoader"
    processor: SavesPretrained
    mean: Tensor
    scale: Tensor
    state: TrainingState
    guard: FiniteGuard
    tracking: Tracking
    writer: CheckpointWriter
    stop: StopRequest
    output_dir: Path
    peak_lr: float
    warmup_steps: int
    callbacks: Sequence[Any] = ()
    batch: Batch | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def notify(self, event: str, *values: Any) -> None:
        """Call a method of every callback that has it."""
        for callback in self.callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(self, *values)

    def total_over_ranks(self, number: int) -> int:
        """Sum of a number over all ranks, which must all call it (a host sync)."""
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), "sum"))

    def mean_over_ranks(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Tensors of a step as plain lists and floats, averaged over all ranks, which must all call it (a host
        sync)."""
        return {
            name: self.accelerator.reduce(value.detach(), "mean").tolist() if isinstance(value, Tensor) else value
            for name, value in outputs.items()
        }
