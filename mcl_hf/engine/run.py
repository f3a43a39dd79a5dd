"""`Run`: everything that a run consists of, what a task brings to it, and what its ranks agree on.

Where it sits: built by a task's file (`pretrain.py`), worked on by `loop.py` and the task's step, seen by callbacks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .health import FiniteGuard
from .saving import CheckpointWriter
from .signals import StopRequest
from .state import TrainingState
from .tracking import Tracking

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def on_main_process(accelerator: "Accelerator", function: Callable[[], T]) -> T:
    """Run `function` on the main process; every rank, which must call it, gets its value or raises what it raised."""
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


Callbacks = Sequence[Any] | Callable[[Any], Sequence[Any]]
"""Callbacks, or what makes them of a run's options."""


TrainStep = Callable[[Any, Iterator[Any], int, list[str]], dict[str, Any]]
"""One optimizer step of a task, from its `Run`, batches of its loader, the 0-based step (with the seed, all that
randomness and schedules may depend on), and a list to which names of unreadable images are appended. Gives what the log
shows: tensors, on the device, and numbers, equal in kind on all ranks; among them "loss". A DataError of the batches
must pass, with the weights as they were."""


class Watch:
    """What a task measures and judges at logging steps, on all ranks; this one nothing."""

    fatal: Exception | None = None  # what ends the run, once it is saved
    enough: bool = False  # whether the run is to be saved and finished before its last step

    def due(self, step: int) -> bool:
        """Whether a line of the log is wanted after so many steps, whatever `log_every_steps` says."""
        return False

    def measure(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a step as the log has them, still tensors."""
        return outputs

    def judge(self, record: dict[str, Any]) -> None:
        """Take a record into account before it is logged; may add to it and to `run.state.health`."""


@dataclass(kw_only=True)
class Run:
    """Parts of a run, of any task."""

    arguments: Any  # the task's options
    accelerator: "Accelerator"
    output_dir: Path
    model: nn.Module  # wrapped for several processes and mixed precision
    network: Any  # the bare model
    optimizer: Any  # Accelerate's wrapper
    loader: Any  # the task's own; gives batches from the step on that the run starts at
    processor: Any  # an image processor of transformers, saved beside the model
    state: TrainingState
    guard: FiniteGuard = field(init=False)
    tracking: Tracking = field(init=False)
    writer: CheckpointWriter = field(init=False)
    stop: StopRequest = field(init=False, default_factory=StopRequest)
    peak_lr: float  # that the warm-up rises to
    warmup_steps: int
    callbacks: Sequence[Any] = ()
    batch: Any = None  # the last one that went through the model, for pictures; of the task's own type
    metrics: dict[str, Any] = field(default_factory=dict)  # the last record of the log

    def __post_init__(self) -> None:
        device, options, is_main = self.accelerator.device, self.arguments, self.accelerator.is_main_process
        kept_losses = options.gradient_accumulation_steps * options.log_every_steps
        self.guard = FiniteGuard(device, scaled=self.accelerator.scaler is not None, keep=kept_losses)
        self.tracking = Tracking(self.output_dir, is_main, self.state.max_steps, self.state.step)
        self.writer = CheckpointWriter(self.output_dir, options.keep_last, options.keep_every)

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
        """Tensors of a step as lists and floats, averaged over all ranks, which must all call it (a host sync)."""
        return {
            name: self.accelerator.reduce(value.detach(), "mean").tolist() if isinstance(value, Tensor) else value
            for name, value in outputs.items()
        }
