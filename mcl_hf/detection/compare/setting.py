"""Everything that a comparison's jobs share, opened and checked once, before the first one.

Flow: plan -> **setting** (starts, labelled, costs) -> compare (jobs, answer).
"""

import os
import subprocess
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...data import ImageSource
from ...engine.saving import replace_folder
from ...errors import InputError
from ...pretraining.arguments import PretrainArguments, load_arguments
from ...pretraining.run_data import open_data
from ..data.detection_data import DetectionData, FileImages
from ..evaluation.coco_metrics import import_backend
from ..finetuning import auto_rules
from ..finetuning.arguments import FinetuneArguments, load_finetune_arguments
from ..finetuning.view_scale import object_line
from ..models.configuration_detector import LAYOUT, MCLDetectorConfig
from ..models.transformers_detectors import TRANSFORMERS_DETECTORS
from .answer import read_primary
from .costs import equal_steps, step_flop, visit_flop
from .labelled import CompareData, annotated_bytes, check_apart, check_subsets, open_labelled, source_bytes
from .plan import ComparePlan
from .run_job import check_readable
from .starts import (
    MATCHED,
    Pretraining,
    Start,
    brings_network,
    check_opens,
    check_sources,
    read_starts,
    reference_network,
    with_coco_weights,
    with_network,
)

# The comparison's to set in each job; see `ComparePlan`.
_OF_A_JOB = {
    "output_dir", "init", "init_parts", "resume", "seed", "data", "split", "val_data", "val_split", "images",
    "val_images", "data_fraction", "epochs", "max_steps", "eval_every_steps", "early_stopping_patience", "report_to",
    "base_learning_rate",
}  # fmt: skip
_READING = ("image_column", "objects_column", "box_format", "skip_broken", "allow_outside_paths")


@dataclass
class Setting:
    """A plan with its data and starts opened; `open_setting` makes one.

    Attributes:
        plan: what is asked.
        work: folder of weights and checkpoints.
        starts, pretrainings: see `read_starts`.
        base: options of fine-tuning without gaps but for start, folder, seed, steps and learning rate.
        data: annotated images.
        reading: keywords that open them.
        unlabelled: what is pre-trained on, as options of `pretrain`; None without pre-trainings.
        source: the same, opened.
        rates: grid of learning rates.
        warnings: what makes the comparison less than fair.
        lines: about data and starts.
    """

    plan: ComparePlan
    work: Path
    starts: list[Start]
    pretrainings: dict[str, Pretraining]
    base: FinetuneArguments
    data: CompareData
    reading: dict[str, Any]
    unlabelled: list[str] | None
    source: ImageSource | None
    rates: list[float]
    warnings: list[str]
    lines: list[str]

    @cached_property
    def network(self) -> dict[str, Any]:
        """Fields that make every start the same network."""
        return reference_network(self.starts, self.pretrainings)

    def arguments(self, start: Start, images: str, steps: int, rate: float) -> FinetuneArguments:
        """Options of a start's fine-tuning, without folder and seed; pre-trained ones get `init` from their job."""
        own = replace(self.base, max_steps=steps, base_learning_rate=rate, init_parts=list(start.parts))
        own = replace(own, init=start.init or "random", **start.finetune)
        if start.init is None or brings_network(start.init):
            return own
        return with_network(own, self.network, start.init)

    @cached_property
    def visit_flops(self) -> dict[str, float]:
        """Of a visit of an image in each pre-training."""
        return {name: visit_flop(pretraining) for name, pretraining in self.pretrainings.items()}

    def plain_arguments(self) -> FinetuneArguments:
        """Options of fine-tuning from a random start of the network that is compared."""
        return self.arguments(Start("random", "random", None), self.plan.images[0], 1, self.rates[0])

    @cached_property
    def step_flop(self) -> float:
        """Of a step of it."""
        return step_flop(self.plain_arguments(), self._subset(self.plan.images[0]))

    def visits(self) -> dict[str, int]:
        """Visits of each pre-training in terms of the first one, before costs are made equal."""
        first = self.plan.visits or _recipe_visits(self.plan, len(self.source or ()))
        return {name: pretraining.visits or first for name, pretraining in self.pretrainings.items()}

    def pretraining_steps(self, pace: dict[str, float]) -> dict[str, int]:
        """Optimizer steps of each pre-training; `pace` is needed for equal seconds."""
        if not self.pretrainings:
            return {}
        return equal_steps(self.pretrainings, self.visits(), self.visit_flops, self.plan.equal, pace)

    @cached_property
    def matched_steps(self) -> int:
        """Steps of fine-tuning that cost as much as the first pre-training."""
        if not self.plan.compute_matched:
            return 0
        first = next(iter(self.pretrainings))
        flop = self.visits()[first] * self.visit_flops[first]
        return round(flop / self.step_flop)

    def lengths(self) -> dict[tuple[str, str], int]:
        """(start, images) -> optimizer steps of fine-tuning."""
        found = {}
        for images in self.plan.images:
            steps = self.plan.steps_at(images) or _auto_steps(self.base, self._subset(images))
            for start in self.starts:
                own = int(start.finetune.get("max_steps", steps))
                found[start.name, images] = own + (self.matched_steps if start.name == MATCHED else 0)
        return found

    def _subset(self, images: str) -> DetectionData:
        return self.data.subset(images, self.plan.first_seed, 0)


