"""What a comparison consists of: its jobs and their folders, and all that can be wrong with them, before the first one.

Flow: starts, fractions, seeds + FinetuneArguments -> **compare_plan** -> compare.py, which runs the jobs in this order:
one seed of everything first, so that there is something to look at early.

    OUTPUT_DIR/
        comparison_settings.json      what all jobs share; a later call with other options is refused
        START/fraction-F/seed-S/      one job, a fine-tuning run
        START/fraction-F/seed-S.txt   what it printed
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mcl_hf.detection.coco_metrics import import_backend
from mcl_hf.detection.configuration_detector import MCLDetectorConfig
from mcl_hf.detection.detection_data import DetectionData
from mcl_hf.detection.finetune import (
    build_detector,
    fingerprint,
    take_fraction,
    training_data,
    training_record,
    validation_data,
    validation_record,
)
from mcl_hf.detection.finetune_arguments import FinetuneArguments
from mcl_hf.errors import InputError
from mcl_hf.training.resume import output_folder
from mcl_hf.training.state import file_hash
from mcl_hf.training.tracking import check_trackers

SETTINGS = "comparison_settings.json"
# What may differ between two calls that fill one folder: where, how fast and how often, and what a job sets itself.
_FREE = {
    "output_dir", "init", "seed", "data_fraction", "resume", "num_workers", "max_broken", "save_every_steps",
    "keep_last", "keep_every", "log_every_steps", "report_to", "log_images", "eval_batch_size", "eval_backend",
    "data", "split", "images", "val_data", "val_split", "val_images",  # by the data's fingerprints
}  # fmt: skip
_OF_THE_WEIGHTS = {"image_mean", "image_std"}
_OF_THE_NETWORK = sorted(set(MCLDetectorConfig.__annotations__) - {"model_type", "detector", *_OF_THE_WEIGHTS})


@dataclass(frozen=True, eq=False)
class Job:
    """One fine-tuning run of a comparison.

    Attributes:
        start: as it was given.
        fraction: share of the training images, in (0, 1].
        seed: of order, new weights, sampled regions and the choice of images.
        folder: of the run.
        arguments: all of its options.
    """

    start: str
    fraction: float
    seed: int
    folder: Path
    arguments: FinetuneArguments

    @property
    def output(self) -> Path:
        """File of what it prints."""
        return self.folder.with_name(self.folder.name + ".txt")

    def __str__(self) -> str:
        return f"{self.start}, {100 * self.fraction:g} % of the labels, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All jobs in the order in which they run, and lines to print before them.

    Attributes:
        output_dir: of the comparison.
        starts: as they were given.
        fractions: ascending.
        seeds: of every start and fraction.
        jobs: one seed of everything first.
        data: `training` and `validation`, see `finetune.training_record`.
        warnings: what makes the comparison less than fair.
        lines: about data and starts.
    """

    output_dir: Path
    starts: list[str]
    fractions: list[float]
    seeds: list[int]
    jobs: list[Job]
    data: dict[str, dict[str, Any]]
    warnings: list[str]
    lines: list[str]


