"""The JSON files beside a run's record that a card reads, by what must be in them: checked once, where each is read.

Where it sits: log.jsonl, imported_from.json, metrics.json, probe.json, comparison.json -> **shapes** -> run_record,
recorded, results. An entry that is only shown, whatever it may be, has no place here. `record_check.misfit` applies
them; the shape of training_state.json is there, too.
"""

import dataclasses
import typing
from typing import Annotated, Any

from pydantic import Field, create_model

from mcl_hf.detection.finetune_arguments import FinetuneArguments
from mcl_hf.errors import InputError
from mcl_hf.training.arguments import PretrainArguments
from mcl_hf.training.record_check import Shape, misfit

_Number = float | None  # None where it was not finite
_ByLevel = list[list[_Number]] | list[_Number]
_NUMBERS = (
    "loss", "seconds", "images_per_second", "data_wait_share", "peak_memory_gib", "grad_norm", "target_distance",
)  # fmt: skip
_BY_LEVEL = (
    "level_losses", "positive_similarity", "negative_similarity", "feature_std", "effective_rank", "accuracy",
)  # fmt: skip
# Written where they were measured only, and then as numbers.
_MEASURED = (
    *(f"probe/{name}" for name in ("knn", "linear", "same_level", "other_level", "chance")),
    *(f"eval/{kind}/{name}" for kind in ("box", "mask") for name in ("AP", "AP50")),
)
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(_NUMBERS, (_Number, None)),
    **dict.fromkeys(_BY_LEVEL, (_ByLevel, [])),
    **dict.fromkeys(_MEASURED, (float, 0.0)),
}
LogLine = create_model(
    "LogLine",
    __base__=Shape,
    step=(int, ...),
    random_losses=(list[list[float]] | list[float], []),
    broken_images=(int | None, None),
    health=(list[str], []),
    **_FIELDS,
)
"""A line of log.jsonl (`mcl_hf.training.tracking`)."""


class ImportShape(Shape):
    """imported_from.json (`mcl_hf.transfer.import_`)."""

    file: str
    sha256: str | None = None
    layout: str
    parts: dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]]
    remarks: list[str] = []


class EvaluationShape(Shape):
    """metrics.json of `mcl-hf evaluate` or of a run's own evaluation."""

    box: dict[str, Any] = {}
    mask: dict[str, Any] = {}
    voc: dict[str, Any] | None = None
    run: str | None = None
    checkpoint: str | None = None
    predictions: str | None = None
    given: str | None = None
    data: str | None = None
    seed: int | None = None


class ComparedDataShape(Shape):
    """What a comparison trained or measured on."""

    images: int
    objects: int
    fingerprint: str


class MeanShape(Shape):
    """A figure of a start with so many labelled images, in percent."""

    start: str
    images: str
    figure: str
    mean: float
    sd: float | None = None
    seeds: list[int] = []


class FindingsShape(Shape):
    """What a comparison found."""

    sentence: str
    means: list[MeanShape]


class ComparisonShape(Shape):
    """comparison.json of `mcl-hf compare`."""

    starts: dict[str, str | None]
    counts: dict[str, int]
    unit: str
    data: dict[str, ComparedDataShape]
    answer: FindingsShape
    inits: dict[str, str | None] = {}
    finetune: str = ""
    warnings: list[str] = []
    failed: dict[str, Any] = {}


class ProbedShape(Shape):
    """Numbers of one kind of probe."""

    images: int
    chance: float
    features: dict[str, dict[str, Any]]


class ProbeShape(Shape):
    """An entry of probe.json: a network."""

    network: str
    objects: ProbedShape | None = None
    views: ProbedShape | None = None


def misfit_of_options(options: dict[str, Any], kind: type[PretrainArguments] | type[FinetuneArguments]) -> str | None:
    """What of a run's recorded options is of another kind than the option takes; those of other releases pass."""
    hints = typing.get_type_hints(kind)
    for option in dataclasses.fields(kind):
        if option.name in options:
            reason = misfit(options[option.name], hints[option.name], f"arguments.{option.name}")
            if reason is not None:
                return reason
    if kind is FinetuneArguments and options.get("lr_milestones"):
        try:
            FinetuneArguments(lr_milestones=options["lr_milestones"])
        except InputError as error:
            return f"arguments.{error}"
    return None
