"""Named recipes: one flat YAML file for every run that has a name, shipped as package data, a folder for each task.

Where it sits: a command's `--recipe NAME_OR_FILE` -> `load_recipe` -> a dict of that command's options, before the
overrides of the command line. The comments in the files say where each number comes from.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError, check_known, nearest
from ..given import from_home
from ..yaml_text import load_yaml

TASKS = ("pretrain", "finetune")
_FOLDER = Path(__file__).parent


def recipe_names(task: str = "pretrain") -> list[str]:
    """Names of a task's recipes that are installed with the package."""
    return sorted(path.stem for path in (_FOLDER / task).glob("*.yaml"))


def load_recipe(name_or_file: str, known: Iterable[str] | None = None, task: str = "pretrain") -> dict[str, Any]:
    """Options of a recipe: a name of `recipe_names(task)`, or the path of a YAML file. Keys that are not `known` to the
    command are refused, if those are given. An InputError for no such recipe or file, not a flat YAML mapping, or an
    unknown key (the nearest match is named)."""
    text, where = _read(str(name_or_file), task)
    values = load_yaml(text, f"recipe {where}")
    if not isinstance(values, dict):
        raise InputError(f"recipe {where} must be a list of 'option: value' lines")
    if known is not None:
        check_known(values, list(known), f"recipe {where} has an unknown option")
    return values


def _read(name_or_file: str, task: str) -> tuple[str, str]:
    """Text of a recipe and how to call it in a message."""
    names = recipe_names(task)
    if name_or_file in names:
        return (_FOLDER / task / f"{name_or_file}.yaml").read_text(encoding="utf-8"), name_or_file
    path = Path(from_home(name_or_file))
    if path.suffix in (".yaml", ".yml") or path.exists():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe file {path} cannot be read: {error}") from error
    for other in TASKS:
        if other != task and name_or_file in recipe_names(other):
            raise InputError(
                f"{name_or_file!r} is a recipe of mcl-hf {other}, not of {task}: choose among {', '.join(names)}"
            )
    told = f"{nearest(name_or_file, names)} installed are {', '.join(names)}, or give a YAML file"
    raise InputError(f"there is no recipe {name_or_file!r}: {told.lstrip()}")
