"""A detector fine-tuned from one start, and its AP.

Flow: start folder + scenes -> **detect_job** (mcl_hf.finetune) -> group_scores -> results. With a frozen backbone FPN
and heads train, and the question is what the backbone already knows; with full fine-tuning, what a user would get.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcl_hf
from mcl_hf.detection.datasets import open_detection_data
from mcl_hf.detection.evaluate import evaluate_detections
from mcl_hf.detection.predict import open_detector, predict
from mcl_hf.detection.results import to_results
from mcl_hf.viz import read_log

from .group_scores import score
from .jobs import Bench, Job, check_same, drop, file_hashes, plain_options, write_result
from .pretrain_job import make_start
from .scene_groups import open_scenes

FROZEN = 5
"""All stages of the backbone, as detectron2 counts."""


def detect_options(bench: Bench, job: Job) -> dict[str, Any]:
    """Fields of `FinetuneArguments`, start and folder left out."""
    detection = bench.scale.detection(job.detection or "")
    folder = bench.data_of(job.fold) / "annotations"
    options = {**bench.scale.detect, **detection.options}
    if "epochs" in detection.options:
        options.pop("max_steps", None)
    return {
        **options,
        "freeze_at": FROZEN if detection.frozen else 0,
        "frozen_bn": detection.frozen,
        "seed": job.seed,
        "data": str(folder / f"instances_{detection.annotations}.json"),
        "val_data": str(folder / f"instances_{job.split}.json"),
    }


def run_detection(bench: Bench, job: Job) -> bool:
    """Fine-tune from wherever the job stopped, score, and write the result; whether it is done (and not stopped)."""
    options = detect_options(bench, job)
    names = [f"annotations/{Path(options[name]).name}" for name in ("data", "val_data")]
    data = file_hashes(bench.data_of(job.fold), names)
    check_same(bench, job, options, data)
    folder = bench.work / job.name
    start = make_start(bench, job.arm, job.fold, job.seed)
    result = mcl_hf.finetune(init=str(start), output_dir=str(folder), resume="auto", **options)
    if result.stopped_by is not None:
        return False
    scenes = open_scenes(Path(options["val_data"]))
    detections = json.loads((folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
    log = read_log(folder / "log.jsonl")
    found: dict[str, Any] = score(scenes, detections, options["detector"] == "mask_rcnn", job.fold)
    if bench.contact is not None:
        found["contact"] = contact_figures(folder, bench.contact, options["detector"] == "mask_rcnn")
    write_result(
        bench,
        job,
        plain_options(options),
        data,
        log[-1]["seconds"],
        {
            "steps": result.steps,
            "peak_memory_gib": log[-1]["peak_memory_gib"],
            "loss": log[-1]["loss"],
            **found,
        },
    )
    shown = job.fold == 0 and job.seed == 0  # `pictures` draws what the first fold's detectors find
    weights = ("config.json", "model.safetensors", "preprocessor_config.json") if shown else ()
    drop(folder, ("evaluation", "log.jsonl", "README.md", *weights))
    return True


def contact_figures(detector: Path, contact: Path, masks: bool) -> dict[str, float | None]:
    """Class-agnostic AP on the second set, whose objects have no classes.

    Args:
        detector: folder of the finished detector.
        contact: folder of the set, with `annotations/instances_test.json`.
        masks: whether to score masks too.
    """
    data = open_detection_data(contact / "annotations" / "instances_test.json", check_files=False)
    model, processor = open_detector(str(detector))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    classes = np.zeros(len(model.config.id2label), np.int64)  # type: ignore[union-attr, arg-type]  # any class will do
    found = []
    for items in _batches(data, 8):
        found += predict(model, processor, items, classes=classes)
    metrics = evaluate_detections(data, to_results(found, data), masks=masks)
    kinds = {"box": metrics.box, **({"mask": metrics.mask} if metrics.mask is not None else {})}
    return {
        f"{name}/{figure}": kind.class_agnostic[figure] for name, kind in kinds.items() for figure in ("AP", "AP50")
    }


def _batches(data: Any, size: int) -> Iterator[list[Any]]:
    for start in range(0, len(data), size):
        yield [data[index] for index in range(start, min(start + size, len(data)))]
