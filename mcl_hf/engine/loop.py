"""The training loop: steps, and what is due between them.

Where it sits: a task builds a `Run`, and `lifecycle.py` calls `train` with the task's step (`step.py` for
pre-training). Nothing here knows the task. Nothing here makes the host wait for the device but at logging and saving
steps.
"""

import functools
import time
from contextlib import closing
from typing import Any

from .arithmetic import peak_memory_gib
from .run import Run, TrainStep, Watch, on_main_process
from .state import should_save
from .timed_batches import DataError, TimedBatches


def train(run: Run, train_step: TrainStep, watch: Watch) -> None:
    """Train from `run.state.step` to the end, to a stop request, or until it is enough, logging and saving on the way.
    All ranks.

    Every checkpoint that was begun is whole, or has raised its error, when this returns.

    Args:
        run: its state, log and checkpoints move on.
        train_step: one optimizer step of the task.
        watch: what is measured and judged at logging steps.

    Raises:
        NonFiniteLossError: the loss or its gradient became infinite or NaN; nothing was saved since.
        InputError: a checkpoint could not be written.
        DataError: the data ended in an error; what was trained until then is saved.
        Exception: that of `watch`, where it found the run not worth going on; the step is saved.
    """
    with run.writer, closing(TimedBatches(iter(run.loader), run.accelerator.num_processes)) as batches:
        _train(run, train_step, watch, batches)


def _train(run: Run, train_step: TrainStep, watch: Watch, batches: TimedBatches[Any]) -> None:
    arguments, state = run.arguments, run.state
    broken = list(state.broken_since_log) if run.accelerator.is_main_process else []
    counted = len(broken)  # of them in state.broken_images
    reported: set[str] = set()
    earlier_seconds, started_at = state.seconds, time.perf_counter()
    logged_at, logged_step, saved_step = started_at, state.step, state.step
    run.model.train()

    while state.step < state.max_steps and not watch.enough:
        # --- one step -----------------------------------------------------------------------------------------------
        broken_in_step: list[str] = []
        try:
            outputs = train_step(run, batches, state.step, broken_in_step)
        except DataError:
            if state.step > saved_step:
                _take_stock(run, broken, counted, earlier_seconds + time.perf_counter() - started_at)
                _start_saving(run)
            _finish_saving(run)
            raise
        broken += broken_in_step
        state.step += 1
        state.images_seen += state.global_batch_size
        run.tracking.advance()

        # --- what is due ----------------------------------------------------------------------------------------------
        last = state.step == state.max_steps
        logging = state.step % arguments.log_every_steps == 0 or last or watch.due(state.step)
        saving = should_save(state.step, arguments.save_every_steps, state.max_steps)
        stopping = _stop_requested(run, at_sync_point=logging or saving)
        if logging or saving or stopping:
            _take_stock(run, broken, counted, earlier_seconds + time.perf_counter() - started_at)
            counted = len(broken)

        # --- log ------------------------------------------------------------------------------------------------------
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

        # --- save -----------------------------------------------------------------------------------------------------
        if saving or stopping or watch.fatal or watch.enough:
            _start_saving(run)
            saved_step = state.step
        elif logging:
            _finish_saving(run, wait=False)
        if stopping or watch.fatal:
            break
    _finish_saving(run)
    if watch.fatal:
        raise watch.error()


def _take_stock(run: Run, broken: list[str], counted: int, seconds: float) -> None:
    """Check that all is finite, and bring the counters of the state up to date (a host sync; all ranks).

    Args:
        run: its state is changed.
        broken: names of this rank's unreadable images since the last line of the log.
        counted: how many of them have been counted.
        seconds: spent training, over all attempts.
    """
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