def open_setting(plan: ComparePlan, work: Path) -> Setting:
    """Open and check everything that jobs would stumble over. Nothing is trained; timm's weights are fetched.

    Raises:
        InputError: one line.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a comparison starts processes of its own: call mcl-hf compare without a launcher")
    starts, pretrainings = read_starts(plan)
    check_sources(starts, pretrainings)
    if plan.primary is not None:
        read_primary(plan.primary, [start.name for start in starts], plan.images)
    given = _given(plan)
    import_backend(given.eval_backend)
    reading = {name: getattr(given, name) for name in _READING}
    rates = plan.learning_rates or [
        factor * (given.base_learning_rate or _auto_rate(plan, given, reading)) for factor in (0.5, 1.0, 2.0)
    ]
    parts = ["test", *(["val"] if len(rates) > 1 else [])]
    data = open_labelled(plan, reading, parts)
    check_subsets(plan, data)
    assert data.test is not None, "asked for"
    check_readable(data.test)
    if given.masks and not data.train.has_masks:
        raise InputError(
            f"{given.detector} learns from masks, and {data.train.source} has none: set detector faster_rcnn in "
            "finetune"
        )
    setting = Setting(
        plan,
        work,
        starts,
        pretrainings,
        given,
        data,
        reading,
        None,
        None,
        rates,
        [],
        [data.train.description, *data.held_out],
    )
    setting.base = _filled(given, setting._subset(plan.images[0]))
    setting.starts = [with_coco_weights(start, setting.base.detector) for start in starts]
    _check_starts(setting)
    if pretrainings:
        setting.unlabelled = plan.unlabelled or [str(_training_images(data.train, work / "unlabelled"))]
        setting.source = open_data(_first_arguments(setting))
        setting.lines.append(setting.source.description)
        _tell_scale(setting)
    _check_apart(setting)
    return setting


def _tell_scale(setting: Setting) -> None:
    """How large objects are in the views of pre-trainings and in the detector."""
    least, most = setting.base.min_size_test, setting.base.max_size_test
    assert least is not None and most is not None, "filled"
    first = _first_arguments(setting)
    told: dict[str, list[str]] = {}
    for name, own in setting.pretrainings.items():
        shown = setting.source if setting.plan.unlabelled and own.arguments.tile == first.tile else None
        line = object_line(own.arguments, setting.data.train, least, most, shown)
        told.setdefault(line or "", []).append(name)
    for line, names in told.items():
        kind = setting.warnings if line.startswith("warning: ") else setting.lines
        kind += [f"{', '.join(names)}: {line.removeprefix('warning: ')}"] if line else []


def _first_arguments(setting: Setting) -> PretrainArguments:
    return pretraining_arguments(setting, next(iter(setting.pretrainings.values())))


def pretraining_arguments(setting: Setting, pretraining: Pretraining) -> PretrainArguments:
    """Options of a pre-training on the comparison's images."""
    assert setting.unlabelled is not None, "set where there are pre-trainings"
    return replace(pretraining.arguments, data=setting.unlabelled)


