"""Checkpoints: complete or absent, plain data only, found again after any interruption.

Where it sits: the loop saves, `pretrain.py` resumes. Layout of a run's folder:

    OUTPUT_DIR/checkpoints/
        step-00000030/                 opens with from_pretrained
            config.json, model.safetensors, preprocessor_config.json
            training_state.safetensors   optimizer tensors, "optimizer/<slot>/<parameter name>"
            training_state.json          `TrainingState`: step, arguments, data, counters, gradient scaler, tracker ids
            manifest.json                size and SHA-256 of every file above
        last -> step-00000030          relative link to the newest one

A checkpoint is written beside (`.step-00000030.partial`), fsynced and renamed, so that a process killed at any moment
leaves whole checkpoints only; a file damaged later is found by the manifest. Nothing is pickled. Schedules are
functions of the step and the data order is a function of the position, so the step is all that they need.

Saving has two halves: `take_snapshot` copies everything to host memory while the loop waits, `write_checkpoint` puts
the copy on disk, beside training (see checkpoint_writer.py). Both are for the main process alone; reading is for every
rank.
"""

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import logging

from ..errors import InputError

_STEP_FOLDER = re.compile(r"step-(\d{8,})")


class SavesPretrained(Protocol):
    """An image processor of transformers."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Write its configuration into a folder."""


@dataclass
class TrainingState:
    """What a run knows besides its tensors; all of it JSON.

    Attributes:
        step: optimizer steps done.
        images_seen: images that went through these steps, over all processes.
        seconds: wall-clock time spent training, over all attempts.
        broken_images: images that could not be read and were replaced.
        world_size: processes.
        global_batch_size: images per optimizer step.
        max_steps: length of the run, which the schedules depend on.
        arguments: the run's options.
        data: description and fingerprint of the data set.
        best: smallest logged loss and its step; best probe result and its step, if any.
        health: streaks of the rules in collapse.py, and which of them have been named.
        tracker_ids: run ids of the trackers, to continue the same curves.
        scaler: state of the fp16 gradient scaler, empty otherwise.
        broken_since_log: names of the unreadable images that the next line of the log will have.
        versions: releases of the packages whose arithmetic the run consists of.
    """

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    broken_images: int = 0
    world_size: int = 1
    global_batch_size: int = 0
    max_steps: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    tracker_ids: dict[str, str] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    broken_since_log: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def installed_versions() -> dict[str, str]:
    """Releases of the packages that decide on pixels and on arithmetic."""
    return {name: metadata.version(name) for name in ("torch", "timm", "pillow", "numpy")}


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output_dir / "checkpoints" / f"step-{step:08d}"


def should_save(step: int, save_every_steps: int, max_steps: int) -> bool:
    """Whether a checkpoint is due after `step` steps: at every multiple of a positive period, and at the end."""
    return step == max_steps or (save_every_steps > 0 and step % save_every_steps == 0)


# ----------------------------------------------------------------------------------------------------------------
# writing


@dataclass
class Snapshot:
    """A run at one step, in host memory and apart from everything that training changes.

    Attributes:
        weights: parameters and buffers by name.
        optimizer: its tensors, "optimizer/<slot>/<parameter name>".
        state: written as training_state.json.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: TrainingState


def take_snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Snapshot:
    """Copy what a checkpoint holds (a host sync); takes as much host memory as the checkpoint takes on disk.

    Args:
        model: unwrapped.
        optimizer: the bare torch optimizer, over parameters of `model`.
        state: copied, too.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    slots = {
        f"optimizer/{slot}/{names[id(p)]}": value
        for p, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }
    return Snapshot(
        weights={name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()},
        optimizer={name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in slots.items()},
        state=copy.deepcopy(state),
    )


