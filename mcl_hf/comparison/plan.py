"""`ComparePlan`: everything a comparison can be told, from a flat YAML or the command line, checked before any work.

Flow: **plan** -> starts (what each start is) -> jobs. A run writes its own into its folder as `plan.yaml`.
"""

import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from ..engine.options import Options, group, options_class
from ..errors import InputError, nearest
from ..given import from_home, plain_value
from ..yaml_text import load_yaml

_LISTS = ("starts", "images", "learning_rates", "curve_steps", "scales", "unlabelled")

_place, _data, _compared = group("where to"), group("data"), group("what is compared")
_pretraining, _finetuning = group("pre-training"), group("fine-tuning")


@options_class
class ComparePlan(Options):
    """A comparison of starts; each field's description has its meaning and unit.

    `starts` is a list of names, or a mapping of names to mappings with any of `init` (a start as `finetune` takes it),
    `pretrain` (options of `pretrain`: the comparison pre-trains it, once a seed), `of` (the start whose pre-training
    it shares), `parts` (what is taken of it), `visits` and `finetune` (options that differ for this start alone, which
    the report then says first).

    Raises:
        InputError: a value of the wrong type or out of range.
    """

    output_dir: str | None = _place(None, "folder of the answer: plan, results, report, picture")
    work_dir: str | None = _place(None, "folder of weights and checkpoints while it runs (work/ in output_dir)")
    jobs: int = _place(1, "jobs side by side, each with its share of the cores", ge=1)

    data: str | None = _data(None, "annotated images, as finetune takes them")
    split: str = _data("train", "part of data whose labelled images are used")
    val_data: str | None = _data(None, "annotated images to choose learning rates on (data)")
    val_split: str | None = _data(None, "part of val_data (validation)")
    val_fraction: float | None = _data(
        None,
        "share of the images of data (above 0 and below 1) that is held out in place of a validation split, and "
        "once more as test where data tell no test split; whole groups of label_group",
        gt=0,
        lt=1,
    )
    test_data: str | None = _data(None, "annotated images that are asked once per finished job (data)")
    test_split: str | None = _data(None, "part of test_data (test)")
    image_root: str | None = _data(None, "folder of the images of data, where it is a COCO JSON; likewise")
    val_image_root: str | None = _data(None, "of val_data")
    test_image_root: str | None = _data(None, "of test_data")
    unlabelled: list[str] | None = _data(
        None, "images to pre-train on, as pretrain takes them (the training images without their labels)", whole=True
    )
    label_group: str | None = _data(
        None,
        "key of an image in data that names its group, such as a board or a patient: labelled images are then "
        "counted and drawn by group",
    )

    starts: Any = _compared(
        None, "random, timm:NAME, torchvision:NAME, coco, folders or repositories, mcl, mcl-backbone, image, image-all"
    )
    images: list[str] = _compared(["all"], "numbers of labelled images, ascending, such as 25,100,all")
    seeds: int = _compared(3, "pre-trainings of each start; the unit of every interval", ge=1)
    first_seed: int = _compared(0, "seed of the first", ge=0)
    subsets: int = _compared(
        1, "labelled subsets, each fine-tuned on, for every pre-training; their figures are averaged", ge=1
    )
    figure: Literal["AP", "AP50", "AP75"] = _compared("AP", "figure that differences are made of")
    primary: Any = _compared(
        None,
        "differences that the comparison is for, as [better, other, images]; a list of others stands for the "
        "best of them on validation (every start against the first one, at the fewest images)",
    )
    compute_matched: bool = _compared(
        False, "also give random the compute of the first pre-training as further fine-tuning steps"
    )
    curve_steps: list[int] = _compared(
        [], "further lengths of fine-tuning, each a whole schedule, at the fewest images"
    )
    scales: list[float] = _compared(
        [], "further sizes of the test images, as factors, with the first subset of each seed at the fewest images"
    )

    pretrain_recipe: str | None = _pretraining("mcl-r18-small", "recipe of the pre-trainings")
    pretrain: dict[str, Any] | None = _pretraining(None, "options of pretrain for all of them, on top of it, as JSON")
    visits: int | None = _pretraining(None, "images that the first pre-training sees in all (from its recipe)", ge=2)
    equal: Literal["flops", "steps", "seconds"] = _pretraining(
        "flops", "what pre-trainings get as much of as the first"
    )

    recipe: str | None = _finetuning("auto", "recipe of the detectors")
    finetune: dict[str, Any] | None = _finetuning(None, "options of finetune for all of them, on top of it, as JSON")
    steps: Any = _finetuning(None, "optimizer steps: one number, or one for each of images (by the rules of auto)")
    learning_rates: list[float] = _finetuning(
        [],
        "grid that each start's base_learning_rate is chosen from on validation (a half, one and two times the "
        "recipe's); one number: not chosen",
    )
    tuning_seed: int = _finetuning(1000, "seed of the runs that choose it, which is not used again", ge=0)

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _listed(cls, value: Any, info: ValidationInfo) -> Any:
        """One for a list of it; numbers of images as texts."""
        value = plain_value(value)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            value = [value]
        return [str(item) for item in value] if info.field_name == "images" and isinstance(value, list) else value

    @field_validator("starts", "primary", "steps", mode="before")
    @classmethod
    def _of_text(cls, value: Any, info: ValidationInfo) -> Any:
        """What the command line gives, parted at commas; a start may be a folder whose name has one."""
        value = plain_value(value)
        if not isinstance(value, str):
            return value
        there = os.path.exists(value)  # noqa: PTH110 - a list longer than a file's name may be is no error
        parts: list[Any] = [value] if there else [part for part in value.split(",") if part]
        if info.field_name == "primary":
            return [part.split(":") for part in parts]
        if info.field_name == "steps" and all(part.isdigit() for part in parts):
            parts = [int(part) for part in parts]
            return parts[0] if len(parts) == 1 else parts
        return parts

    def __post_init__(self) -> None:
        if self.val_fraction is not None and (self.val_data is not None or self.val_split is not None):
            raise InputError("val_fraction holds out images of data: give it, or val_data and val_split, not both")
        for name in ("learning_rates", "curve_steps", "scales"):
            values = getattr(self, name)
            if any(not (0 < value < math.inf) for value in values) or len(set(values)) < len(values):
                raise InputError(f"{name} must be different numbers above 0, got {values}")
        if self.first_seed <= self.tuning_seed < self.first_seed + self.seeds:
            raise InputError(f"tuning_seed {self.tuning_seed} is one of the seeds: it must not be used again")
        counts = [math.inf if value == "all" else int(value) if value.isdigit() else 0 for value in self.images]
        if not counts or min(counts) < 1 or counts != sorted(set(counts)):
            raise InputError(
                "images must be ascending numbers above 0, the last of which may be 'all', "
                f"got {', '.join(self.images)}"
            )
        listed = self.steps if isinstance(self.steps, list) else [self.steps] * len(self.images)
        whole = all(step is None or (type(step) is int and step > 0) for step in listed)
        if not whole or len(listed) != len(self.images):
            raise InputError(f"steps must be a number above 0, or one for each of images, got {self.steps}")

    def steps_at(self, images: str) -> int | None:
        """Steps of fine-tuning with so many labelled images; None: by the rules of `auto`."""
        return self.steps[self.images.index(images)] if isinstance(self.steps, list) else self.steps

    @property
    def seed_list(self) -> list[int]:
        """Seeds of the comparison, ascending."""
        return list(range(self.first_seed, self.first_seed + self.seeds))


def load_plan(file: str | Path | None = None, **fields: Any) -> ComparePlan:
    """A plan from a YAML file with `fields` on top; None among them means "not given".

    Relative paths of the file are relative to the current folder, as on the command line.

    Raises:
        InputError: no such file, no YAML, an unknown field (the nearest match is named), or a value that cannot be
            used.
    """
    values: Any = {}
    if file is not None:
        try:
            text = Path(from_home(str(file))).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"plan {file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        values = load_yaml(text, f"plan {file}")
        if not isinstance(values, dict):
            raise InputError(f"plan {file} must be a mapping of fields, such as 'data: my-coco'")
    values |= {name: value for name, value in fields.items() if value is not None}
    known = list(ComparePlan.__pydantic_fields__)
    for name in values:
        if name not in known:
            hint = nearest(name, known)
            raise InputError(f"unknown field {str(name)!r} of a comparison's plan{': ' if hint else ''}{hint}")
    return ComparePlan(**values)
