"""What a release tells of its run beside the card, for programs: `training_arguments.json` and `log_summary.json`.

Where it sits: a run's folder, or one of its models' -> **run_record** -> `bundle.py`. Addresses lose what is private in
them: the folders that a path goes through, and what a URL says after `?` and before `@`.
"""

import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from mcl_hf.detection.finetune import TASK
from mcl_hf.detection.finetune_arguments import FinetuneArguments
from mcl_hf.errors import InputError
from mcl_hf.hub.markdown import is_number
from mcl_hf.hub.shapes import LogLine, misfit_of_options
from mcl_hf.training.arguments import PretrainArguments
from mcl_hf.training.hub_resume import LOG
from mcl_hf.training.provenance import without_keys
from mcl_hf.training.record_check import misfit
from mcl_hf.training.state import RECORD, TrainingState, read_training_state
from mcl_hf.viz import read_log

ARGUMENTS_FILE = "training_arguments.json"
SUMMARY_FILE = "log_summary.json"
_INSIDE_A_RUN = ("pretraining", "best")
NOT_PUBLISHED = ("broken",)
"""Entries of the log that stay here: names of files."""


@dataclass(frozen=True)
class RunRecord:
    """What a run has written of itself.

    Attributes:
        state: that of the checkpoint, or of the run's last one.
        log: the lines of log.jsonl up to its step; empty where there is none.
    """

    state: TrainingState
    log: list[dict[str, Any]]


def read_run(folder: Path) -> RunRecord | None:
    """The record of the run that a model came of, None where nothing is recorded (an imported checkpoint).

    Args:
        folder: of a run, a checkpoint inside, its `pretraining/` or `best/`.

    Raises:
        InputError: there is a record that cannot be read, or that no run has written so.
    """
    folder = folder.resolve()
    run = run_folder(folder)
    holders = [place for place in (folder, run, run / "checkpoints" / "last") if (place / RECORD).is_file()]
    if not holders:
        return None
    state = read_training_state(holders[0])
    reason = misfit_of_options(state.arguments, options_kind(state))
    if reason is not None:
        raise InputError(f"{holders[0] / RECORD} is damaged: {reason}")
    return RunRecord(state, [line for line in read_run_log(run) if line["step"] <= state.step])


def options_kind(state: TrainingState) -> type[PretrainArguments] | type[FinetuneArguments]:
    """The options that a run of this task has."""
    return FinetuneArguments if state.task == TASK else PretrainArguments


def run_folder(folder: Path) -> Path:
    """The folder of the run around one of its models."""
    if folder.parent.name == "checkpoints":
        return folder.parent.parent
    return folder.parent if folder.name in _INSIDE_A_RUN else folder


def read_run_log(run: Path) -> list[dict[str, Any]]:
    """The log of a run's folder; empty where there is none.

    Raises:
        InputError: naming a line that is no record, or holds an entry of another kind.
    """
    path = run / LOG
    lines = read_log(path) if path.is_file() and path.stat().st_size else []
    for line in lines:
        reason = misfit(line, LogLine)
        if reason is not None:
            raise InputError(f"{path} is damaged: in the line of step {line['step']}, {reason}")
    return lines


def write_run_record(record: RunRecord, folder: Path) -> None:
    """Write both files into a folder."""
    _write(folder / ARGUMENTS_FILE, training_arguments(record.state))
    _write(folder / SUMMARY_FILE, log_summary(record))


def training_arguments(state: TrainingState) -> dict[str, Any]:
    """The options of a run, and what they came to."""
    return {
        "task": state.task,
        "arguments": without_private_parts(state.arguments),
        "world_size": state.world_size,
        "global_batch_size": state.global_batch_size,
        "max_steps": state.max_steps,
        "num_images": state.data.get("num_images"),
        "data_fingerprint": state.data.get("fingerprint"),
        "versions": state.versions,
    }


def log_summary(record: RunRecord) -> dict[str, Any]:
    """Where the curves begin and end, and what is between in one number each."""
    lines = [{name: value for name, value in line.items() if name not in NOT_PUBLISHED} for line in record.log]
    speeds = [line["images_per_second"] for line in lines if is_number(line.get("images_per_second"))]
    losses = [line for line in lines if is_number(line.get("loss"))]
    best = min(losses, key=lambda line: line["loss"], default=None)
    return {
        "steps": record.state.step,
        "images_seen": record.state.images_seen,
        "seconds": record.state.seconds,
        "broken_images": record.state.broken_images,
        "lines": len(lines),
        "lowest_loss": None if best is None else {"step": best["step"], "loss": best["loss"]},
        "median_images_per_second": statistics.median(speeds) if speeds else None,
        "health": [line["health"] for line in lines if line.get("health")],
        "first": lines[0] if lines else None,
        "last": lines[-1] if lines else None,
    }


def without_private_parts(value: Any) -> Any:
    """Texts as they may be published, in any nesting: of whatever is a path here, or looks like one, its last part.

    Example:
        >>> without_private_parts(["/home/me/photos", "C:\\\\me\\\\photos", "user/name", "https://me:key@host/a.tar?sig=1"])
        ['photos', 'photos', 'user/name', 'https://host/a.tar']
    """
    if isinstance(value, dict):
        return {name: without_private_parts(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_private_parts(item) for item in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return without_keys(value)
    if os.path.exists(value):  # noqa: PTH110  # Path's own raises for a text that is too long for a name
        return Path(value).resolve().name or value
    if value.startswith(("/", "~", ".")):
        return Path(value).name
    return PureWindowsPath(value).name if PureWindowsPath(value).is_absolute() else value


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
