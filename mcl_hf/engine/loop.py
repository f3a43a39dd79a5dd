"""The training loop: steps, what is due between them, and the part of a step that is every task's.

Where it sits: a task builds a `Run`, and `lifecycle.py` calls `train` with the task's step (`step.py` for
pre-training), which calls `optimizer_step`. Nothing here knows the task, or makes the host wait for the device but at
logging and saving steps.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import torch

from ..errors import InputError
from .arithmetic import peak_memory_gib
from .run import Run, TrainStep, Watch, on_main_process
from .signals import interrupts_ignored
from .state import should_save

LARGEST_SCALE = 2.0**14
"""Of fp16's loss, that of the published code: torch's scaler, left to itself, goes on doubling it."""


class DataError(InputError):
    """No batch could be made. Every rank raises it before the same step, so that they can save together."""


def train(run: Run, train_step: TrainStep, watch: Watch) -> None:
    """Train from `run.state.step` to the end, to a stop request, or until it is enough, logging and saving on the way.
    All ranks. Every checkpoint that was begun is whole, or has raised its error, when this returns.

    Raises:
        NonFiniteLossError: the loss or its gradient became infinite or NaN; nothing was saved since.
        InputError: a checkpoint could not be written.
        DataError: the data ended in an error; what was trained until then is saved.
        Exception: that of `watch`, where it found the run not worth going on; the step is saved.
    """
    arguments, state = run.arguments, run.state
    broken = list(state.broken_since_log) if run.accelerator.is_main_process else []
    counted = len(broken)  # of them in state.broken_images
    reported: set[str] = set()
    run.model.train()
    with run.writer, closing(TimedBatches(iter(run.loader), run.accelerator.num_processes)) as batches:
        logged_at, logged_step, saved_step = time.perf_counter(), state.step, state.step
        began = logged_at - state.seconds  # as if all attempts were one
        while state.step < state.max_steps and not watch.enough:
            # --- one step -------------------------------------------------------------------------------------------
            broken_in_step: list[str] = []
            try:
                outputs = train_step(run, batches, state.step, broken_in_step)
            except DataError:
                if state.step > saved_step:
                    _take_stock(run, broken, counted, time.perf_counter() - began)
                    _start_saving(run)
                _finish_saving(run)
                raise
            broken += broken_in_step
            state.step += 1
            state.images_seen += state.global_batch_size
            run.tracking.advance()

            # --- what is due ------------------------------------------------------------------------------------------
            last = state.step == state.max_steps
            logging = state.step % arguments.log_every_steps == 0 or last or watch.due(state.step)
            saving = should_save(state.step, arguments.save_every_steps, state.max_steps)
            stopping = _stop_requested(run, at_sync_point=logging or saving)
            if logging or saving or stopping:
                _take_stock(run, broken, counted, time.perf_counter() - began)
                counted = len(broken)

            # --- log --------------------------------------------------------------------------------------------------
            if logging:
                record: dict[str, Any] = {"step": state.step, **run.mean_over_ranks(watch.measure(outputs))}
                now = time.perf_counter()
                record["images_per_second"] = (state.step - logged_step) * state.global_batch_size / (now - logged_at)
                record["data_wait_share"] = min(1.0, batches.seconds / (now - logged_at))
                record["peak_memory_gib"] = peak_memory_gib(run.accelerator.device)
                record |= {"seconds": state.seconds, "broken_images": state.broken_images}
                record |= {"broken": broken} if broken else {}
                for line in dict.fromkeys(broken):
                    if line not in reported:
                        run.tracking.print(f"replaced an image that cannot be read: {line}")
                reported.update(broken)
                if record["loss"] <= state.best.get("loss", record["loss"]):
                    state.best = state.best | {"loss": record["loss"], "step": state.step}
                watch.judge(record)
                overflow = run.guard.overflow_line()
                if overflow is not None:
                    record["health"] = [*record.get("health", []), overflow]
                    run.tracking.print(f"warning: {overflow}")
                run.notify("on_record", record)
                run.metrics = record
                run.tracking.log(record)
                run.notify("on_log", record)
                # What was done between the steps, probes above all, is no part of the steps' speed.
                logged_at, logged_step, batches.seconds = time.perf_counter(), state.step, 0.0
                broken, counted, state.broken_since_log = [], 0, []

            # --- save -------------------------------------------------------------------------------------------------
            if saving or stopping or watch.fatal or watch.enough:
                _start_saving(run)
                saved_step = state.step
            elif logging:
                _finish_saving(run, wait=False)
            if stopping or watch.fatal:
                break
        _finish_saving(run)
        if watch.fatal:
            raise watch.fatal


def _take_stock(run: Run, broken: list[str], counted: int, seconds: float) -> None:
    """Check that all is finite, and bring the counters of the state up to date (a host sync; all ranks): `broken` are
    this rank's unreadable images since the last line of the log, of which `counted` are in the state already."""
    run.guard.check(run.output_dir, run.accelerator.process_index)
    run.state.seconds = seconds
    run.state.broken_images += run.total_over_ranks(len(broken) - counted)
    run.state.broken_since_log = broken.copy()