def make_plan(arguments: FinetuneArguments, starts: Sequence[str], fractions: Sequence[float], seeds: int) -> Plan:
    """Check everything that jobs would stumble over, and list them. Nothing is trained; timm's weights are fetched.

    Raises:
        InputError: one line; see `compare.compare_starts`.
    """
    starts, fractions = list(starts), sorted(fractions)
    _check_given(arguments, starts, fractions, seeds)
    folders = {start: start_folder(start) for start in starts}
    for index, start in enumerate(starts):
        if folders[start] in [folders[other] for other in starts[:index]]:
            raise InputError(f"--compare names {start} twice: a start cannot be compared with itself")
    assert arguments.data is not None, "checked before"
    output_dir = output_folder(arguments.output_dir, [arguments.data])
    _check_folder(output_dir)
    check_trackers(arguments.report_to)
    import_backend(arguments.eval_backend)

    # --- data ---------------------------------------------------------------------------------------------------------
    arguments = replace(arguments, data_fraction=1.0, resume="auto")
    data = training_data(arguments)
    lines = [data.description]
    found: list[str] = []
    val_data = validation_data(arguments, data, found)
    if val_data is None:
        reason = found[-1].removeprefix("warning: AP will not be measured: ")
        raise InputError(f"a comparison measures AP and needs validation data, name --val-data: {reason}")
    if arguments.detector == "mask_rcnn" and not data.has_masks:
        raise InputError(f"mask_rcnn learns from masks, and {data.source} has none: use --detector faster_rcnn")
    lines += found
    same_images = fingerprint(val_data.without_empty()) == fingerprint(data.without_empty())

    # --- starts -------------------------------------------------------------------------------------------------------
    of_start, reports, warnings = _one_network(arguments, starts, data)
    lines += reports
    if same_images:
        warnings.append("AP is measured on the training images, which says little about others")

    # --- jobs ---------------------------------------------------------------------------------------------------------
    jobs, lengths = [], {}
    for seed in range(arguments.seed, arguments.seed + seeds):
        for fraction in fractions:
            part = data if fraction == 1 else take_fraction(data, fraction, seed)
            if part.num_objects.sum() == 0:
                raise InputError(
                    f"--fractions {fraction:g} with seed {seed} takes {len(part)} image(s) without an object: "
                    "use a larger fraction"
                )
            for start in starts:
                folder = output_dir / folders[start] / f"fraction-{fraction:.10g}" / f"seed-{seed}"
                own = replace(of_start[start], output_dir=str(folder), data_fraction=fraction, seed=seed)
                jobs.append(Job(start, fraction, seed, folder, own))
                lengths[start, fraction] = _steps(own, part)
    for fraction in fractions:
        steps = {start: lengths[start, fraction] for start in starts}
        if len(set(steps.values())) > 1:
            told = ", ".join(f"{start} {number:,}" for start, number in steps.items())
            warnings.append(f"starts train for different numbers of steps with {100 * fraction:g} % of labels: {told}")
    records = {"training": training_record(arguments, data), "validation": validation_record(arguments, val_data)}
    settings = {
        "arguments": {name: value for name, value in asdict(arguments).items() if name not in _FREE},
        "training data": records["training"]["fingerprint"],
        "validation data": records["validation"]["fingerprint"],
        "weights": {start: _weights_of(start) for start in starts},
    }
    _check_settings(output_dir, json.loads(json.dumps(settings)))
    all_seeds = list(range(arguments.seed, arguments.seed + seeds))
    return Plan(output_dir, starts, fractions, all_seeds, jobs, records, warnings, lines)


def start_folder(start: str) -> str:
    """The name of a start's folder: distinct for distinct starts, legal on any disk, the same in every call.

    Example:
        >>> start_folder("random"), start_folder("timm:resnet50.a1_in1k")
        ('random', 'timm-resnet50.a1_in1k')
        >>> start_folder("user/name")[:9]
        'user-name'
    """
    if start == "random":
        return start
    timm_name = start.startswith("timm:")
    path = Path(start).expanduser()
    is_path = not timm_name and os.path.exists(path)  # noqa: PTH110 - no error where a name is too long for a file
    whole, plain = (str(path.resolve()), path.resolve().name) if is_path else (start, start)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-. ")[:60].rstrip("-. ")
    if timm_name and name == f"timm-{start.removeprefix('timm:')}" and name == name.lower():
        return name
    return f"{name or 'start'}-{hashlib.blake2b(whole.encode(), digest_size=3).hexdigest()}"


def _check_given(arguments: FinetuneArguments, starts: list[str], fractions: list[float], seeds: int) -> None:
    if arguments.init is not None:
        raise InputError("--init and --compare are both given: --compare names every start itself")
    if arguments.data_fraction != 1:
        raise InputError("--data-fraction and --compare are both given: use --fractions")
    if arguments.resume not in ("never", "auto"):
        raise InputError("--resume PATH and --compare are both given: a comparison goes on by itself where it stopped")
    if arguments.data is None:
        raise InputError("--data is missing: a COCO JSON or folder, VOCdevkit, Cityscapes, parquet or a Hub data set")
    if len(starts) < 2:
        raise InputError(
            f"--compare needs two starts or more, such as random,my-run; got {', '.join(starts) or 'none'}"
        )
    if not fractions:
        raise InputError("--fractions is empty: give shares of the labelled images, such as 0.1,1")
    for fraction in fractions:
        if not (0 < fraction <= 1 and math.isfinite(fraction)):
            raise InputError(f"--fractions must be above 0 and at most 1, got {fraction:g}")
    if len({f"{fraction:.10g}" for fraction in fractions}) < len(fractions):
        raise InputError(f"--fractions names a share twice: {', '.join(f'{value:g}' for value in fractions)}")
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")


def _check_folder(output_dir: Path) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"output_dir {output_dir} is a file: choose a folder")
    there = [path.name for path in output_dir.iterdir() if path.name[0] != "."] if output_dir.is_dir() else []
    if there and SETTINGS not in there:
        raise InputError(
            f"{output_dir} holds something else than a comparison ({', '.join(sorted(there)[:3])}): "
            "choose a new or an empty --output-dir"
        )


