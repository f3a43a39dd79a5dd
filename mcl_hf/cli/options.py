"""Command-line flags from an arguments dataclass, so that names, choices and help texts are written once.

Every field becomes `--its-name`; a flag that is not given stays out of the result, so that a recipe's value survives.
Values stay text (bools and JSON apart): the dataclass itself turns them into its types and complains about them.
"""

import argparse
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..engine.options import WHOLE_TEXTS
from ..errors import InputError
from ..recipes import load_recipe, recipe_names
from .command import Parser

_MAPPING_HINT = "write for example '{\"drop_path_rate\": 0.1}'"


def recipe_parser(
    prog: str, description: str, epilog: str, task: str, arguments: type, groups: Mapping[str, str]
) -> Parser:
    """A parser for a run: `--recipe` and one flag for each field of its arguments.

    Args:
        prog: the command, as it is typed.
        description: one sentence.
        epilog: examples.
        task: whose recipes are meant (`mcl_hf.recipes.TASKS`).
        arguments: a dataclass, see `add_flags`.
        groups: see `add_flags`.
    """
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--recipe NAME_OR_FILE] [options]",  # the generated line would fill a screen
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe",
        type=_known_recipe(task),
        metavar="NAME_OR_FILE",
        help=f"options to start from, which the flags below override: {', '.join(recipe_names(task))}, or a YAML file",
    )
    add_flags(parser, arguments, groups)
    return parser


def _known_recipe(task: str) -> Callable[[str], str]:
    """Refuses a recipe that there is not while options are read."""

    def known(name: str) -> str:
        try:
            load_recipe(name, task=task)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return name

    return known


def add_flags(parser: argparse.ArgumentParser, arguments: type, groups: Mapping[str, str]) -> None:
    """Add one flag for each field of a dataclass.

    Args:
        parser: To add them to.
        arguments: A dataclass whose fields carry `metadata["help"]`.
        groups: Title of a group -> the field that it starts with, in the order of the fields.
    """
    hints = typing.get_type_hints(arguments)
    titles = {first: title for title, first in groups.items()}
    group: Any = parser
    for option in dataclasses.fields(arguments):
        if option.name in titles:
            group = parser.add_argument_group(titles[option.name])
        hint = _without_none(hints[option.name])
        origin = typing.get_origin(hint)
        kind: dict[str, Any] = {}
        if hint is bool:
            kind["action"] = argparse.BooleanOptionalAction
        elif origin is Literal:
            kind["choices"] = typing.get_args(hint)
        elif origin is list:
            kind.update(nargs="+", metavar=_metavar(typing.get_args(hint)[0]))
        elif origin is dict:
            kind.update(type=_mapping, metavar="JSON")
        else:
            kind["metavar"] = _metavar(hint)
        group.add_argument(
            f"--{option.name.replace('_', '-')}",
            dest=option.name,
            default=argparse.SUPPRESS,
            help=_help(option),
            **kind,
        )


def given_flags(namespace: argparse.Namespace, arguments: type) -> dict[str, Any]:
    """The dataclass's fields that were given on the command line; lists are split at commas too, but for those of paths
    and the like."""
    names = {option.name for option in dataclasses.fields(arguments)}
    given = {name: value for name, value in vars(namespace).items() if name in names}
    return {
        name: [part for item in value for part in item.split(",") if part]
        if isinstance(value, list) and name not in WHOLE_TEXTS
        else value
        for name, value in given.items()
    }


def _help(option: dataclasses.Field) -> str:
    """The field's text and its default, with percent signs escaped for argparse."""
    text = option.metadata.get("help", "").replace("%", "%%")
    default = option.default
    shown = default is not dataclasses.MISSING and default is not None and not isinstance(default, bool)
    if isinstance(default, bool):
        default, shown = ("on" if default else "off"), True
    return f"{text} (default: {default})" if shown else text


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _metavar(hint: Any) -> str:
    return {int: "N", float: "X", str: "TEXT"}.get(hint, "VALUE")


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error}); {_MAPPING_HINT}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object; {_MAPPING_HINT}")
    return value