def write_checkpoint(
    output_dir: Path,
    model: Any,
    processor: SavesPretrained,
    snapshot: Snapshot,
    keep_last: int = 0,
    keep_every: int = 0,
) -> Path:
    """Write a checkpoint, point `last` at it and drop the oldest beyond `keep_last`.

    Args:
        output_dir: the run's folder.
        model: unwrapped; its `save_pretrained` writes the snapshot's weights, and it may be trained meanwhile.
        processor: saved beside it.
        snapshot: what to write.
        keep_last: checkpoints to keep; 0 keeps all.
        keep_every: those at multiples of so many steps are never dropped, and not counted; 0 for none.

    Raises:
        InputError: the folder cannot be written (disk full, no permission). Earlier checkpoints stay as they were.
    """
    final = checkpoint_folder(output_dir, snapshot.state.step)
    partial = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with no_progress_bar():
            model.save_pretrained(partial, state_dict=snapshot.weights)
        processor.save_pretrained(partial)
        save_file(snapshot.optimizer, partial / "training_state.safetensors")
        (partial / "training_state.json").write_text(json.dumps(asdict(snapshot.state), indent=1), encoding="utf-8")
        _write_manifest(partial)
        replace_folder(partial, final)
        _link_last(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(_cannot_write(final, error)) from error
    for old in to_drop(
        [_step_of(path) for path in checkpoints(output_dir)], snapshot.state.step, keep_last, keep_every
    ):
        shutil.rmtree(checkpoint_folder(output_dir, old))
    return final


def to_drop(steps: list[int], newest: int, keep_last: int, keep_every: int) -> list[int]:
    """Which of the checkpoints at these steps (ascending) go once that of step `newest` is whole.

    Example:
        >>> to_drop([2, 3, 4, 5, 6], newest=6, keep_last=2, keep_every=4)
        [2, 3]
    """
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
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        fsync(path)


def replace_folder(partial: Path, final: Path) -> None:
    """Rename `partial` to `final` once its names are on disk; an older `final` is moved aside first and then
    deleted."""
    fsync(partial)
    if final.exists():
        aside = final.with_name(f".{final.name}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
        partial.rename(final)
        shutil.rmtree(aside)
    else:
        partial.rename(final)
    fsync(final.parent)


def _link_last(final: Path) -> None:
    link = final.with_name("last")
    new = final.with_name(".last.new")
    new.unlink(missing_ok=True)
    new.symlink_to(final.name)  # relative, so that a moved or copied run keeps it
    new.replace(link)
    fsync(final.parent)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut; files get the process's usual permissions."""
    if path.is_file():
        path.chmod(0o666 & ~_umask())  # safetensors leaves its files readable by their owner alone
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(final: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    full = any(
        sign in text for sign in ("No space left", "os error 28", "Disk quota", "os error 122", "File too large")
    )
    reason = "there is no space left on the disk" if full or "os error 27" in text else text
    whole = [path.name for path in checkpoints(final.parent.parent) if path != final]
    kept = f"the last one before it is {whole[-1]}" if whole else "there is none before it"
    then = "continue" if whole else "start again"
    return f"checkpoint {final} could not be written: {reason}; {kept}. Make room and {then} with --resume auto"


def how_to_go_on(output_dir: Path) -> str:
    """What to do after a run ended early: there may be a checkpoint (or one being written) to continue from, or not."""
    started = any((output_dir / "checkpoints").glob("*step-*"))
    if started:
        return "continue with --resume auto"
    return "start again with --resume auto (there is no checkpoint yet)"


def check_free_space(
    output_dir: Path, model: nn.Module, optimizer_name: str, steps: list[int], keep_last: int, keep_every: int = 0
) -> None:
    """Refuse a run whose checkpoints would not fit: those that are kept, one being written, and the finished model.

    Args:
        output_dir: exists.
        model: to be saved.
        optimizer_name: decides on the size of its state.
        steps: those that a checkpoint is written after.
        keep_last: checkpoints that are kept; 0 keeps all.
        keep_every: those at multiples of so many steps are kept as well.

    Raises:
        InputError: naming what is free and what is needed.
    """
    tensors = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    checkpoint = tensors + trained * (2 if optimizer_name == "adamw" else 1)
    passing = sum(1 for step in steps if not (keep_every and step % keep_every == 0))
    kept = len(steps) if keep_last == 0 else len(steps) - passing + min(passing, keep_last + 1)
    needed, free = kept * checkpoint + 2 * tensors, shutil.disk_usage(output_dir).free
    if free < needed:
        raise InputError(
            f"{output_dir} has {free / 1e6:.0f} MB of free disk space; one checkpoint takes {checkpoint / 1e6:.0f} MB "
            f"and the run {needed / 1e6:.0f} MB for {kept} of them: make room, choose another --output-dir, a smaller "
            "--keep-last or a larger --keep-every"
        )


# ----------------------------------------------------------------------------------------------------------------
# reading


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest step first, whole or not."""
    folder = output_dir / "checkpoints"
    found = [path for path in folder.iterdir() if _STEP_FOLDER.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    match = _STEP_FOLDER.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def remove_leftovers(output_dir: Path) -> None:
    """Delete what an interrupted write left behind (main process only)."""
    folder = output_dir / "checkpoints"
    if folder.is_dir():
        for path in folder.glob(".step-*"):
            shutil.rmtree(path)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None where every file has the size and checksum of its manifest."""
    manifest = checkpoint / "manifest.json"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "manifest.json is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if _sha256(path) != expected["sha256"]:
            return f"{name} has changed since it was written"
    return None


def newest_whole_checkpoint(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and one line for every newer one that is damaged."""
    skipped: list[str] = []
    for path in reversed(checkpoints(output_dir)):
        reason = damage(path)
        if reason is None:
            return path, skipped
        skipped.append(f"{path} is damaged ({reason})")
    return None, skipped


def read_training_state(checkpoint: Path) -> TrainingState:
    """The state of a whole checkpoint.

    Raises:
        InputError: the file is not there, or was not written by this library.
    """
    path = checkpoint / "training_state.json"
    known = {option.name for option in fields(TrainingState)}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return TrainingState(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{checkpoint} is no checkpoint of a pre-training run: {path.name} cannot be read") from error


@torch.no_grad()
def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer from a checkpoint, each slot in its parameter's memory layout.

    Raises:
        InputError: a tensor that belongs to no parameter, or one of another shape.
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in trained}
    for key, tensor in load_file(checkpoint / "training_state.safetensors").items():
        _, slot, name = key.split("/", 2)
        if name not in parameters:
            raise InputError(f"{checkpoint} has optimizer state for {name}, which this model does not train")
        p = parameters[name]
        if tensor.ndim and tensor.shape != p.shape:
            raise InputError(f"{checkpoint} has {slot} of shape {tuple(tensor.shape)} for {name} of {tuple(p.shape)}")
        # Norms sum in memory order: the layout of the uninterrupted run keeps a resumed one equal bit for bit.
        target = torch.empty_like(p, dtype=tensor.dtype) if tensor.shape == p.shape else tensor.to(p.device)
        optimizer.state[p][slot] = target.copy_(tensor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
