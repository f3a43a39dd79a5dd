"""What was recorded of a model: its configuration, its run, the file that it was imported from. Nothing is guessed.

Where it sits: a folder -> **recorded** (+ results.py for evaluations) -> the card's sections.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from mcl_hf.detection.configuration_detector import MCLDetectorConfig
from mcl_hf.detection.finetune_finish import is_best_chosen
from mcl_hf.detection.transformers_detectors import TRANSFORMERS_DETECTORS
from mcl_hf.errors import InputError
from mcl_hf.hub.run_record import read_run, read_run_log, run_folder
from mcl_hf.hub.shapes import ImportShape
from mcl_hf.models.configuration_mcl import MCLConfig
from mcl_hf.models.weight_files import read_json
from mcl_hf.training.record_check import misfit
from mcl_hf.training.state import TrainingState, step_of
from mcl_hf.transfer.checkpoint import DETECTOR_TYPE, checked_config, find_folder
from mcl_hf.transfer.import_ import IMPORT_RECORD

_WHOLE_MODELS = ("MCLForPreTraining", "MCLForSupervisedPreTraining")
_CONFIGS: dict[str, type[PreTrainedConfig]] = {kind.model_type: kind for kind in (MCLConfig, MCLDetectorConfig)}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A model and what is known of it.

    Attributes:
        name: of its folder, from the run's folder on: `my-run`, `my-run/checkpoints/step-00000100`.
        folder: that holds its weights.
        run_folder: that holds its run; the same for a finished model.
        config: config.json, with defaults for what it leaves out.
        state: of the run; None where none is recorded.
        step: optimizer steps behind these weights; None without a run.
        log: lines of log.jsonl up to that step, or where the run is not recorded, up to that of the folder's name.
        imported: what `mcl-hf import` wrote of its source; None for models of runs.
    """

    name: str
    folder: Path
    run_folder: Path
    config: dict[str, Any]
    state: TrainingState | None
    step: int | None
    log: list[dict[str, Any]]
    imported: dict[str, Any] | None

    @property
    def detector(self) -> str | None:
        """Kind of a detector; None for a pre-training model."""
        is_detector = self.config["model_type"] in (DETECTOR_TYPE, *TRANSFORMERS_DETECTORS)
        return str(self.config["detector"]) if is_detector else None

    @property
    def supervised(self) -> bool:
        """Whether it was pre-trained by classification."""
        return self.state is not None and self.state.arguments.get("objective") == "supervised"

    @property
    def whole_class(self) -> str | None:
        """Class of the whole pre-training model, with target network and predictors, where the folder holds one."""
        return whole_class(self.config)

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
    def finished(self) -> bool:
        """Whether the run went as far as it was meant to go."""
        return self.state is not None and (
            self.step == self.state.max_steps or self.folder == self.run_folder or self.folder.name == "pretraining"
        )


def whole_class(config: dict[str, Any]) -> str | None:
    """Which class a config.json names that has more than the online network; None where it names none."""
    return next((name for name in config.get("architectures") or [] if name in _WHOLE_MODELS), None)


def read_recorded(folder: Path) -> Recorded:
    """Everything that is known of the model in a folder.

    Args:
        folder: a run, its `pretraining/` or `best/`, a checkpoint, a fine-tuned detector, an imported checkpoint. A run
            that has not finished gives its last checkpoint.

    Raises:
        InputError: no model of ours there, or a record that cannot be read or is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: a card is written of a run, a checkpoint or a detector here")
    found, config = find_folder(str(folder))
    weights = found.resolve()
    kind = _CONFIGS.get(str(config.get("model_type")))
    if kind is None and config.get("model_type") not in TRANSFORMERS_DETECTORS:
        raise InputError(f"{folder} is no model of mcl_hf: its config.json has model_type {config.get('model_type')!r}")
    around = run_folder(weights)
    run = read_run(weights)
    step = None if run is None else _step(weights, around, run.state)
    log, last = (read_run_log(around), step_of(weights)) if run is None else (run.log, step)
    within = weights.relative_to(around).as_posix()
    return Recorded(
        name=around.name if within == "." else f"{around.name}/{within}",
        folder=weights,
        run_folder=around,
        config=_of_transformers(config, found) if kind is None else checked_config(kind, config, found).to_dict(),
        state=None if run is None else run.state,
        step=step,
        log=[line for line in log if last is None or last < 0 or line["step"] <= last],
        imported=_imported(weights),
    )


def _of_transformers(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A detector of transformers as cards read detectors: its kind, and its backbone where that is one of ours."""
    backbone = description.get("backbone_config")
    if not isinstance(backbone, dict) or not isinstance(description.get("id2label"), dict):
        raise InputError(f"{folder / 'config.json'} cannot be used: it lacks a backbone_config or id2label")
    name = str(backbone.get("backbone", backbone.get("model_type")))
    return {**description, "detector": description["model_type"], "backbone": name, "num_channels": 3}


def _step(weights: Path, run_folder: Path, state: TrainingState) -> int:
    """Of the best evaluation for `best/` and for a finished detector that could end early, else of the state."""
    best = weights.name == "best" or (weights == run_folder and is_best_chosen(state))
    return int(state.best["eval_step"]) if best and "eval_step" in state.best else state.step


def _imported(weights: Path) -> dict[str, Any] | None:
    path = weights / IMPORT_RECORD
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    reason = misfit(content, ImportShape)
    if reason is not None:
        raise InputError(f"{path} is damaged: {reason}")
    return dict(content)
