"""The command that does again what was recorded, from recipe and options: paths lose their folders.

Beside the flow: card_data -> **run_command** -> training, results.
"""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from ..engine.resume import WITHOUT_INFLUENCE
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.finetune import RULES, TASK
from ..pretraining.arguments import PretrainArguments
from ..recipes import TASKS, recipe_names
from .card_data import Recorded, without_private_parts

_VALIDATION = {"val_data", "val_split", "val_images"}


def whose_recipe(recipe: str) -> str:
    """Whether a recipe is one of this release: another one's options are known to nobody but its owner."""
    if any(recipe in recipe_names(task) for task in TASKS):
        return "ours"
    return "own" if recipe.endswith((".yaml", ".yml")) else "unknown"


def run_command(recorded: Recorded) -> str | None:
    """The command of a run; None without one."""
    state = recorded.state
    if state is None:
        return None
    if state.world_size == 1:
        words = ["mcl-hf finetune" if state.task == TASK else "mcl-hf pretrain"]
    else:
        script = "finetune_detection.py" if state.task == TASK else "pretrain.py"
        words = [f"accelerate launch --num_processes {state.world_size} scripts/{script}"]
    if state.recipe.get("name"):
        words.append(f"--recipe {shlex.quote(state.recipe['name'])}")
    words += [_words(name, value) for name, value in changed_options(recorded).items() if value is not None]
    return " ".join([*words, f"--output-dir {shlex.quote(recorded.run_folder.name)}"])


def changed_options(recorded: Recorded) -> dict[str, Any]:
    """Options that differ from the recipe, or from this release's defaults where none is recorded, without private
    parts."""
    state = recorded.state
    if state is None:
        return {}
    names = state.recipe.get("changed")
    if names is None:
        detector = state.task == TASK
        unnamed = (RULES.without_influence - _VALIDATION) if detector else WITHOUT_INFLUENCE
        defaults = dataclasses.asdict(FinetuneArguments() if detector else PretrainArguments())
        known = {name: value for name, value in state.arguments.items() if name in defaults and name not in unnamed}
        names = [name for name, value in known.items() if value != defaults[name]]
    return {name: without_private_parts(state.arguments[name]) for name in names if name in state.arguments}


def evaluate_command(about: dict[str, Any]) -> str:
    """The `mcl-hf evaluate` behind a metrics.json."""
    words = ["mcl-hf evaluate"]
    if about.get("checkpoint"):
        words.append(shlex.quote(str(without_private_parts(about["checkpoint"]))))
    if about.get("predictions"):
        words.append(f"--predictions {shlex.quote(Path(about['predictions']).name)}")
    words.append(f"--data {shlex.quote(str(without_private_parts(about.get('given') or about.get('data', 'DATA'))))}")
    named = [name for name in ("split", "max_images", "precision") if about.get(name) is not None]
    return " ".join([*words, *(_words(name, about[name]) for name in named)])


def as_text(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, list):
        return " ".join(as_text(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _words(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    if isinstance(value, list):
        return f"--{flag} {' '.join(shlex.quote(as_text(item)) for item in value)}"
    return f"--{flag} {shlex.quote(as_text(value))}"
