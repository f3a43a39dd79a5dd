"""Options of a run: types, bounds, help texts, and where values come from; pydantic checks them.

Where it sits: recipe file + command line (or keyword arguments) -> `load_options` -> a dataclass of the task
(`PretrainArguments`, the detectors' `FinetuneArguments`) -> its run. The command line is made from the same fields.
"""

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from ..errors import InputError, check_known
from ..given import from_home, plain_value
from ..recipes import load_recipe

EITHER_OR = (("epochs", "max_steps"), ("global_batch_size", "batch_size"))
"""Of each pair only one may be set; an override replaces the recipe's other one."""

_REFUSED = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} or fewer entries",
    "value_error": "{error}",
    "unexpected_keyword_argument": "is no option",
    "missing": "is missing",
}

Precision = Literal["auto", "fp32", "bf16", "fp16"]

T = TypeVar("T", bound="RunOptions")
C = TypeVar("C", bound=type)


def group(title: str) -> Callable[..., Any]:
    """What declares the fields of one group of the command line's help: a function of a field's default, its help text,
    the name of its flag where it is not the field's, and whether a list's items may hold commas and spaces, as paths
    do; further arguments are bounds, as pydantic's `Field` takes them (`ge=1`)."""

    def option(default: Any, help: str, flag: str | None = None, whole: bool = False, **bounds: Any) -> Any:
        about: Any = {"group": title, "flag": flag, "whole": whole}
        return Field(default, description=help, json_schema_extra=about, **bounds)

    return option


