"""Named recipes: one flat YAML file for every run that has a name, shipped as package data.

Where it sits: a command's `--recipe NAME_OR_FILE` -> `load_recipe` -> a dict of that command's options, before the
overrides of the command line. The comments in the files say where each number comes from.
"""

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError


def recipe_names() -> list[str]:
    """Names of the recipes that are installed with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load_recipe(name_or_file: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Options of a recipe.

    Args:
        name_or_file: a name of `recipe_names()`, or the path of a YAML file.
        known: names that the command understands; any other key is refused. None skips the check.

    Raises:
        InputError: no such recipe or file, not a flat YAML mapping, or an unknown key (the nearest match is named).
    """
    text, where = _read(str(name_or_file))
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {where} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {where} must be a list of 'option: value' lines")
    if known is not None:
        names = list(known)
        for key in values:
            if key not in names:
                nearest = difflib.get_close_matches(str(key), names, n=1)
                hint = f": did you mean {nearest[0]!r}?" if nearest else ""
                raise InputError(f"recipe {where} has an unknown option {key!r}{hint}")
    return values


def _read(name_or_file: str) -> tuple[str, str]:
    """Text of a recipe and how to call it in a message."""
    if name_or_file in recipe_names():
        return resources.files(__name__).joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8"), name_or_file
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or path.exists():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe file {path} cannot be read: {error}") from error
    nearest = difflib.get_close_matches(name_or_file, recipe_names(), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise InputError(
        f"there is no recipe {name_or_file!r}: {hint}installed are {', '.join(recipe_names())}, or give a YAML file"
    )
