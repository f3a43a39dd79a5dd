"""The lifecycle of a run of any task: its folder, what it continues, model and optimizer, training, the finished model.

Where it sits: a task's file (`pretrain.py`) calls these in this order, inside `launch.launched`, and adds what is its
own: data, model, one optimizer step, what is measured, and the folder that remains.

    checkpoint, lines = open_folder(accelerator, output_dir, arguments.resume)
    state = TrainingState(...)                                       # what this attempt is asked to do
    lines += continue_state(checkpoint, state, rules)                # what the interrupted one had done
    model, optimizer = prepare_run(accelerator, arguments, network, optimizer, checkpoint, state, output_dir)
    result = run_to_end(Run(...), train_step, watch, lines, finish, last_line)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import InputError
from ..viz import read_log
from .loop import train
from .options import RunOptions
from .resume import RecipeRules, check_recipe, continue_from, find_start
from .run import Run, TrainStep, Watch, on_main_process
from .saving import check_free_space, drop_checkpoints, set_aside
from .state import TrainingState, load_optimizer, read_training_state, remove_leftovers, should_save


@dataclass
class RunResult:
    """What came of a run."""

    output_dir: Path
    steps: int  # optimizer steps done
    metrics: dict[str, Any]  # the last record of log.jsonl
    stopped_by: str | None = None  # the signal that ended it early: "SIGTERM", "SIGINT", "SIGHUP"; it was saved


def open_folder(accelerator: Accelerator, output_dir: Path, resume: str) -> tuple[Path | None, list[str]]:
    """Make the run's folder, or find where its run stopped: the checkpoint to continue (None: step 0), and lines to
    print. All ranks. An InputError where the folder holds something else or cannot be written, or the checkpoint asked
    for is not whole."""

    def prepare() -> tuple[Path | None, list[str]]:
        found = find_start(output_dir, resume)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(output_dir)
        except OSError as error:
            raise InputError(f"output_dir {output_dir} cannot be written: {error.strerror}") from error
        return found

    return on_main_process(accelerator, prepare)


def continue_state(checkpoint: Path | None, state: TrainingState, rules: RecipeRules) -> list[str]:
    """Let `state`, which describes this attempt, continue a checkpoint's, if there is one; lines to print. An
    InputError of `check_recipe` where that would be wrong."""
    if checkpoint is None:
        return []
    saved = read_training_state(checkpoint)
    lines = check_recipe(checkpoint, saved, state, rules)
    continue_from(state, saved, rules)
    return [*lines, f"resuming after step {state.step} from {checkpoint}"]


def prepare_run(
    accelerator: Accelerator,
    arguments: RunOptions,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpoint: Path | None,
    state: TrainingState,
    output_dir: Path,
) -> tuple[nn.Module, Any]:
    """The network wrapped for the run's processes and precision, and its optimizer with what a checkpoint holds of it.
    The network lies on the device, with the weights to start from, batch norm over ranks included; the optimizer is
    new, over its parameters; the folder exists. An InputError where the checkpoints will not fit on the disk, or that
    of the optimizer does not fit the network."""
    kept = (arguments.keep_last, arguments.keep_every)
    if checkpoint is None:
        last = state.max_steps
        steps = [step for step in range(1, last + 1) if should_save(step, arguments.save_every_steps, last)]
        on_main_process(accelerator, lambda: check_free_space(output_dir, network, arguments.optimizer, steps, *kept))
    else:
        load_optimizer(checkpoint, network, optimizer)
        for line in on_main_process(accelerator, lambda: set_aside(output_dir, checkpoint, state.step)):
            accelerator.print(line)
        on_main_process(accelerator, lambda: drop_checkpoints(output_dir, state.step, *kept))
    model, prepared = accelerator.prepare(network, optimizer)
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)
    return model, prepared


def run_to_end(
    run: Run, train_step: TrainStep, watch: Watch, lines: Sequence[str], finish: Callable[[Any], None], last_line: str
) -> RunResult:
    """Train to the end or to a signal, and write what remains: `finish` is called with the run after the last step, on
    all ranks. `lines` are printed first, `last_line` when all is done. An InputError of `train`; the last whole
    checkpoint stays."""
    state = run.state
    for line in lines:
        run.tracking.print(line)
    try:
        run.tracking.start_trackers(run.accelerator, state.arguments, state.tracker_ids)
        if run.accelerator.is_main_process and state.step:
            log = run.output_dir / "log.jsonl"
            run.metrics = read_log(log)[-1] if log.stat().st_size else {}  # empty until the first line is due
        with run.stop.listening():
            train(run, train_step, watch)
        if state.step < state.max_steps and not watch.enough:
            run.tracking.print(f"stopped by {run.stop.name} after step {state.step}: continue with --resume auto")
            return RunResult(run.output_dir, state.step, run.metrics, run.stop.name)
        finish(run)
        run.notify("on_end")
        run.tracking.print(last_line)
        return RunResult(run.output_dir, state.step, run.metrics)
    finally:
        run.tracking.close()
