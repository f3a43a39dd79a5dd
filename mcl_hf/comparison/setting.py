"""Everything that a comparison's jobs share, opened and checked once, before the first one; and what jobs would take.

Flow: plan -> **setting** (starts, labelled) -> compare (jobs, answer).
"""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..annotations.detection_data import DetectionData
from ..data import ImageSource
from ..engine.arithmetic import chosen_device, emulation_warning
from ..engine.finish import duration
from ..errors import InputError
from ..evaluation.coco_metrics import import_backend
from ..finetuning import auto_rules
from ..finetuning.arguments import FinetuneArguments, load_finetune_arguments
from ..finetuning.detector import build_detector
from ..finetuning.rehearsal import rehearse_detector
from ..finetuning.step import other_inputs
from ..finetuning.train_loader import DetectionLoader
from ..finetuning.train_transform import TrainTransform
from ..finetuning.view_scale import object_line
from ..models import MCLModel
from ..pretraining.arguments import load_arguments
from ..pretraining.rehearsal import rehearse
from ..pretraining.run_data import open_data
from .answer import read_primary
from .flops import counting_flops
from .jobs import Job
from .labelled import CompareData, check_apart, check_subsets, open_labelled, without_labels
from .plan import ComparePlan
from .run_job import check_readable
from .starts import (
    MATCHED,
    Pretraining,
    Start,
    in_one_precision,
    other_network,
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
_OF_A_START = {"max_steps", "base_learning_rate"}  # which one start may have otherwise
_GRID = (0.5, 1.0, 2.0)
"""Learning rates that are tried, in terms of the recipe's."""
_MOST = 64
"""Largest batch of a pre-training that is rehearsed: a step must not take minutes."""


@dataclass
class Setting:
    """A plan with its data and starts opened; `open_setting` makes one."""

    plan: ComparePlan
    work: Path
    starts: list[Start]  # of `read_starts`, with weights
    pretrainings: dict[str, Pretraining]  # of `read_starts`, with data and visits
    base: FinetuneArguments  # without gaps but for start, folder, seed, steps and learning rate
    data: CompareData
    source: ImageSource | None  # what is pre-trained on
    rates: list[float]  # grid of learning rates
    lines: list[str]  # about data and starts
    warnings: list[str] = field(default_factory=list)  # about what is less than fair

    @cached_property
    def network(self) -> dict[str, Any]:
        """Fields that make every start the same network."""
        return reference_network(self.starts, self.pretrainings)

    @cached_property
    def fewest(self) -> DetectionData:
        """The first of the smallest subsets."""
        return self.data.subset(self.plan.images[0], self.plan.first_seed, 0)

    def arguments(self, start: Start, steps: int = 1, rate: float | None = None) -> FinetuneArguments:
        """Options of a start's fine-tuning, without folder and seed; pre-trained ones get `init` from their job."""
        own = replace(self.base, init=start.init or "random", init_parts=start.parts or [], max_steps=steps)
        own = replace(own, **{"base_learning_rate": rate or self.rates[0], **(start.finetune or {})})
        return own if start.init is None else with_network(own, self.network, start.init)

    @property
    def plain_arguments(self) -> FinetuneArguments:
        """Options of fine-tuning from a random start of the network that is compared."""
        return self.arguments(Start(name="random", init="random"))

    @cached_property
    def step_flop(self) -> float:
        """Operations of an optimizer step of it, run since the regions looked at follow from the images."""
        torch.manual_seed(0)
        arguments = replace(self.plain_arguments, flip=0.0, augment="off")
        network = build_detector(arguments, self.fewest, None, []).train()
        batch_size, _ = arguments.batch_sizes(1)
        transform = TrainTransform.of(arguments, batch_size, batch_size)
        batch = next(iter(DetectionLoader(self.fewest, transform, batch_size=batch_size, seed=0, num_workers=0)))
        channels = getattr(network.config, "num_channels", 3)
        pixels, draw = batch.pixels[:, :channels].float() / 127.5 - 1, torch.Generator().manual_seed(0)  # (N, C, H, W)
        with counting_flops() as counter:
            network(pixel_values=pixels, **other_inputs(network, batch, draw)).loss.backward()
        return counter.get_total_flops()

    def pretraining_steps(self, pace: Mapping[str, float]) -> dict[str, int]:
        """Optimizer steps of each pre-training: the first one's are the plan's, and the others get as much as it of
        what the plan says. Where that is seconds, `pace` has those of a visit; empty where one is not timed yet."""
        cost: Mapping[str, float] = pace
        if self.plan.equal != "seconds":
            flops = self.plan.equal == "flops"
            cost = {name: own.visit_flop if flops else 1.0 for name, own in self.pretrainings.items()}
        if set(cost) < set(self.pretrainings):
            return {}
        first = next(iter(self.pretrainings), "")
        return {
            name: max(1, round(own.visits * (cost[first] / cost[name]) / own.batch))
            for name, own in self.pretrainings.items()
        }

    @cached_property
    def matched_steps(self) -> int:
        """Steps of fine-tuning that cost as much as the first pre-training."""
        if not self.plan.compute_matched:
            return 0
        first = next(iter(self.pretrainings.values()))
        return round(first.visits * first.visit_flop / self.step_flop)

    @cached_property
    def lengths(self) -> dict[tuple[str, str], int]:
        """(start, images) -> optimizer steps of fine-tuning."""
        found = {}
        for images in self.plan.images:
            steps = self.plan.steps_at(images) or self._auto_steps(images)
            for start in self.starts:
                more = self.matched_steps if start.name == MATCHED else 0
                found[start.name, images] = int((start.finetune or {}).get("max_steps", steps)) + more
        return found

    def _auto_steps(self, images: str) -> int:
        """Steps of a pre-trained start by the rules of `auto`, for every start alike."""
        subset = self.data.subset(images, self.plan.first_seed, 0)
        rule = auto_rules.choose(len(subset), subset.widths, subset.heights, random_start=False)
        return max(1, int(rule["max_steps"] * rule["global_batch_size"] / self.base.batch_sizes(1)[1]))

    def about(self, pace: Mapping[str, float]) -> dict[str, Any]:
        """What the answer records of a setting; see `answer.Answer`."""
        plan, base = self.plan, self.base
        steps = self.pretraining_steps(pace)
        return {
            "starts": {start.name: start.of for start in self.starts},
            "inits": {start.name: start.init for start in self.starts},
            "data": self.data.records,
            "unit": "labelled images" if plan.label_group is None else f"labelled {plan.label_group}s",
            "counts": {images: self.data.count(images) for images in plan.images},
            "lengths": {f"{start} {images}": steps for (start, images), steps in self.lengths.items()},
            "finetune": f"{base.detector}, {base.batch_sizes(1)[1]} images a step, {base.optimizer}, images of "
            f"{base.min_size_test} px, {base.precision}",
            "differs": {start.name: str(start.finetune) for start in self.starts if start.finetune},
            "visits": {name: count * self.pretrainings[name].batch for name, count in steps.items()},
            "unlabelled": None if self.source is None else {
                "images": len(self.source), "fingerprint": self.source.fingerprint,
            },
            "matched_steps": self.matched_steps,
            "warnings": self.warnings,
            "finetune_options": {key: value for key, value in asdict(base).items() if key not in _OF_A_JOB},
        }  # fmt: skip


def open_setting(plan: ComparePlan, work: Path) -> Setting:
    """Open and check everything that jobs would stumble over. Nothing is trained; timm's weights are fetched."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a comparison starts processes of its own: call mcl-hf compare without a launcher")
    starts, pretrainings = read_starts(plan)
    read_primary(plan.primary, [start.name for start in starts], plan.images)
    for name in sorted(_OF_A_JOB & set(plan.finetune or {})):
        raise InputError(f"finetune: {name} is the comparison's to set: see the plan's own fields")
    for start in starts:
        for name in sorted((_OF_A_JOB - _OF_A_START) & set(start.finetune or {})):
            raise InputError(f"start {start.name}: finetune: {name} is the comparison's to set: leave it out")
    given = load_finetune_arguments(plan.recipe, **(plan.finetune or {}))
    import_backend(given.eval_backend)
    data = open_labelled(plan, ["test"] if len(plan.learning_rates) == 1 else ["test", "val"])
    train, test = data.train, data.test
    assert test is not None, "asked for"
    least = check_subsets(plan, data)
    check_readable(test)
    if given.masks and not train.has_masks:
        raise InputError(
            f"{given.detector} learns from masks, and {train.source} has none: set detector faster_rcnn in finetune"
        )
    # the rate that the rules of `auto`, or the published protocol, have for all images
    middle = given.resolved(train.widths, train.heights).base_learning_rate
    assert middle is not None, "filled"
    # without gaps, equal for every start: nothing frozen unless asked for, a whole schedule, AP at its end
    base = replace(
        in_one_precision(given), max_steps=1, epochs=None, init="timm:any", eval_every_steps=0,
        early_stopping_patience=0, freeze_at=given.freeze_at or 0, frozen_bn=bool(given.frozen_bn), data="given",
        resume="auto", keep_last=1,
    )  # fmt: skip
    fewest = data.subset(plan.images[0], plan.first_seed, 0)
    base = replace(base.resolved(fewest.widths, fewest.heights, fewest.has_masks), auto=False)
    batch = base.batch_sizes(1)[1]
    if least < batch:
        raise InputError(
            f"images {plan.images[0]}: {least} image(s) with objects, and a step takes {batch} different ones: "
            "ask for more, or set a smaller batch_size in finetune"
        )
    starts = [with_coco_weights(start, base.detector) for start in starts]
    source, apart = None, None
    if pretrainings:
        unlabelled = plan.unlabelled or [str(without_labels(train, work))]
        first = replace(next(iter(pretrainings.values())).arguments, data=unlabelled)
        source = open_data(first)
        apart = open_data(replace(first, tile=None)) if plan.unlabelled is not None else None
        of_recipe = load_arguments(plan.pretrain_recipe, **(plan.pretrain or {}), data=["photos"])
        views = of_recipe.batch_sizes(1)[1]
        visits = plan.visits or of_recipe.total_steps(len(source), views) * views
        pretrainings = {
            name: replace(own, arguments=replace(own.arguments, data=unlabelled), visits=own.visits or visits)
            for name, own in pretrainings.items()
        }
    rates = plan.learning_rates or [factor * middle for factor in _GRID]
    lines = [train.description, *data.held_out]
    setting = Setting(plan, work, starts, pretrainings, base, data, source, rates, lines)
    _check_starts(setting)
    if source is not None:
        lines.append(source.description)
        _tell_scale(setting)
    runs = [base, *(own.arguments for own in pretrainings.values())]
    slow = [line for run in runs for line in emulation_warning(chosen_device(run.device), run.precision)]
    setting.warnings += [line.removeprefix("warning: ") for line in dict.fromkeys(slow)]
    check_apart(data, apart, work / "image-hashes.json")
    return setting


def _check_starts(setting: Setting) -> None:
    """Open each start that is there already, and name those that are another network."""
    for start in setting.starts:
        if start.finetune:
            setting.warnings.append(f"{start.name} is fine-tuned otherwise: {start.finetune}")
        if start.init is None or start.name == MATCHED:
            continue
        try:
            network = build_detector(setting.arguments(start), setting.data.train, None, setting.lines)
        except InputError as error:
            raise InputError(f"start {start.name}: {error}") from error
        told = other_network(network.config, setting.network, setting.base)
        if told:
            setting.warnings.append(f"{start.name} is another network, not only another start: {told}")


def _tell_scale(setting: Setting) -> None:
    """How large objects are in the views of pre-trainings and in the detector."""
    least, most = setting.base.min_size_test, setting.base.max_size_test
    assert least is not None and most is not None, "filled"
    first = next(iter(setting.pretrainings.values())).arguments
    told: dict[str, list[str]] = {}
    for name, own in setting.pretrainings.items():
        shown = setting.source if setting.plan.unlabelled and own.arguments.tile == first.tile else None
        line = object_line(own.arguments, setting.data.train, least, most, shown)
        told.setdefault(line or "", []).append(name)
    for line, names in told.items():
        kind = setting.warnings if line.startswith("warning: ") else setting.lines
        kind += [f"{', '.join(names)}: {line.removeprefix('warning: ')}"] if line else []


def outlook(setting: Setting, jobs: Sequence[Job]) -> list[str]:
    """What jobs would take: a line for each kind of them, and one with time and disk. Operations are counted, their
    speed here is measured by rehearsing a few steps."""
    steps = setting.pretraining_steps({})  # none of equal seconds, which are not known yet
    counts = Counter(job.kind for job in jobs)
    flop: dict[str, float] = defaultdict(float)
    for job in jobs:
        if job.images:
            flop[job.kind] += setting.step_flop * job.steps
        else:
            own = setting.pretrainings[job.start]
            flop[job.kind] += steps.get(job.start, 0) * own.batch * own.visit_flop
    seconds = 0.0
    if counts["pretrain"]:
        first = next(iter(setting.pretrainings.values()))
        size = min(_MOST, first.arguments.batch_sizes(1)[0])
        visit = rehearse(first.arguments, size, setting.work).seconds / size
        seconds += visit * flop["pretrain"] / first.visit_flop
    if counts["tune"] or counts["test"]:
        arguments = replace(setting.plain_arguments, data=setting.plan.data, images=setting.plan.image_root)
        step = rehearse_detector(arguments, arguments.batch_sizes(1)[0]).seconds
        seconds += step * (flop["tune"] + flop["test"]) / setting.step_flop
    with torch.device("meta"):
        networks = [MCLModel(own.config) for own in setting.pretrainings.values()]
    size = 4 * max((network.num_parameters() for network in networks), default=0)  # bytes
    left_out = "pre-trainings of equal seconds, " if setting.plan.equal == "seconds" else ""
    disk = (counts["pretrain"] + 6 * setting.plan.jobs) * size
    return [
        *(f"{kind:>8}: {count} jobs, {flop[kind] / 1e12:,.0f} TFLOP" for kind, count in counts.items()),
        f"about {duration(seconds)} here, one job after the other and as fast as a few steps just now; {left_out}"
        f"waiting for data and evaluation are not counted; about {disk / 2**20:,.0f} MiB of disk in {setting.work}",
    ]
