"""Pre-training of one arm, and the start folder that probes and detectors open.

Flow: arms + scales -> **pretrain_job** -> WORK/pretrain-.../ (the finished model) -> `make_start` -> probe_job,
detect_job.

Every arm's start is made in the same way: a new model by the seed, the arm's parts of its pre-training put into it, and
then batch-norm statistics made anew from the training scenes (without their labels). So a random start is not hampered
by statistics that nothing has set, and no arm profits from having seen other images.
"""

import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

import mcl_hf
from mcl_hf.detection.datasets import open_detection_data
from mcl_hf.errors import InputError
from mcl_hf.models import MCLConfig, MCLImageProcessor, MCLModel
from mcl_hf.probe.object_probe import ObjectProbe
from mcl_hf.probe.region_features import calibrate_norms
from mcl_hf.training.arguments import MODEL_FIELDS, PretrainArguments
from mcl_hf.training.saving import no_progress_bar
from mcl_hf.viz import read_log

from .arms import Arm, find_arm, level_fields
from .controls import MODELS
from .flops import steps_for, training_flops
from .jobs import Bench, Job, check_same, drop, file_hashes, plain_options, read_result, write_result
from .tuning import TRIAL_SHARE, trial_changes

METADATA = "metadata.jsonl"
CALIBRATION_IMAGES = 256
_HEALTH = ("level_losses", "random_losses", "positive_similarity", "negative_similarity", "feature_std",
           "effective_rank", "accuracy", "target_distance", "loss")  # fmt: skip


def pretrain_options(bench: Bench, arm: Arm, fold: int, seed: int, trial: int | None = None) -> dict[str, Any]:
    """Fields of `PretrainArguments` of an arm, its folder left out."""
    scale = bench.scale
    changes = {**scale.tuned.get(arm.tuned_as, {}), **arm.changes}
    if trial is not None:
        changes |= trial_changes(arm.name, trial)
    levels = int(changes.pop("levels", scale.levels))
    options = {
        **scale.pretrain,
        **level_fields(levels),
        "objective": arm.objective,
        "group_column": "group",
        "seed": seed,
        "data": [str(bench.data_of(fold) / "pretrain")],
        **changes,
    }
    if arm.objective == "supervised":
        options |= {"label_column": "label", "group_column": None}  # labels contrast nothing, so nothing is masked
        options.pop("queue_size", None)
    return options


def run_pretraining(bench: Bench, job: Job) -> bool:
    """Pre-train from wherever the job stopped, and write its result; whether it is done (and not stopped)."""
    arm = find_arm(job.arm)
    options = pretrain_options(bench, arm, job.fold, job.seed, job.trial)
    config = PretrainArguments(**options).model_config()
    own = training_flops(config, arm.objective, arm.model)
    mcl = find_arm("mcl")
    reference_options = pretrain_options(bench, mcl, job.fold, job.seed)
    reference = training_flops(PretrainArguments(**reference_options).model_config(), "contrastive")
    batch = int(options["batch_size"])
    visits = bench.visits if job.trial is None else bench.visits // TRIAL_SHARE
    options["max_steps"] = steps_for(visits, batch, arm.budget, own, reference)
    data = file_hashes(bench.data_of(job.fold), [f"pretrain/{METADATA}"])
    check_same(bench, job, options, data)
    folder = bench.work / job.name
    result = mcl_hf.pretrain(
        model_class=MODELS[arm.model] if arm.model else None, output_dir=str(folder), resume="auto", **options
    )
    if result.stopped_by is not None:
        return False
    log = read_log(folder / "log.jsonl")
    seen = result.steps * batch
    write_result(
        bench,
        job,
        plain_options(options),
        data,
        log[-1]["seconds"],
        {
            "steps": result.steps,
            "visits": seen,
            "gflop_a_visit": own / 1e9,
            "gflop": own * seen / 1e9,
            "images_per_second": statistics.median(record["images_per_second"] for record in log[1:] or log),
            "data_wait_share": statistics.median(record["data_wait_share"] for record in log[1:] or log),
            "peak_memory_gib": log[-1]["peak_memory_gib"],
            "health": {name: log[-1][name] for name in _HEALTH if name in log[-1]},
            "warnings": [line for record in log for line in record.get("health", [])],
            "course": [[record["step"], record["loss"]] for record in log[:: max(1, len(log) // 20)]],
        },
    )
    drop(folder, ("config.json", "model.safetensors", "preprocessor_config.json", "log.jsonl", "README.md"))
    return True


def is_pretrained(bench: Bench, job: Job) -> bool:
    """Whether a job is done and its weights are on this machine."""
    return read_result(bench, job) is not None and (bench.work / job.name / "model.safetensors").exists()


def make_start(bench: Bench, name: str, fold: int, seed: int, trial: int | None = None) -> Path:
    """The folder that probes and detectors of an arm open; made where it is not there yet.

    Raises:
        InputError: the arm's pre-training is not on this machine.
    """
    arm = find_arm(name)
    label = f"{name}-f{fold}-s{seed}" + (f"-trial{trial}" if trial is not None else "")
    folder = bench.work / "starts" / label
    if (folder / "config.json").exists():
        return folder
    options = pretrain_options(bench, find_arm("mcl"), fold, seed)  # the levels that are read are MCL's for every arm
    fields = {field: options[field] for field in MODEL_FIELDS if options.get(field) is not None}
    torch.manual_seed(seed)
    model = MCLModel(MCLConfig(**{**fields, "queue_size": 0}))
    if arm.parts:
        source = bench.work / Job("pretrain", arm.source, fold, seed, trial=trial).name
        if not (source / "model.safetensors").exists():
            raise InputError(f"{source} holds no finished pre-training of {arm.source}: run its job first")
        _take_parts(model, MCLModel.from_pretrained(source, dtype=torch.float32), arm)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    calibrate_norms(model, training_scenes(bench, fold, model.config), backbone=True)
    model.to("cpu")
    partial = folder.with_name(f".{label}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with no_progress_bar():
        model.save_pretrained(partial)
    MCLImageProcessor.from_config(model.config).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


@torch.no_grad()
def _take_parts(model: MCLModel, trained: MCLModel, arm: Arm) -> None:
    own, theirs = model.state_dict(), trained.state_dict()
    for name, tensor in own.items():
        if name.split(".")[0] in arm.parts:
            tensor.copy_(theirs[name])


def training_scenes(bench: Bench, fold: int, config: MCLConfig) -> torch.Tensor:
    """uint8 `(N, C, 2S, 2S)`: scenes of the training split, without their labels."""
    data = open_detection_data(
        bench.data_of(fold) / "annotations" / "instances_train.json", check_files=False, skip_broken=True
    )
    return ObjectProbe(data, config, CALIBRATION_IMAGES).images
