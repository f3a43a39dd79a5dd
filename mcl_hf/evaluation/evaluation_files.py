"""What an evaluation leaves behind: metrics.json, results.json, detections.png, precision_recall.png.

Flow: evaluate -> **evaluation_files**. For `mcl-hf evaluate`, and for fine-tuning when it has evaluated.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations.detection_data import DetectionData, DetectionItem
from ..annotations.masks import MaskSequence
from ..data.decode import BrokenImage
from ..errors import InputError
from ..viz.detections import DrawnImage, DrawnObjects, detections_picture, none_found
from ..viz.precision_recall import precision_recall_picture
from .coco_metrics import RECALLS
from .evaluate import DetectionMetrics, KindMetrics
from .results import Result, by_image, write_results


def write_evaluation(
    folder: Path,
    data: DetectionData,
    results: Sequence[Result],
    metrics: DetectionMetrics,
    about: Mapping[str, Any],
    pictures: int = 8,
    picture_score: float = 0.5,
) -> list[Path]:
    """Write all files and return their paths; curves only where matplotlib is installed.

    Args:
        folder, data, results, metrics: where an evaluation goes, and what it is.
        about: put before the figures in metrics.json: what was evaluated.
        pictures, picture_score: how many images to draw, evenly spread, and the lowest score of what is drawn.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}; choose another --output-dir") from error
    written = [folder / "metrics.json", folder / "results.json"]
    content = {**about, "data": data.source, **metrics.to_json()}
    written[0].write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_results(written[1], results)
    kinds = metrics.kinds.items()
    title = f"{len(data)} images: {', '.join(_summary(name, kind) for name, kind in kinds)}"
    if pictures and len(data):
        written.append(folder / "detections.png")
        detections_picture(drawn_images(data, results, pictures, picture_score), title).save(written[-1])
    if find_spec("matplotlib") is not None:
        panels = {
            f"{name}, IoU {threshold:g}": kind.curves(threshold) for name, kind in kinds for threshold in (0.5, 0.75)
        }
        written.append(folder / "precision_recall.png")
        precision_recall_picture(panels, RECALLS, title).save(written[-1])
    return written


def drawn_images(data: DetectionData, results: Sequence[Result], count: int, score: float) -> list[DrawnImage]:
    """Evenly spread images with their annotations and their predictions from a score on, best first."""
    indices = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int))
    of_image = by_image(results, [data.image_ids[index] for index in indices])
    drawn = []
    for index in indices:
        item = data[int(index)]
        with contextlib.suppress(BrokenImage):  # scored from a file, which needs no pixels
            drawn.append(draw_image(item, data, of_image[item.image_id], score))
    return drawn


def draw_image(
    item: DetectionItem, data: DetectionData, results: Sequence[Result], least: float, title: str = ""
) -> DrawnImage:
    """One image with its annotations and what was found in it from the score `least` on, best first.

    Raises:
        BrokenImage: it does not decode.
    """
    best = sorted(results, key=lambda result: result["score"], reverse=True)
    found = [result for result in best if result["score"] >= least]
    highest = best[0]["score"] if best else None
    note = title + (f"{len(found)} of score {least:g} or more" if found else none_found(least, highest))
    return DrawnImage(item.decode(), item.name, _annotated(item, data), predicted_objects(found, item, data), note)


def _annotated(item: DetectionItem, data: DetectionData) -> DrawnObjects:
    ignored = item.iscrowd | item.difficult
    names = [
        data.category_names[label] + (" (crowd)" if crowd else " (difficult)" if difficult else "")
        for label, crowd, difficult in zip(item.labels, item.iscrowd, item.difficult, strict=True)
    ]
    return DrawnObjects(item.boxes, item.labels, names, item.each_mask() if data.has_masks else None, ignored)


def predicted_objects(found: Sequence[Result], item: DetectionItem, data: DetectionData) -> DrawnObjects:
    """What was found in an image, with its names and scores."""
    label_of = {category: index for index, category in enumerate(data.category_ids)}
    labels = np.array([label_of[result["category_id"]] for result in found], np.int64)
    boxes = np.array([result.get("bbox", (0, 0, 0, 0)) for result in found], np.float64).reshape(-1, 4)
    names = [f"{data.category_names[label]} {r['score']:.2f}" for label, r in zip(labels, found, strict=True)]
    masks = None
    if found and all("segmentation" in result for result in found):
        masks = MaskSequence([result["segmentation"] for result in found], item.height, item.width)
    return DrawnObjects(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), labels, names, masks)


def _summary(name: str, kind: KindMetrics) -> str:
    return f"{name} AP {100 * (kind.figures['AP'] or 0):.1f} %, AP50 {100 * (kind.figures['AP50'] or 0):.1f} %"
