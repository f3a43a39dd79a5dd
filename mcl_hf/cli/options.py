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
    """A parser for a run: `--recipe` and one flag for each of its options.

    Args:
        prog: the command, as it is typed.
        description: one sentence.
        epilog: examples.
        task: whose recipes are meant (`mcl_hf.recipes.TASKS`).
        kind: of options.
        shown: names of those that the help tells of; None: all.
    """
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--recipe NAME_OR_FILE] [options]",  # the generated line would fill a screen
        description=description,
        epilog=epilog,
    )
    parser.add_argument(
        "--recipe",
        type=functools.partial(_known_recipe, task),
        metavar="NAME_OR_FILE",
        help=f"options to start from, which the flags below override: {', '.join(recipe_names(task))}, or a YAML file",
    )
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
    """The options of a command that has no recipes; `about` it: `prog`, `description`, ... of its parser.

    Raises:
        InputError: an unknown flag, or a value that cannot be used.
    """
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
    """Add one flag for each option, in the groups of `kind`; those of the group `ARGUMENTS` have no flag. The help
    tells of those that are `shown`, None: of all."""
    for title, entries in kind.grouped().items():
        flags = parser if title == ARGUMENTS else parser.add_argument_group(title)
        for name, entry in entries.items():
            if title == ARGUMENTS:
                nargs, text = _reading(entry).get("nargs", None if entry.is_required() else "?"), _help(entry)
                parser.add_argument(name, nargs=nargs, default=argparse.SUPPRESS, metavar=name.upper(), help=text)
                continue
            about: Any = entry.json_schema_extra
            flags.add_argument(
                *(f"--{known.replace('_', '-')}" for known in (about["flag"], name) if known),
                dest=name,
                default=argparse.SUPPRESS,
                help=_help(entry) if shown is None or name in shown else argparse.SUPPRESS,
                **_reading(entry),
            )


def given_flags(namespace: argparse.Namespace, kind: type[Options]) -> dict[str, Any]:
    """The options that were given on the command line; lists are split at commas too, but for those of paths and the
    like."""
    given = {name: value for name, value in vars(namespace).items() if name in kind.__pydantic_fields__}
    return {
        name: [part for item in value for part in item.split(",") if part]
        if isinstance(value, list) and not is_whole(kind.__pydantic_fields__[name])
        else value
        for name, value in given.items()
    }


def _reading(entry: FieldInfo) -> dict[str, Any]:
    """How argparse reads an option."""
    kind = kind_of(entry.annotation)
    origin = typing.get_origin(kind)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        return {"choices": typing.get_args(kind)}
    if origin is list:
        item = typing.get_args(kind)[0]
        return {"nargs": "+", **({"choices": typing.get_args(item)} if typing.get_origin(item) is Literal else
                                 {"metavar": _METAVARS[item]})}  # fmt: skip
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
