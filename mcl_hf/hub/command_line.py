"""The command that does again what was recorded, from recipe and options: paths lose their folders.

Under results.py and the card's training section.
"""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from mcl_hf.detection.finetune import RULES, TASK
from mcl_hf.hub.recorded import Recorded
from mcl_hf.hub.run_record import options_kind, without_private_parts
from mcl_hf.training.resume import WITHOUT_INFLUENCE

_COMMANDS = {
    False: ("mcl-hf pretrain", "scripts/pretrain.py"),
    True: ("mcl-hf finetune", "scripts/finetune_detection.py"),
}
_VALIDATION = {"val_data", "val_split", "val_images"}


def run_command(recorded: Recorded) -> str | None:
    """The command of a run; None without one."""
    state = recorded.state
    if state is None:
        return None
    alone, several = _COMMANDS[state.task == TASK]
    words = [alone] if state.world_size == 1 else [f"accelerate launch --num_processes {state.world_size} {several}"]
    if state.recipe.get("name"):
        words.append(f"--recipe {shlex.quote(state.recipe['name'])}")
    words += [_words(name, value) for name, value in changed_options(recorded).items() if value is not None]
    words.append(f"--output-dir {shlex.quote(recorded.run_folder.name)}")
    return " ".join(words)


def changed_options(recorded: Recorded) -> dict[str, Any]:
    """Options that differ from the recipe, or from the defaults where there is none, without private parts.

    A run that did not record its recipe gives all that differ from this release's defaults.
    """
    state = recorded.state
    if state is None:
        return {}
    names = state.recipe.get("changed")
    if names is None:
        unnamed = (RULES.without_influence - _VALIDATION) if state.task == TASK else WITHOUT_INFLUENCE
        defaults = dataclasses.asdict(options_kind(state)())
        names = [
            name
            for name, value in state.arguments.items()
            if name in defaults and value != defaults[name] and name not in unnamed
        ]
    return {name: without_private_parts(state.arguments[name]) for name in names if name in state.arguments}


def evaluate_command(about: dict[str, Any]) -> str:
    """The `mcl-hf evaluate` behind a metrics.json."""
    words = ["mcl-hf evaluate"]
    if about.get("checkpoint"):
        words.append(shlex.quote(str(without_private_parts(about["checkpoint"]))))
    if about.get("predictions"):
        words.append(f"--predictions {shlex.quote(Path(about['predictions']).name)}")
    words.append(f"--data {shlex.quote(str(without_private_parts(about.get('given') or about.get('data', 'DATA'))))}")
    for name in ("split", "max_images", "precision"):
        if about.get(name) is not None:
            words.append(_words(name, about[name]))
    return " ".join(words)


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
