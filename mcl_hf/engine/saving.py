"""Putting a checkpoint on disk beside training, complete or not at all.

Where it sits: the loop starts a write at a saving step and asks for its outcome at later logging and saving steps, and
before it leaves. `take_snapshot` copies everything to host memory while the loop waits (as many bytes as the checkpoint
has, held until it is written); `write_checkpoint` puts the copy on disk in another thread: written beside its place,
fsynced, renamed. The layout is in state.py, which reads it. All of this is for the main process alone.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging

from ..errors import InputError
from ..files import sync
from .state import RECORD, TrainingState, checkpoint_folder, checkpoints, file_hash, step_of

# Asking for it sets it, for all threads: asked once, before there are any.
_UMASK = os.umask(0)
os.umask(_UMASK)


@dataclass
class Snapshot:
    """A run at one step, in host memory and apart from everything that training changes: weights and buffers by name,
    the optimizer's tensors as "optimizer/<slot>/<parameter name>", and what becomes training_state.json."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: TrainingState


def take_snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Snapshot:
    """Copy what a checkpoint holds (a host sync), of the unwrapped model and the bare torch optimizer."""
    names = {id(p): name for name, p in model.named_parameters()}
    return Snapshot(
        weights={name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()},
        optimizer={
            f"optimizer/{slot}/{names[id(p)]}": value.detach().to("cpu", copy=True).contiguous()
            for p, slots in optimizer.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        },
        state=copy.deepcopy(state),
    )