def _stop_requested(run: Run, at_sync_point: bool) -> bool:
    """Whether to save and leave now. Several ranks must agree, which they do at logging and saving steps."""
    if run.state.step == run.state.max_steps:
        return False
    if run.accelerator.num_processes == 1:
        return run.stop.name is not None
    if not at_sync_point:
        return False
    wanted = run.total_over_ranks(int(run.stop.name is not None)) > 0
    if wanted and run.stop.name is None:
        run.stop.name = "SIGTERM"  # another rank's signal
    return wanted


def _start_saving(run: Run) -> None:
    """Begin to write a checkpoint on the main process, once the one before is whole."""
    _finish_saving(run)
    if run.accelerator.scaler is not None:
        run.state.scaler = run.accelerator.scaler.state_dict()
    run.state.tracker_ids = run.tracking.tracker_ids
    run.guard.check_weights(run.network, run.state.step, run.output_dir)
    write = functools.partial(run.writer.start, run.network, run.processor, run.optimizer.optimizer, run.state)
    on_main_process(run.accelerator, write)
    run.writer.in_flight = True


def _finish_saving(run: Run, wait: bool = True) -> None:
    """Tell the callbacks of the checkpoint that is being written, once it is whole; a failure there ends all ranks."""
    if run.writer.in_flight:
        checkpoint = on_main_process(run.accelerator, run.writer.wait if wait else run.writer.poll)
        if checkpoint is not None:
            run.writer.in_flight = False
            run.notify("on_save", checkpoint)


class TimedBatches(Iterator[Any]):
    """The loader's batches, and how long the loop has waited for them, in seconds. All ranks must go through it in
    step: each learns from the others whether they have their batch, and raises a DataError where one has not."""

    def __init__(self, batches: Iterator[Any], num_processes: int) -> None:
        self._batches, self._started, self.seconds = batches, False, 0.0
        # on the host, so that asking does not wait for the device
        self._group: Any = torch.distributed.new_group(backend="gloo") if num_processes > 1 else None

    def close(self) -> None:
        """Let the loader's workers end; nobody else waits for them where an error ends the run."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def __next__(self) -> Any:
        start = time.perf_counter()
        error = None
        try:
            with nullcontext() if self._started else interrupts_ignored():  # the workers start with the first
                batch = next(self._batches)
            self._started = True
        except InputError as caught:
            error = caught
        if self._group is not None:
            failed = torch.tensor(int(error is not None))
            torch.distributed.all_reduce(failed, group=self._group)
            if failed and error is None:
                raise DataError("the data of another process could not be read: see its message")
        if error is not None:
            raise DataError(str(error)) from error
        self.seconds += time.perf_counter() - start
        return batch


def optimizer_step(
    run: Run,
    batches: Iterator[Any],
    step: int,
    broken: list[str],
    forward_backward: Callable[[Any, int, Callable[[bool], AbstractContextManager[Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """Take `gradient_accumulation_steps` batches through the network and change the weights once: passes that
    accumulate, clipping, the guarded update. The learning rates of this 0-based step are set; names of unreadable
    images are appended to `broken`.

    `forward_backward` takes a batch, its 0-based position over all steps, and a function; runs and back-propagates the
    batch, each backward pass inside `function(last)`, where `last` says whether it is the batch's last one; and returns
    what the log shows. What the last batch gave is returned with `grad_norm`, the total L2 norm over all ranks before
    clipping.

    Raises:
        DataError: there is no further batch; weights and buffers are as they were.
    """
    parts = run.arguments.gradient_accumulation_steps
    outputs: dict[str, Any] = {}
    before = [buffer.clone() for buffer in run.network.buffers()] if parts > 1 else []
    for part in range(parts):
        try:
            batch = next(batches)
        except DataError:
            if part:  # as if the passes of this step so far had not been
                for buffer, value in zip(run.network.buffers(), before, strict=True):
                    buffer.copy_(value)
            raise
        broken += batch.broken
        run.guard.remember(step, batch.sample_ids)

        def gradients_meet(last: bool, part: int = part) -> AbstractContextManager[Any]:
            """Gradients are averaged over the ranks in the last backward pass of a step only."""
            meet = last and part == parts - 1
            return nullcontext() if meet else run.accelerator.no_sync(run.model)

        outputs = forward_backward(batch, step * parts + part, gradients_meet)

    grad_norm = run.accelerator.clip_grad_norm_(run.model.parameters(), run.arguments.clip_grad_norm)
    mask = run.guard.update_mask(grad_norm, step)
    if run.accelerator.scaler is None:  # with a scaler, its own flag does the same
        run.optimizer.optimizer.found_inf = mask
    run.optimizer.step()
    if run.accelerator.scaler is not None:
        run.guard.count_overflow(run.optimizer.step_was_skipped)
        run.accelerator.scaler._scale.clamp_(max=LARGEST_SCALE)
    run.optimizer.zero_grad()
    return {**outputs, "grad_norm": grad_norm}
