"""Command-line flags from a task's options, so that names, choices and help texts are written once.

Every option becomes `--its-name`; a flag that is not given stays out of the result, so that a recipe's value survives.
Values stay text (bools and JSON apart): the options themselves turn them into their types and complain about them.
"""

import argparse
import functools
import json
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic.fields import FieldInfo

from ..engine.options import Options, is_whole, kind_of
from ..errors import InputError
from ..recipes import load_recipe, recipe_names
from .command import Parser

T = TypeVar("T", bound=Options)
ARGUMENTS = "arguments"
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_MAPPING_HINT = "write for example '{\"drop_path_rate\": 0.1}'"


def recipe_parser(
    prog: str, description: str, epilog: str, task: str, kind: type[Options], shown: Collection[str] | None = None
) -> Parser:
    """A parser for a run: `--recipe`, of a task of `mcl_hf.recipes.TASKS`, and one flag for each option of its kind, of
    which the help tells of those that are `shown`, None: of all."""
    usage = f"{prog} [--recipe NAME_OR_FILE] [options]"  # the generated line would fill a screen
    parser = Parser(prog=prog, usage=usage, description=description, epilog=epilog)
    names = ", ".join(recipe_names(task))
    parser.add_argument(
        "--recipe", type=functools.partial(_known_recipe, task), metavar="NAME_OR_FILE",
        help=f"options to start from, which the flags below override: {names}, or a YAML file",
    )  # fmt: skip
    add_flags(parser, kind, shown)
    return parser


def _known_recipe(task: str, name: str) -> str:
    """Refuses a recipe that there is not while options are read."""
    try:
        load_recipe(name, task=task)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def read_options(kind: type[T], argv: list[str], **about: str) -> T:
    """The options of a command that has no recipes; `about` it: `prog`, `description`, ... of its parser."""
    parser = Parser(**about)
    add_flags(parser, kind)
    try:
        return kind(**given_flags(parser.parse_args(argv), kind))
    except InputError as error:
        name, _, told = str(error).partition(" ")
        if name not in kind.__pydantic_fields__:
            raise
        raise InputError(f"--{name.replace('_', '-')} {told}") from error


def add_flags(parser: argparse.ArgumentParser, kind: type[Options], shown: Collection[str] | None = None) -> None:
    """Add one flag for each option, in the groups of `kind`; those of the group `ARGUMENTS` have no flag."""
    for title, entries in kind.grouped().items():
        flags = parser if title == ARGUMENTS else parser.add_argument_group(title)
        for name, entry in entries.items():
            reading, text = _reading(kind_of(entry.annotation)), _help(entry)
            if title == ARGUMENTS:
                nargs = reading.get("nargs", None if entry.is_required() else "?")
                parser.add_argument(name, nargs=nargs, default=argparse.SUPPRESS, metavar=name.upper(), help=text)
                continue
            about: Any = entry.json_schema_extra
            names = [f"--{known.replace('_', '-')}" for known in (about["flag"], name) if known]
            told = text if shown is None or name in shown else argparse.SUPPRESS
            flags.add_argument(*names, dest=name, default=argparse.SUPPRESS, help=told, **reading)


def given_flags(namespace: argparse.Namespace, kind: type[Options]) -> dict[str, Any]:
    """The options that were given on the command line; lists are split at commas too, but for those of paths and the
    like."""
    fields = kind.__pydantic_fields__
    given = {name: value for name, value in vars(namespace).items() if name in fields}
    for name, value in given.items():
        if isinstance(value, list) and not is_whole(fields[name]):
            given[name] = [part for item in value for part in item.split(",") if part]
    return given


def _reading(kind: Any) -> dict[str, Any]:
    """How argparse reads an option of a type."""
    origin = typing.get_origin(kind)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        return {"choices": typing.get_args(kind)}
    if origin is list:
        return {"action": "extend", "nargs": "+", **_reading(typing.get_args(kind)[0])}  # `--data A --data B` is both
    if origin is dict:
        return {"type": _mapping, "metavar": "JSON"}
    return {"metavar": _METAVARS.get(kind, "VALUE")}


def _help(entry: FieldInfo) -> str:
    """The option's text and its default, with percent signs escaped for argparse."""
    text = (entry.description or "").replace("%", "%%")
    if entry.is_required():
        return text
    default = ("on" if entry.default else "off") if isinstance(entry.default, bool) else entry.default
    return text if default is None or isinstance(default, list) else f"{text} (default: {default})"


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no JSON ({error}); {_MAPPING_HINT}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object; {_MAPPING_HINT}")
    return value