@dataclass_transform(kw_only_default=True)
def options_class(kind: C) -> C:
    """Make a subclass of `Options` a dataclass that refuses wrong values with an `InputError` of one line."""
    made: Any = dataclass(kind, kw_only=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
    validated = made.__init__

    @functools.wraps(validated)
    def checked(self: Any, **values: Any) -> None:
        try:
            validated(self, **values)
        except ValidationError as error:
            raise InputError(refusal(error)) from error

    made.__init__ = checked
    return typing.cast(C, made)


def refusal(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: its name, what it must be, and what it is."""
    first = error.errors()[0]
    about: dict[str, Any] = first.get("ctx", {})
    if isinstance(about.get("error"), InputError):  # of a check of several options, which names them
        return str(about["error"])
    if "expected" in about:
        about = {"expected": about["expected"].replace("'", "").replace(" or ", ", ")}
    told = _REFUSED.get(first["type"], first["msg"]).format(**about)
    got = "" if first["type"] in ("value_error", "missing") else f", got {first['input']!r}"
    return f"{first['loc'][0]} {told}{got}"


@options_class
class Options:
    """Base of options: reads what was written, and tells the command line of them."""

    __pydantic_fields__: typing.ClassVar[dict[str, FieldInfo]]

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        return _as_written(value, cls.__pydantic_fields__[str(info.field_name)])

    @classmethod
    def grouped(cls) -> dict[str, dict[str, FieldInfo]]:
        """Title of a group -> name of an option -> its field, with its default and its help text (`description`)."""
        found: dict[str, dict[str, FieldInfo]] = {}
        for name, entry in cls.__pydantic_fields__.items():
            about: Any = entry.json_schema_extra
            found.setdefault(about["group"], {})[name] = entry
        return found


def kind_of(annotation: Any) -> Any:
    """The type of an option, whether or not it may be None."""
    optional = types.NoneType in typing.get_args(annotation)
    return typing.get_args(annotation)[0] if optional else annotation


def is_whole(entry: FieldInfo) -> bool:
    """Whether the items of an option that is a list are not split at commas and spaces."""
    about: Any = entry.json_schema_extra
    return bool(about["whole"])


def _as_written(value: Any, entry: FieldInfo) -> Any:
    """What YAML, the command line and Python give, as what is meant: `none`, fractions, numbers as text, lists as text,
    and what `plain_value` knows."""
    value, kind = plain_value(value), kind_of(entry.annotation)
    if value == "none" and types.NoneType in typing.get_args(entry.annotation):
        return None
    if typing.get_origin(kind) is not list:
        return _one_as_written(value, kind)
    if isinstance(value, str):
        value = [value] if is_whole(entry) else value.replace(",", " ").split()
    if not isinstance(value, list):
        return value
    of_item = typing.get_args(kind)[0]
    if of_item is str:  # such as shares of a run
        value = [str(item) if type(item) in (int, float) else item for item in value]
    return [_one_as_written(item, of_item) for item in value]


def _one_as_written(value: Any, kind: Any) -> Any:
    if isinstance(value, str) and "\0" in value and kind is not Any:
        raise ValueError("holds a NUL character")
    if value == "" and kind in (str, Path):  # an unset variable of a shell would be the current folder, or no start
        raise ValueError("is empty: give a value, or leave it out")
    if kind in (int, float) and isinstance(value, str):
        try:
            return float(Fraction(value)) if kind is float and "/" in value else kind(value)
        except (ValueError, ArithmeticError):
            return value
    if kind in (str, Path) and isinstance(value, str):
        return kind(from_home(value))
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (int, float) and isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"must be a number below 2^63, got one of {value.bit_length()} bits")
    return value


of_place = group("where to and from")
of_data = group("data")
of_network = group("network (left out: the value in brackets)")
of_length = group("length and batch")
of_optimisation = group("optimisation")
of_machine = group("machine")
of_watching = group("saving and watching")


@options_class
class RunOptions(Options):
    """What every run can be told; each task adds its own. A value of the wrong type or out of range, or two that
    contradict each other, are an InputError."""

    # no option: its `name`, or that of its file, or None; and `changed`, the options that differ from it. None where
    # the options were made without `load_options`.
    recipe: typing.ClassVar[dict[str, Any] | None] = None

    output_dir: str | None = of_place(None, "folder of the run: checkpoints, log, pictures and the finished model")
    init: str | None = of_place(
        None, "weights to start from: timm:NAME, a folder or a Hub repository user/name[@revision]"
    )
    resume: str = of_place(
        "never",
        "auto (newest whole checkpoint of output_dir, if any), never, a checkpoint folder, or a Hub repository "
        "user/name[@revision] that holds checkpoints",
    )
    seed: int = of_place(0, "seed of weights, order of images, and whatever else is drawn", ge=0)

    data: Any = of_data(None, "what is trained on", whole=True)
    split: str = of_data("train", "part of the data that is trained on, where its folders or files tell parts apart")
    image_column: str | None = of_data(None, "column that holds the image; found by itself where there is only one")
    allow_outside_paths: bool = of_data(
        False, "take images outside of the data's folder where paths in the data say so"
    )
    max_broken: float = of_data(
        0.01, "share of images (0 to 1) that may be unreadable before the run stops", ge=0, le=1
    )
    num_workers: int = of_data(2, "processes per rank that prepare images; 0 does it in the training process", ge=0)

    backbone: str | None = of_network(None, "timm model with maps at strides 4, 8, 16 and 32 (resnet50)")

    epochs: float | None = of_length(None, "passes over the data; instead of max_steps", gt=0)
    max_steps: int | None = of_length(None, "optimizer steps; instead of epochs", ge=1)
    global_batch_size: int | None = of_length(
        None, "images per optimizer step over all processes and accumulation steps", ge=1
    )
    batch_size: int | None = of_length(None, "images per process and forward pass; instead of global_batch_size", ge=1)
    gradient_accumulation_steps: int = of_length(1, "forward passes per optimizer step; adds no negatives", ge=1)

    optimizer: Any = of_optimisation(None, "what changes the weights")
    warmup_steps: int | None = of_optimisation(
        None, "steps over which the learning rate rises (a tenth of the run)", ge=0
    )

    precision: Precision = of_machine(
        "fp32",
        "arithmetic of the networks; weights stay in fp32. auto is bf16 where the device computes in it, else fp16 or "
        "fp32",
    )
    device: Literal["auto", "cpu"] = of_machine("auto", "auto takes the accelerator where there is one")
    tf32: bool = of_machine(True, "on a GPU, let fp32 products and convolutions round their inputs to TensorFloat-32")
    channels_last: bool = of_machine(True, "keep feature maps in channels-last memory, which is faster")
    activation_checkpointing: bool = of_machine(
        False, "recompute norms and activations of the backbone in the backward pass: same gradients, less memory"
    )

    save_every_steps: int = of_watching(
        1000,
        "steps between checkpoints; 0 saves at the end only. They are written beside training, from a copy in host "
        "memory as large as the checkpoint",
        ge=0,
    )
    keep_last: int = of_watching(3, "checkpoints to keep; 0 keeps all", ge=0)
    keep_every: int = of_watching(
        0, "also keep each checkpoint at a multiple of this many steps for good; 0: none", ge=0
    )
    log_every_steps: int = of_watching(10, "steps between lines of log.jsonl", ge=1)
    report_to: list[str] = of_watching([], "trackers besides log.jsonl: tensorboard, wandb, trackio")
    log_images: bool = of_watching(
        False, "also send pictures of the data to the trackers; they stay in output_dir otherwise"
    )

    def __post_init__(self) -> None:
        for one, other in EITHER_OR:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InputError(f"{one} and {other} are both set: give only one of them")
        if self.keep_every and (not self.save_every_steps or self.keep_every % self.save_every_steps):
            raise InputError(
                f"keep_every {self.keep_every} must be a multiple of save_every_steps ({self.save_every_steps}): only "
                "checkpoints that are written can be kept"
            )


def load_options(
    kind: type[T],
    recipe: str | None,
    overrides: dict[str, Any],
    task: str = "pretrain",
    belongs: Mapping[str, Sequence[str]] | None = None,
) -> T:
    """Options filled from a recipe (name or YAML file) of a task with `overrides` on top. None among them means "not
    given", the text "none" unsets one that may be left out.

    Args:
        kind: of options.
        recipe: None for the defaults.
        overrides: options by name.
        task: whose recipes are meant.
        belongs: an option -> others that describe it, of which the recipe's are dropped where an override changes it.

    Raises:
        InputError: an unknown recipe or option (the nearest match is named), or a value that cannot be used.
    """
    known = [name for entries in kind.grouped().values() for name in entries]
    of_recipe = load_recipe(recipe, known, task) if recipe is not None else {}
    values = dict(of_recipe)
    given = {name: value for name, value in overrides.items() if value is not None}
    check_known(given, known, "unknown option")
    for pair in EITHER_OR:
        for one, other in (pair, pair[::-1]):
            if one in given and other not in given:
                values.pop(other, None)
    options = kind(**{**values, **given})
    fields = kind.__pydantic_fields__
    plain = {name: _as_written(value, fields[name]) for name, value in of_recipe.items()}
    for name, others in (belongs or {}).items():
        # as read: a recipe's text and a command's list of it are the same
        if name in values and name in given and getattr(options, name) != plain[name]:
            options = replace(options, **{other: fields[other].default for other in others if other not in given})
    changed = [name for name in known if getattr(options, name) != plain.get(name, fields[name].default)]
    options.__dict__["recipe"] = {"name": Path(recipe).name if recipe is not None else None, "changed": changed}
    return options


def given_options(arguments: T | None, load: Callable[..., T], recipe: str | None, options: dict[str, Any]) -> T:
    """What a Python call was told, in one of two ways: all `arguments`, or a recipe and options on top of it, which
    `load` makes them of. An InputError for both at once, and what `load` refuses."""
    if arguments is None:
        return load(recipe, **options)
    if recipe is not None or options:
        raise InputError("give either arguments, or a recipe and options, not both")
    return arguments