def _one_network(
    arguments: FinetuneArguments, starts: list[str], data: DetectionData
) -> tuple[dict[str, FinetuneArguments], list[str], list[str]]:
    """Options of each start, so that all are the same network, with its coverage report; every start is opened here.

    The first start that is a folder or repository decides on the network, else the first of timm; random weights follow
    it in everything, timm's in all that is not the backbone.

    Returns:
        Options by start, reports, and what differs nevertheless.
    """
    first = sorted(starts, key=_rank)[0]
    lines: list[str] = []
    reference = _build(replace(arguments, init=first), data, lines)
    options = {first: replace(arguments, init=first)}
    warnings = []
    for start in starts:
        if start == first:
            continue
        own = replace(arguments, init=start)
        if start == "random":
            if own.backbone is None:
                own = replace(own, backbone=reference.backbone)
            own = replace(own, detector_options=_taken_over(own, reference, [*_OF_THE_NETWORK, *_OF_THE_WEIGHTS]))
        elif start.startswith("timm:"):
            own = replace(own, detector_options=_taken_over(own, reference, _OF_THE_NETWORK))
        config = _build(own, data, lines)
        differing = [name for name in _OF_THE_NETWORK if getattr(config, name) != getattr(reference, name)]
        if differing:
            told = ", ".join(f"{name} {getattr(config, name)} and {getattr(reference, name)}" for name in differing[:3])
            warnings.append(f"{start} and {first} are different networks ({told}), not only different starts")
        options[start] = own
    return options, lines, warnings


def _rank(start: str) -> int:
    return 2 if start == "random" else 1 if start.startswith("timm:") else 0


def _build(own: FinetuneArguments, data: DetectionData, lines: list[str]) -> MCLDetectorConfig:
    """The configuration of a job's detector, after building and filling it as the job will.

    Raises:
        InputError: the start cannot be read, or does not fit the options.
    """
    return build_detector(own.resolved(data.widths, data.heights), data, None, lines).config


def _taken_over(own: FinetuneArguments, reference: MCLDetectorConfig, names: Sequence[str]) -> dict[str, Any]:
    """`detector_options` that make a start without a configuration of its own the network of `reference`."""
    given = dict(own.detector_options or {})
    left = {"backbone", "min_size", "max_size", *given}  # which have options of their own
    if own.init not in ("random", f"timm:{reference.backbone}") and not str(own.init).startswith(
        f"timm:{reference.backbone}."
    ):
        left.add("backbone_kwargs")  # of another backbone
    plain = MCLDetectorConfig(detector=own.detector, backbone=reference.backbone)
    wanted = {name: getattr(reference, name) for name in names if name not in left}
    differing = {name: value for name, value in wanted.items() if getattr(plain, name) != value}
    return {**given, **json.loads(json.dumps(differing))}


def _steps(own: FinetuneArguments, part: DetectionData) -> int:
    """Optimizer steps of a job on its part of the data.

    Raises:
        InputError: a step needs more images than there are.
    """
    resolved = own.resolved(part.widths, part.heights)
    batch, images = resolved.batch_sizes(1)
    if len(part) < batch:
        raise InputError(
            f"--fractions {own.data_fraction:g} leaves {len(part)} image(s), and a step takes {batch} different ones: "
            "use larger fractions, or a smaller --batch-size"
        )
    return resolved.total_steps(len(part), images)


def _weights_of(start: str) -> str | None:
    """A hash of a folder's weights, so that a later call notices other ones; None for names."""
    path = Path(start).expanduser()
    if start == "random" or start.startswith("timm:") or not path.exists():
        return None
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return hashlib.blake2b("".join(map(file_hash, files)).encode(), digest_size=8).hexdigest()


def _check_settings(output_dir: Path, now: dict[str, Any]) -> None:
    """Refuse to mix jobs of different options in one folder, and write down those of this call.

    Raises:
        InputError: naming what changed.
    """
    file = output_dir / SETTINGS
    before: dict[str, Any] = {}
    if file.exists() and any(output_dir.glob("*/fraction-*/seed-*")):
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file} is damaged: choose another --output-dir") from error
    changed = [
        f"{name} {_short(old.get(name))} (now {_short(value)})"
        for old, new in [(before.get(part, {}), now[part]) for part in ("arguments", "weights")]
        for name, value in new.items()
        if name in old and old[name] != value
    ]
    changed += [name for name in ("training data", "validation data") if name in before and before[name] != now[name]]
    if changed:
        raise InputError(
            f"{output_dir} holds jobs with another {', '.join(changed)}: a comparison needs equal conditions; "
            "choose another --output-dir"
        )
    now["weights"] = {**before.get("weights", {}), **now["weights"]}
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(file, now)
    except OSError as error:
        raise InputError(f"output_dir {output_dir} cannot be written: {error.strerror}") from error


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
