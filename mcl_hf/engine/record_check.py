"""What the record of a run holds at every depth, and what is wrong with one that a run cannot have written.

Where it sits: training_state.json -> **record_check** -> `read_training_state` (state.py), so that whoever resumes a
run or writes of it may rely on the kinds named here. `misfit` checks other JSON of ours in the same words.

What an older release did not record may be absent; what a newer one records besides is left alone. The checking is
pydantic's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

_TOLD = {
    "missing": "is missing",
    "model_type": "is not an object",
    "dict_type": "is not an object",
    "list_type": "is not a list",
    "too_short": "has too few entries",
    "too_long": "has too many entries",
    "string_type": "is not a text",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "bool_type": "is not true or false",
    "literal_error": "is not a text",
}


class Shape(BaseModel):
    """Entries of a JSON object and their kinds; nothing is converted, and further entries are left alone."""

    model_config = ConfigDict(strict=True)


class SourceShape(Shape):
    """A source of the data, as `data.licences.describe_sources` has it."""

    kind: str
    name: str
    licence: str | None = None
    weight: float | None = None


class ValidationShape(Shape):
    """What AP was measured on."""

    sources: list[SourceShape] = Field(min_length=1)
    split: str
    num_images: int
    num_objects: int


class DataShape(Shape):
    """What a run was trained on."""

    description: str | None = None
    num_images: int | None = None
    num_objects: int | None = None
    sources: list[SourceShape] | None = None
    validation: ValidationShape | None = None


class RecipeShape(Shape):
    """See `provenance.recipe_record`."""

    name: str | None = None
    changed: list[str] | None = None


class StartShape(Shape):
    """See `provenance.start_record`."""

    kind: str | None = None
    name: str | None = None
    repository: str | None = None
    licence: str | None = None
    run: "StartedRunShape | None" = None


class StartedRunShape(Shape):
    """What is known of the run that a run started from."""

    task: str
    objective: str | None = None
    steps: int
    images_seen: int | None = None
    data: list[str] | None = None
    start: StartShape | None = None


class MachineShape(Shape):
    """See `provenance.machine`."""

    device: str
    kind: str
    cpu: str
    cores: int
    from_step: int
    packages: dict[str, str]
    python: str | None = None


class ChangedShape(Shape):
    """An option that a run was resumed with another value of."""

    before: Any = None
    now: Any = None


class ChangesShape(Shape):
    """See `TrainingState.changes`."""

    from_step: int
    options: dict[str, ChangedShape]


DEEPER: dict[str, Any] = {
    "data": DataShape,
    "recipe": RecipeShape,
    "start": StartShape,
    "machines": list[MachineShape],
    "changes": list[ChangesShape],
}
"""Entries of a run's record that hold more than their own annotation says."""


def shape_of(kind: type, deeper: Mapping[str, Any]) -> type[Shape]:
    """The shape of a dataclass as JSON; each entry may be absent.

    Args:
        kind: the dataclass.
        deeper: field -> shape that takes the place of its annotation.
    """
    hints = {**get_type_hints(kind), **deeper}
    entries: dict[str, Any] = {entry.name: (hints[entry.name], None) for entry in dataclasses.fields(kind)}
    return create_model(f"{kind.__name__}Shape", __base__=Shape, **entries)


def misfit(content: Any, shape: Any, name: str = "") -> str | None:
    """What in parsed JSON is of another kind than its readers take, in a few words; None where all fits.

    Args:
        content: as `json.loads` gives it.
        shape: a `Shape`, or any type that JSON has. The choices of a `Literal` may have been others in another release,
            so any text passes for one.
        name: what to call `content` itself.

    Example:
        >>> misfit({"kind": "files"}, SourceShape), misfit({"sources": [{"kind": 1, "name": "a"}]}, DataShape)
        ('name is missing', 'sources[0].kind is not a text')
    """
    try:
        TypeAdapter(shape).validate_python(content, strict=True)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "literal_error" or not isinstance(one["input"], str)]
        return f"{_place(name, found[0]['loc'])} {_TOLD.get(found[0]['type'], 'does not fit')}" if found else None
    return None


def _place(name: str, parts: tuple[int | str, ...]) -> str:
    """Where an error is: `machines[0].kind`."""
    text = name
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "[" not in part:  # else it is the branch of a union, which no entry is called
            text += f".{part}" if text else part
    return text or "it"