def _given(plan: ComparePlan) -> FinetuneArguments:
    options = dict(plan.finetune or {})
    for name in sorted(_OF_A_JOB & set(options)):
        raise InputError(f"finetune: {name} is the comparison's to set: see the plan's own fields")
    return load_finetune_arguments(plan.recipe, **options)


def _auto_rate(plan: ComparePlan, given: FinetuneArguments, reading: dict[str, Any]) -> float:
    """The rate that the rules of `auto`, or the published protocol, have for the fewest images."""
    train = open_labelled(plan, reading, []).train
    return float(given.resolved(train.widths, train.heights).base_learning_rate or 0.02)


def _filled(given: FinetuneArguments, subset: DetectionData) -> FinetuneArguments:
    """Options without gaps, equal for every start: nothing frozen unless asked for, a whole schedule, AP at its end."""
    own = replace(given, max_steps=1, epochs=None, init="timm:any", eval_every_steps=0, early_stopping_patience=0)
    own = replace(
        own, freeze_at=0 if given.freeze_at is None else given.freeze_at, frozen_bn=bool(given.frozen_bn),
        data="given", resume="auto", keep_last=1,
    )  # fmt: skip
    return replace(own.resolved(subset.widths, subset.heights, subset.has_masks), auto=False)


def _auto_steps(base: FinetuneArguments, subset: DetectionData) -> int:
    """Steps of a pre-trained start by the rules of `auto`, for every start alike."""
    rule = auto_rules.choose(len(subset), subset.widths, subset.heights, random_start=False)
    return max(1, int(rule["max_steps"] * rule["global_batch_size"] / base.batch_sizes(1)[1]))


def _recipe_visits(plan: ComparePlan, images: int) -> int:
    arguments = load_arguments(plan.pretrain_recipe, **(plan.pretrain or {}), data=["photos"])
    batch = arguments.batch_sizes(1)[1]
    return arguments.total_steps(images, batch) * batch


def _check_starts(setting: Setting) -> None:
    """Open each start that is there already, and name those that are another network."""
    wanted = dict(setting.network)
    given = setting.base.detector_options or {}
    names = () if setting.base.detector in TRANSFORMERS_DETECTORS else ("fpn_channels", *LAYOUT)
    plain = {name: getattr(MCLDetectorConfig(), name) for name in names if name not in given}
    for start in setting.starts:
        if start.finetune:
            setting.warnings.append(f"{start.name} is fine-tuned otherwise: {dict(start.finetune)}")
        arguments = setting.arguments(start, setting.plan.images[0], 1, setting.rates[0])
        if start.init is None or start.name == MATCHED:
            continue
        lines, network = check_opens(start, arguments, setting.data.train)
        setting.lines += lines
        own, others = ({**plain, **found} for found in (network, wanted))
        differing = [name for name in ("backbone", *plain) if wanted and own.get(name) != others.get(name)]
        if differing:
            told = ", ".join(f"{name} {own.get(name)} in place of {others.get(name)}" for name in differing)
            setting.warnings.append(f"{start.name} is another network, not only another start: {told}")
    batch = setting.base.batch_sizes(1)[1]
    fewest = len(setting._subset(setting.plan.images[0]))
    if fewest < batch:
        raise InputError(
            f"images {setting.plan.images[0]}: {fewest} image(s) with objects, and a step takes {batch} different "
            "ones: ask for more, or set a smaller batch_size in finetune"
        )


