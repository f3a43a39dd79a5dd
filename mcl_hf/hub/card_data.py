"""What was recorded of a model: its configuration, its run, the file that it was imported from. Nothing is guessed.

Where it sits: a folder -> **card_data** (+ results.py for evaluations) -> card.py; and the two files that a release
tells of its run, for programs. Addresses lose what is private in them before they are published.
"""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedConfig

from ..detectors.configuration_detector import MCLDetectorConfig
from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.provenance import without_keys
from ..engine.resume import LOG
from ..engine.state import RECORD, TrainingState, read_training_state, step_of
from ..errors import InputError
from ..finetuning.finish import is_best_chosen
from ..models.configuration_mcl import MCLConfig
from ..models.weight_files import read_json
from ..remote.checkpoints import last_checkpoint, with_last
from ..transfer.checkpoint import DETECTOR_TYPE, checked_config, find_folder
from ..transfer.import_ import IMPORT_RECORD
from ..viz import read_log
from .markdown import is_number, one_line

ARGUMENTS_FILE = "training_arguments.json"
SUMMARY_FILE = "log_summary.json"
NOT_PUBLISHED = ("broken",)
"""Entries of the log that stay here: names of files."""

_WHOLE_MODELS = ("MCLForPreTraining", "MCLForSupervisedPreTraining")
_CONFIGS: dict[str, type[PreTrainedConfig]] = {kind.model_type: kind for kind in (MCLConfig, MCLDetectorConfig)}
_SIGNS_OF_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, TemplateError)


@contextmanager
def one_line_if_damaged(place: Path) -> Iterator[None]:
    """Records are read as this library writes them; where one cannot be read so, it was not written so."""
    try:
        yield
    except InputError:
        raise
    except _SIGNS_OF_DAMAGE as error:
        raise InputError(f"{place} is damaged: {type(error).__name__} {one_line(error)[:200]}") from error


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A model and what is known of it."""

    name: str  # of its folder, from the run's folder on: `my-run`, `my-run/checkpoints/step-00000100`
    folder: Path  # that holds its weights
    run_folder: Path  # that holds its run; the same for a finished model
    config: dict[str, Any]  # config.json, with defaults for what it leaves out
    state: TrainingState | None = None  # of the run, where one is recorded
    step: int | None = None  # optimizer steps behind these weights; None without a run
    log: list[dict[str, Any]]  # up to that step, or where the run is not recorded, up to that of the folder's name
    imported: dict[str, Any] | None = None  # what `mcl-hf import` wrote of its source

    @property
    def detector(self) -> str | None:
        """Kind of a detector; None for a pre-training model."""
        is_detector = self.config["model_type"] in (DETECTOR_TYPE, *TRANSFORMERS_DETECTORS)
        return str(self.config["detector"]) if is_detector else None

    @property
    def supervised(self) -> bool:
        """Whether it was pre-trained by classification."""
        return self.arguments.get("objective") == "supervised"

    @property
    def places(self) -> list[Path]:
        """Folders that hold these very weights: its own, and the run's where they are those that the run ended with."""
        ended = self.detector is None and self.state is not None and self.step == self.state.max_steps
        return [self.folder, self.run_folder] if ended and self.folder != self.run_folder else [self.folder]

    @property
    def arguments(self) -> dict[str, Any]:
        """Options of the run."""
        return {} if self.state is None else self.state.arguments

    @property
    def probed(self) -> list[dict[str, Any]]:
        """Lines of the log with a probe that the run made of itself."""
        return [line for line in self.log if any(name.startswith("probe/") for name in line)]

    @property
    def finished(self) -> bool:
        """Whether the run went as far as it was meant to go."""
        return self.state is not None and (
            self.step == self.state.max_steps or self.folder == self.run_folder or self.folder.name == "pretraining"
        )


def whole_class(config: dict[str, Any]) -> str | None:
    """Which class a config.json names that has more than the online network; None where it names none."""
    return next((name for name in config.get("architectures") or [] if name in _WHOLE_MODELS), None)