def write_checkpoint(
    output_dir: Path, model: Any, processor: Any, snapshot: Snapshot, keep_last: int = 0, keep_every: int = 0
) -> Path:
    """Write a checkpoint, point `last` at it and drop the oldest beyond `keep_last` (0 keeps all) but those at
    multiples of `keep_every`. `model` is unwrapped, and may be trained meanwhile. An InputError where the folder cannot
    be written (disk full, no permission); earlier checkpoints stay as they were."""
    final = checkpoint_folder(output_dir, snapshot.state.step)
    partial = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with no_progress_bar():
            model.save_pretrained(partial, state_dict=snapshot.weights)
        processor.save_pretrained(partial)
        save_file(snapshot.optimizer, partial / "training_state.safetensors")
        (partial / RECORD).write_text(json.dumps(asdict(snapshot.state), indent=1), encoding="utf-8")
        _write_manifest(partial)
        replace_folder(partial, final)
        link_last(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(_cannot_write(final, error)) from error
    drop_checkpoints(output_dir, snapshot.state.step, keep_last, keep_every)
    return final


class CheckpointWriter:
    """One write at a time, in a thread of its own, so a disk slower than training holds it up. For the main process,
    but for `in_flight`: whether a write was started whose outcome nobody has asked for, kept by the loop on every rank.

    Leaving the `with` block waits for the write. If that fails while another error is on its way, it becomes a note on
    that one.
    """

    def __init__(self, output_dir: Path, keep_last: int = 0, keep_every: int = 0) -> None:
        self.output_dir, self.keep_last, self.keep_every = output_dir, keep_last, keep_every
        self.in_flight = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._write: Future[Path] | None = None

    def start(self, model: Any, processor: Any, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Copy what the checkpoint will hold, and begin to write it. The write before must have been asked for."""
        snapshot = take_snapshot(model, optimizer, state)
        self._write = self._thread.submit(
            write_checkpoint, self.output_dir, model, processor, snapshot, self.keep_last, self.keep_every
        )

    def poll(self) -> Path | None:
        """As `wait`, but None at once where the write is still going on."""
        return self.wait() if self._write is not None and self._write.done() else None

    def wait(self) -> Path | None:
        """The checkpoint that was started, once it is whole; None where there is none; an InputError where it could not
        be written."""
        write, self._write = self._write, None
        return None if write is None else write.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._thread.shutdown(wait=True)
        failure = None if self._write is None else self._write.exception()
        if failure is not None and error is not None:
            error.add_note(str(failure))
        elif failure is not None:
            raise failure


def drop_checkpoints(output_dir: Path, newest: int, keep_last: int, keep_every: int) -> None:
    """Delete what `keep_last` leaves over. A run that continues does so as well: killed between a checkpoint and this,
    the interrupted one left one too many. What cannot be deleted, as files on NFS that somebody reads, is for later."""
    for old in to_drop([step_of(path) for path in checkpoints(output_dir)], newest, keep_last, keep_every):
        shutil.rmtree(checkpoint_folder(output_dir, old), ignore_errors=True)


def set_aside(output_dir: Path, checkpoint: Path, step: int) -> list[str]:
    """Rename the checkpoints that are later than the one of `step`, to which a run goes back: they are of what was
    given up, and `--resume auto` would go on with that once the run is stopped before it has got as far. A line, where
    there are any."""
    later = [path for path in checkpoints(output_dir) if step_of(path) > step]
    for path in later:
        aside = path.with_name(f"aside-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    if not later:
        return []
    link_last(later[0].with_name(checkpoint.name))
    return [f"later checkpoints are called aside-... from now on: {', '.join(path.name for path in later)}"]


def to_drop(steps: list[int], newest: int, keep_last: int, keep_every: int) -> list[int]:
    """Which of the checkpoints at these steps (ascending) go once that of step `newest` is whole."""
    if keep_last <= 0:
        return []
    passing = [step for step in steps if not (keep_every and step % keep_every == 0)]
    return [step for step in passing[:-keep_last] if step != newest]


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Saving a model draws a progress bar of its own, across that of the run."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_manifest(folder: Path) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in sorted(folder.iterdir())}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def replace_folder(partial: Path, final: Path) -> None:
    """Rename `partial` to `final` once all of it is on disk; an older `final` is moved aside first and then deleted."""
    for path in (*partial.iterdir(), partial):
        fsync(path)
    if final.exists():
        aside = final.with_name(f".{final.name}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
        partial.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        partial.rename(final)
    fsync(final.parent)


def link_last(final: Path) -> None:
    """Point `checkpoints/last` at a checkpoint, by a relative link: a moved or copied run keeps it."""
    link = final.with_name("last")
    new = final.with_name(".last.new")
    try:
        if link.is_dir() and not link.is_symlink():  # the run was copied, with what links point to in their place
            shutil.rmtree(link)
        new.unlink(missing_ok=True)
        new.symlink_to(final.name)
        new.replace(link)
    except OSError:
        if link.is_symlink():  # else the disk has no links, and nothing is lost
            raise
    fsync(final.parent)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut; files get the process's usual permissions, where the
    disk has any."""
    if path.is_file():
        with suppress(OSError):
            path.chmod(0o666 & ~_UMASK)  # safetensors leaves its files readable by their owner alone
    sync(path)


def _cannot_write(final: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    full = ("No space left", "os error 28", "Disk quota", "os error 122", "File too large", "os error 27")
    reason = "there is no space left on the disk" if any(sign in text for sign in full) else text
    whole = [path.name for path in checkpoints(final.parent.parent) if path != final]
    kept = f"the last one before it is {whole[-1]}" if whole else "there is none before it"
    then = "continue" if whole else "start again"
    return f"checkpoint {final} could not be written: {reason}; {kept}. Make room and {then} with --resume auto"


def most_checkpoints(steps: Sequence[int], keep_last: int, keep_every: int = 0) -> int:
    """How many of the checkpoints at `steps` lie on the disk at the same time at most: those that are kept, and one
    being written."""
    passing = sum(1 for step in steps if not (keep_every and step % keep_every == 0))
    return len(steps) if keep_last == 0 else len(steps) - passing + min(passing, keep_last + 1)


def check_free_space(
    output_dir: Path, model: nn.Module, optimizer_name: str, steps: list[int], keep_last: int, keep_every: int = 0
) -> None:
    """Refuse, by an InputError with what is free and what is needed, a run whose checkpoints would not fit: those at
    `steps` that are kept, one being written, and the finished model."""
    tensors = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    checkpoint = tensors + trained * (2 if optimizer_name == "adamw" else 1)
    kept = most_checkpoints(steps, keep_last, keep_every)
    needed, free = kept * checkpoint + 2 * tensors, shutil.disk_usage(output_dir).free
    if free < needed:
        raise InputError(
            f"{output_dir} has {free / 1e6:.0f} MB of free disk space; one checkpoint takes {checkpoint / 1e6:.0f} MB "
            f"and the run {needed / 1e6:.0f} MB for {kept} of them: make room, choose another --output-dir, a smaller "
            "--keep-last or a larger --keep-every"
        )
