"""Scenes as COCO's instances JSON (https://cocodataset.org/#format-data), with a few fields of our own.

Flow: compose | contact -> **annotations** + statistics -> generate.

* An annotation also has ``cutout_id`` (the object's id in the index), ``group`` (what the folds divide) and
  ``visible`` (the part of the object that is neither covered nor outside of the picture, 0 to 1).
* An image also has ``background`` (its place), ``blending`` and ``distractors``, how many unlabelled objects it holds.
* ``info.area_ranges`` names areas (px²) for AP by size. COCO's 32² and 96² px are meant for pictures of 640 px; here
  the bounds are an eighth and three eighths of the scene's side.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from .compose import MIN_VISIBLE_PX, Scene


def area_ranges(size: int) -> dict[str, list[float]]:
    """Bounds of the areas of small, medium and large objects in scenes of ``size`` px, px²."""
    small, medium = (size / 8) ** 2, (3 * size / 8) ** 2
    return {"all": [0, 1e10], "small": [0, small], "medium": [small, medium], "large": [medium, 1e10]}


def encode(visible: np.ndarray) -> dict[str, Any]:
    """Segmentation (run lengths), box ``[x, y, width, height]`` px and area px² of a bool mask ``(S, S)``."""
    encoded = rle.encode(np.asfortranarray(visible.astype(np.uint8)))
    return {
        "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
        "bbox": [float(value) for value in rle.toBbox(encoded)],
        "area": float(rle.area(encoded)),
        "iscrowd": 0,
    }


def scene_record(scene: Scene, classes: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The image entry of a scene and its annotations, without ids and file names.

    What is unlabelled or has fewer than `MIN_VISIBLE_PX` visible pixels gets no annotation.
    """
    annotations = []
    for instance in scene.instances:
        pixels = int(instance.visible.sum())
        if not instance.labelled or pixels < MIN_VISIBLE_PX:
            continue
        row = instance.row
        annotations.append(
            {"category_id": classes.index(row["label"]) + 1, **encode(instance.visible)}
            | {"cutout_id": row["id"], "group": row["group"], "visible": round(pixels / instance.whole_px, 3)}
        )
    size = scene.image.width
    image = {"width": size, "height": size, "background": scene.background["group"], "blending": scene.blending}
    return image | {"distractors": sum(not instance.labelled for instance in scene.instances)}, annotations


def write_annotations(
    path: Path,
    records: Iterable[tuple[str, dict[str, Any], list[dict[str, Any]]]],
    classes: Sequence[str],
    info: dict[str, Any],
) -> dict[str, Any]:
    """Number the records (file name, image entry, annotations), write the JSON and return its content."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, image, found in records:
        images.append({"id": len(images) + 1, "file_name": name, **image})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": images[-1]["id"], **annotation})
    categories = [{"id": number + 1, "name": name, "supercategory": "object"} for number, name in enumerate(classes)]
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return content