def _check_apart(setting: Setting) -> None:
    """No test image among the others, by content; empty ones may be, since blank tiles are alike."""
    data = setting.data
    assert data.test is not None, "opened"
    test = data.test.without_empty()
    parts: dict[str, Any] = {"test": (_key(test), annotated_bytes(test))}
    parts["training"] = (_key(data.train), annotated_bytes(data.train))
    if data.val is not None:
        parts["validation"] = (_key(data.val), annotated_bytes(data.val))
    if setting.source is not None and setting.plan.unlabelled is not None:
        pictures = open_data(replace(_first_arguments(setting), tile=None))  # each once, whatever they are cut into
        parts["unlabelled"] = (pictures.fingerprint, source_bytes(pictures))
    check_apart(parts, setting.work / "image-hashes.json")


def _key(data: DetectionData) -> str:
    from ..finetuning.finetune import fingerprint

    return f"{data.source} {fingerprint(data)}"


def _training_images(train: DetectionData, folder: Path) -> Path:
    """A folder of the training images without their labels: links to files, or parquet shards of tables' images."""
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():
        path.unlink()
    if isinstance(train.reader, FileImages):
        for index, item in enumerate(train):
            file = Path(train.reader.paths[item.position])
            (partial / f"{index:07d}{file.suffix}").symlink_to(file.resolve())
    else:
        _write_shards(train, partial)
    replace_folder(partial, folder)
    return folder


def _write_shards(train: DetectionData, folder: Path, rows: int = 1000) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, indices in enumerate(np.array_split(np.arange(len(train)), max(1, len(train) // rows))):
        images = [{"bytes": train[int(index)].image_bytes(), "path": train.names[int(index)]} for index in indices]
        pq.write_table(pa.table({"image": images}), folder / f"images-{number:05d}.parquet")


def about_setting(setting: Setting, pace: dict[str, float]) -> dict[str, Any]:
    """What the answer records of a setting; see `answer.Answer`."""
    plan, data = setting.plan, setting.data
    known = plan.equal != "seconds" or set(pace) == set(setting.pretrainings)
    steps = setting.pretraining_steps(pace) if known else {}
    base = setting.base
    return {
        "starts": {start.name: start.pretraining for start in setting.starts},
        "inits": {start.name: start.init for start in setting.starts},
        "data": data.records(),
        "unit": "labelled images" if plan.label_group is None else f"labelled {plan.label_group}s",
        "counts": {images: data.count(images) for images in plan.images},
        "lengths": {f"{start} {images}": steps for (start, images), steps in setting.lengths().items()},
        "finetune": f"{base.detector}, {base.batch_sizes(1)[1]} images a step, {base.optimizer}, images of "
        f"{base.min_size_test} px, {base.precision}",
        "differs": {start.name: str(dict(start.finetune)) for start in setting.starts if start.finetune},
        "visits": {name: steps[name] * own.arguments.batch_sizes(1)[1] for name, own in setting.pretrainings.items()}
        if steps else {},
        "unlabelled": None if setting.source is None else {
            "images": len(setting.source), "fingerprint": setting.source.fingerprint,
        },
        "matched_steps": setting.matched_steps,
        "warnings": setting.warnings,
        "finetune_options": {key: value for key, value in asdict(base).items() if key not in _OF_A_JOB},
    }  # fmt: skip


def commit_of_this() -> str | None:
    """The commit of the checkout that this package runs from, where it is as committed; None otherwise."""
    root = Path(__file__).parents[3]
    try:
        status = subprocess.run(
            ["git", "status", "--porcelain", "--", "mcl_hf"], cwd=root, capture_output=True, text=True, check=True
        )
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if status.stdout.strip() else head.stdout.strip()