def read_recorded(folder: Path) -> Recorded:
    """Everything that is known of the model in a folder: of a run, its `pretraining/` or `best/`, a checkpoint, a
    fine-tuned detector, an imported checkpoint. A run that has not finished gives its last checkpoint.

    Raises:
        InputError: no model of ours there, or a record that cannot be read or is damaged.
    """
    folder = with_last(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: a card is written of a run, a checkpoint or a detector here")
    found, config = find_folder(str(folder))
    weights = found.resolve()
    kind = _CONFIGS.get(str(config.get("model_type")))
    if kind is None and config.get("model_type") not in TRANSFORMERS_DETECTORS:
        raise InputError(f"{folder} is no model of mcl_hf: its config.json has model_type {config.get('model_type')!r}")
    around, state = run_folder(weights), read_state(weights)
    if state is None:
        last = step_of(weights)
    else:  # of the best evaluation for `best/`, and for a finished detector that could end early
        best = weights.name == "best" or (weights == around and is_best_chosen(state))
        last = int(state.best["eval_step"]) if best and "eval_step" in state.best else state.step
    within = weights.relative_to(around).as_posix()
    imported = None
    if (weights / IMPORT_RECORD).is_file():
        with one_line_if_damaged(weights / IMPORT_RECORD):
            imported = dict(read_json(weights / IMPORT_RECORD))
    return Recorded(
        name=around.name if within == "." else f"{around.name}/{within}",
        folder=weights,
        run_folder=around,
        config=_of_transformers(config, found) if kind is None else checked_config(kind, config, found).to_dict(),
        state=state,
        step=None if state is None else last,
        log=_read_run_log(around, None if last < 0 else last),
        imported=imported,
    )


def _of_transformers(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A detector of transformers as cards read detectors: its kind, and its backbone where that is one of ours."""
    backbone = description.get("backbone_config")
    if not isinstance(backbone, dict) or not isinstance(description.get("id2label"), dict):
        raise InputError(f"{folder / 'config.json'} cannot be used: it lacks a backbone_config or id2label")
    name = str(backbone.get("backbone", backbone.get("model_type")))
    return {**description, "detector": description["model_type"], "backbone": name, "num_channels": 3}


def read_state(folder: Path) -> TrainingState | None:
    """The record of the run that a model came of; None where nothing is recorded (an imported checkpoint)."""
    folder = folder.resolve()
    run = run_folder(folder)
    places = (folder, run, last_checkpoint(run))
    holder = next((place for place in places if place is not None and (place / RECORD).is_file()), None)
    return None if holder is None else read_training_state(holder)


def run_folder(folder: Path) -> Path:
    """The folder of the run around one of its models."""
    if folder.parent.name == "checkpoints":
        return folder.parent.parent
    return folder.parent if folder.name in ("pretraining", "best") else folder


def _read_run_log(run: Path, last: int | None) -> list[dict[str, Any]]:
    """The log of a run's folder up to a step; empty where there is none."""
    path = run / LOG
    lines = read_log(path) if path.is_file() and path.stat().st_size else []
    return [line for line in lines if last is None or line["step"] <= last]


def numbers(log: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The finite numbers that a log has under a name."""
    return [line[name] for line in log if is_number(line.get(name))]


# --- what a release tells programs ------------------------------------------------------------------------------------


def write_run_record(source: Path, state: TrainingState, folder: Path) -> None:
    """Write options of the run behind a model, and a summary of its log, into a folder."""
    log = _read_run_log(run_folder(source.resolve()), state.step)
    lines = [{name: value for name, value in line.items() if name not in NOT_PUBLISHED} for line in log]
    speeds = numbers(lines, "images_per_second")
    losses = [line for line in lines if is_number(line.get("loss"))]
    best = min(losses, key=lambda line: line["loss"], default=None)
    arguments = {
        "task": state.task,
        "arguments": without_private_parts(state.arguments),
        "world_size": state.world_size,
        "global_batch_size": state.global_batch_size,
        "max_steps": state.max_steps,
        "num_images": state.data.get("num_images"),
        "data_fingerprint": state.data.get("fingerprint"),
        "versions": state.versions,
    }
    summary = {
        "steps": state.step,
        "images_seen": state.images_seen,
        "seconds": state.seconds,
        "broken_images": state.broken_images,
        "lines": len(lines),
        "lowest_loss": None if best is None else {"step": best["step"], "loss": best["loss"]},
        "median_images_per_second": statistics.median(speeds) if speeds else None,
        "health": [line["health"] for line in lines if line.get("health")],
        "first": lines[0] if lines else None,
        "last": lines[-1] if lines else None,
    }
    for name, content in ((ARGUMENTS_FILE, arguments), (SUMMARY_FILE, summary)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def without_private_parts(value: Any) -> Any:
    """Texts as they may be published, in any nesting: of whatever is a path here, or looks like one, its last part;
    `/home/me/photos` is `photos`, `https://me:key@host/a.tar?sig=1` is `https://host/a.tar`."""
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
