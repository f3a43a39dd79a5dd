"""Checkpoints: complete or absent, plain data only, found again after any interruption.

Where it sits: the loop saves, `lifecycle.py` resumes. Layout of a run's folder:

    OUTPUT_DIR/checkpoints/
        step-00000030/                 opens with from_pretrained
            config.json, model.safetensors, preprocessor_config.json
            training_state.safetensors   optimizer tensors, "optimizer/<slot>/<parameter name>"
            training_state.json          `TrainingState`: step, arguments, data, counters, gradient scaler, tracker ids
            manifest.json                size and SHA-256 of every file above
        last -> step-00000030          relative link to the newest one

Nothing is pickled, and a file damaged later is found by the manifest. Schedules are functions of the step and the data
order is a function of the position, so the step is all that they need. saving.py writes checkpoints; reading is for
every rank.
"""

import hashlib
import re
import shutil
from dataclasses import field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from torch import nn

from ..errors import InputError
from ..models.weight_files import read_json
from ..remote.checkpoints import RECORD
from .options import refusal

_OPTIMIZER = "training_state.safetensors"
_STEP_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(config=ConfigDict(strict=True, extra="ignore"))
class TrainingState:
    """What a run knows besides its tensors; all of it JSON. What an older release did not record may be absent, what a
    newer one records besides is left out."""

    step: int = 0  # optimizer steps done
    images_seen: int = 0  # that went through these steps, over all processes
    seconds: float = 0.0  # wall-clock time spent training, over all attempts
    broken_images: int = 0  # that could not be read and were replaced
    world_size: int = 1  # processes
    global_batch_size: int = 0  # images per optimizer step
    max_steps: int = 0  # length of the run, which the schedules depend on
    arguments: dict[str, Any] = field(default_factory=dict)  # the options, of the last attempt
    data: dict[str, Any] = field(default_factory=dict)  # description and fingerprint of the data set
    # smallest logged loss and its step; best probe result and its step, if any
    best: dict[str, int | float] = field(default_factory=dict)
    # streaks of the rules in collapse.py or finetuning/health.py, and which have been named
    health: dict[str, Any] = field(default_factory=dict)
    tracker_ids: dict[str, str] = field(default_factory=dict)  # to continue the same curves
    scaler: dict[str, Any] = field(default_factory=dict)  # state of the fp16 gradient scaler, empty otherwise
    broken_since_log: list[str] = field(default_factory=list)  # names for the next line of the log
    versions: dict[str, str] = field(default_factory=dict)  # of the packages whose arithmetic the run consists of
    task: str = "pre-training"  # a checkpoint is continued by its own task only
    recipe: dict[str, Any] = field(default_factory=dict)  # see `provenance.recipe_record`
    start: dict[str, Any] = field(default_factory=dict)  # see `provenance.start_record`
    machines: list[dict[str, Any]] = field(default_factory=list)  # in turn, see `provenance.machine`
    # for each time that the run was resumed with other options: `from_step`, `options`: name -> `before` and `now`
    changes: list[dict[str, Any]] = field(default_factory=list)


def installed_versions() -> dict[str, str]:
    """Releases of the packages that decide on pixels and on arithmetic."""
    return {name: metadata.version(name) for name in ("torch", "timm", "pillow", "numpy")}


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output_dir / "checkpoints" / f"step-{step:08d}"


def should_save(step: int, save_every_steps: int, max_steps: int) -> bool:
    """Whether a checkpoint is due after `step` steps: at every multiple of a positive period, and at the end."""
    return step == max_steps or (save_every_steps > 0 and step % save_every_steps == 0)


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest step first, whole or not."""
    folder = output_dir / "checkpoints"
    found = [path for path in folder.iterdir() if _STEP_FOLDER.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint folder is named after."""
    match = _STEP_FOLDER.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def remove_leftovers(output_dir: Path) -> None:
    """Delete what an interrupted write left behind (main process only)."""
    for path in (output_dir / "checkpoints").glob(".step-*"):
        shutil.rmtree(path)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None where every file has the size and checksum of its manifest, none is left
    out of it, and the state is that of the step that the folder is named after."""
    try:
        manifest = read_json(checkpoint / "manifest.json")
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return "manifest.json is missing"
    except (OSError, ValueError):
        return "manifest.json cannot be read"
    except (KeyError, TypeError, AttributeError):
        return "manifest.json is damaged"
    present = [path.name for pattern in ("*.safetensors", "*config.json") for path in checkpoint.glob(pattern)]
    # but for what other systems hide beside each file, as macOS its ._model.safetensors
    unlisted = [name for name in (RECORD, _OPTIMIZER, *present) if name not in files and name[0] != "."]
    if unlisted or not any(name.startswith("model") for name in files):
        return f"manifest.json does not list {', '.join(unlisted) or 'the weights'}"
    try:
        for name, (size, sha256) in files.items():
            path = checkpoint / name
            if path.parent != checkpoint or not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if file_hash(path) != sha256:
                return f"{name} has changed since it was written"
        step = read_training_state(checkpoint).step
    except OSError as error:
        return f"{checkpoint.name} cannot be read: {error.strerror}"
    except InputError as error:
        return str(error)
    if _STEP_FOLDER.fullmatch(checkpoint.name) and step != step_of(checkpoint):
        return f"it is the checkpoint of step {step}: its folder was renamed"
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
    """The state of a whole checkpoint. An InputError where the file is not there, was not written by this library, or
    is damaged."""
    path = checkpoint / RECORD
    try:
        return TrainingState(**read_json(path))
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {refusal(error)}") from error
    except TypeError as error:
        raise InputError(f"{path} is damaged: it is not an object") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} is no checkpoint of a run: {path.name} cannot be read") from error


@torch.no_grad()
def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer from a checkpoint, each slot in its parameter's memory layout. An InputError for a tensor that
    belongs to no parameter, or one of another shape."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in trained}
    for key, tensor in load_file(checkpoint / _OPTIMIZER).items():
        _, _, rest = key.partition("/")
        slot, _, name = rest.partition("/")
        if name not in parameters:
            raise InputError(f"{checkpoint} has optimizer state for {name}, which this model does not train")
        p = parameters[name]
        if tensor.ndim and tensor.shape != p.shape:
            raise InputError(f"{checkpoint} has {slot} of shape {tuple(tensor.shape)} for {name} of {tuple(p.shape)}")
        # Norms sum in memory order: the layout of the uninterrupted run keeps a resumed one equal bit for bit.
        target = torch.empty_like(p, dtype=tensor.dtype) if tensor.shape == p.shape else tensor.to(p.device)
        optimizer.state[p][slot] = target.copy_(tensor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def how_to_go_on(output_dir: Path) -> str:
    """What to do after a run ended early: there may be a checkpoint (or one being written) to continue from, or not."""
    if any((output_dir / "checkpoints").glob("*step-*")):
        return "continue with --resume auto"
    return "start again with --resume auto (there is no checkpoint yet)"
