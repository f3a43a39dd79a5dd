"""Options as a dataclass: types, help texts and where values come from, for every task's arguments.

Where it sits: recipe file + command line (or keyword arguments) -> `load_options` -> a dataclass of the task
(`PretrainArguments`, the detectors' `FinetuneArguments`) -> its run. Help texts are in each field's metadata, so that
the command line, the documentation and the dataclass cannot drift apart.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from ..errors import InputError
from ..recipes import load_recipe

# Lists whose items may hold commas and spaces, such as paths.
WHOLE_TEXTS = ("data", "data_files", "compare")

T = TypeVar("T", bound="FromRecipe")


class FromRecipe:
    """Base of every task's arguments: where they came from, which is none of the options.

    Attributes:
        recipe: `name` of the recipe, of its file, or None, and `changed`, the options that differ from it; None where
            the arguments were made without `load_options`.
    """

    recipe: dict[str, Any] | None = None


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def set_types(options: Any) -> None:
    """Turn every value of a dataclass into the type that its field declares; to be called by ``__post_init__``.

    Raises:
        InputError: a value of another type, or none of the choices.
    """
    hints = typing.get_type_hints(type(options))
    for entry in dataclasses.fields(options):
        setattr(options, entry.name, _coerce(entry.name, getattr(options, entry.name), hints[entry.name]))


def load_options(
    kind: type[T],
    recipe: str | None,
    overrides: dict[str, Any],
    either_or: Sequence[tuple[str, str]] = (),
    task: str = "pretrain",
    belongs: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> T:
    """A dataclass filled from a recipe (name or YAML file) with `overrides` on top; None among them means "not given".

    Args:
        kind: the dataclass.
        recipe: name or file; None for the dataclass's own defaults.
        overrides: fields by name; the text "none" unsets one that may be left out.
        either_or: pairs of which an override of one drops the recipe's other one.
        task: whose recipes are meant.
        belongs: an option -> others that describe it: where a recipe sets it and an override changes it, the recipe's
            others are dropped.

    Raises:
        InputError: an unknown recipe or field (the nearest match is named), or a value that cannot be used.
    """
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]  # T is a dataclass
    values = load_recipe(recipe, known, task) if recipe is not None else {}
    of_recipe = dict(values)
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            raise InputError(f"unknown option {name!r}" + (f": did you mean {nearest[0]!r}?" if nearest else ""))
    for pair in either_or:
        for one, other in (pair, pair[::-1]):
            if one in given and other not in given:
                values.pop(other, None)
    for name, others in belongs.items():
        if name in values and name in given and values[name] != given[name]:
            values = {key: value for key, value in values.items() if key not in others}
    options = kind(**{**values, **given})
    options.recipe = {
        "name": Path(recipe).name if recipe is not None else None,
        "changed": _changed(options, of_recipe),
    }
    return options


def _changed(options: Any, values: Mapping[str, Any]) -> list[str]:
    """Names of the options that are neither a recipe's values nor, where it has none, the defaults."""
    hints = typing.get_type_hints(type(options))
    plain = {
        entry.name: entry.default_factory() if callable(entry.default_factory) else entry.default
        for entry in dataclasses.fields(options)
    }
    plain |= {name: _coerce(name, value, hints[name]) for name, value in values.items()}
    return [name for name, value in plain.items() if getattr(options, name) != value]


def given_options(arguments: T | None, load: Callable[..., T], recipe: str | None, options: dict[str, Any]) -> T:
    """What a Python call was told, in one of two ways.

    Args:
        arguments: all options as a dataclass, or None.
        load: makes the dataclass of a recipe and options, as `load_arguments`.
        recipe: name or file, or None.
        options: fields on top of it.

    Raises:
        InputError: both ways at once, or what `load` refuses.
    """
    if arguments is None:
        return load(recipe, **options)
    if recipe is not None or options:
        raise InputError("give either arguments, or a recipe and options, not both")
    return arguments


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type that the field declares: YAML reads 1e-3 and 1/32 as text, and ints where floats are
    meant."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None or value == "none":
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is Any:
        return value
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{name} holds a NUL character")
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value
    if origin is list:
        if isinstance(value, str) and name in WHOLE_TEXTS:
            value = [value]
        if isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list, got {value!r}")
        return [_coerce(name, item, typing.get_args(hint)[0]) for item in value]
    if hint is float and not isinstance(value, bool):
        try:
            number = float(Fraction(value)) if isinstance(value, str) else float(value)
            if not math.isfinite(number):
                raise ValueError("not finite")
            return number
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise InputError(f"{name} must be a number, got {value!r}") from error
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is int and isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    if hint is int and isinstance(value, int) and value.bit_length() > 63:
        raise InputError(f"{name} must be a whole number below 2^63, got one of {value.bit_length()} bits")
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        words = {int: "a whole number", str: "text", bool: "true or false", dict: "a mapping", float: "a number"}
        raise InputError(f"{name} must be {words.get(expected, expected)}, got {value!r}")
    return value
