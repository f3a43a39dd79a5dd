"""COCO's figures, from pycocotools (the number of record) or a faster library that gives the same.

Flow: evaluate -> **coco_metrics**. The libraries match and count: each gives the same two arrays, precision
`(T, R, K, A, M)` and recall `(T, K, A, M)` over T = 10 IoU thresholds, R = 101 recalls, K classes, A = 4 ranges of area
and M = 3 limits of detections, from which the figures are read as `COCOeval.summarize` does.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from ..annotations.detection_data import DetectionData
from ..annotations.masks import to_rle
from ..errors import InputError
from .results import Result

Backend = Literal["pycocotools", "faster-coco-eval"]
BACKENDS: dict[str, str] = {"pycocotools": "pycocotools", "faster-coco-eval": "faster_coco_eval"}
"""Name of a back end -> the module to import."""

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve, in its order: s, m and l are objects below 32², up to 96², and above 96² px."""

RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = {"s": 1, "m": 2, "l": 3}


@dataclass(frozen=True)
class CocoArrays:
    """What a back end counted, float64; -1 where there is no object of that class and size."""

    precision: np.ndarray
    recall: np.ndarray

    def figures(self, label: int | None = None) -> dict[str, float | None]:
        """The twelve figures in [0, 1] over all classes, or of one; None where there is no object to find."""
        classes = slice(None) if label is None else slice(label, label + 1)
        precision, recall = self.precision[:, :, classes], self.recall[:, classes]
        return {
            "AP": _mean(precision[:, :, :, 0, 2]),
            "AP50": _mean(precision[:1, :, :, 0, 2]),
            "AP75": _mean(precision[5:6, :, :, 0, 2]),
            **{f"AP{size}": _mean(precision[:, :, :, area, 2]) for size, area in _AREAS.items()},
            **{f"AR{most}": _mean(recall[:, :, 0, limit]) for limit, most in enumerate((1, 10, 100))},
            **{f"AR{size}": _mean(recall[:, :, area, 2]) for size, area in _AREAS.items()},
        }

    def curve(self, label: int, threshold: float = 0.5) -> np.ndarray | None:
        """Precision at each of `RECALLS`, float64 `(101,)`, at an IoU of 0.5, 0.55 ... 0.95; None without objects."""
        values = self.precision[round((threshold - 0.5) / 0.05), :, label, 0, 2]
        return None if values[0] < 0 else values


def count_matches(
    data: DetectionData,
    results: Sequence[Result],
    kind: Literal["bbox", "segm"],
    backend: Backend = "pycocotools",
    class_agnostic: bool = False,
) -> CocoArrays:
    """Match results with annotations, of which crowds are ignored regions, and count.

    Args:
        data, results: the annotations, and checked COCO results.
        kind: boxes or masks, whose sizes are then those of the masks.
        backend: the library that does it.
        class_agnostic: count every class as one, as COCO's `useCats = 0`; K is then 1.

    Raises:
        InputError: the library is not installed.
    """
    module: Any = import_backend(backend)
    truth, found = _coco_inputs(data, results, kind, class_agnostic)
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        COCO, COCOeval = module.COCO, module.COCOeval_faster
    with contextlib.redirect_stdout(io.StringIO()):  # these libraries report their progress by print
        annotated, predicted = COCO(), COCO()
        annotated.dataset, predicted.dataset = truth, {**truth, "annotations": []}
        annotated.createIndex()
        predicted.createIndex()
        if found:  # loadRes looks at the first result
            predicted = annotated.loadRes(found)
        evaluation = COCOeval(annotated, predicted, kind)
        evaluation.evaluate()
        evaluation.accumulate()
    counted = evaluation.eval
    return CocoArrays(np.asarray(counted["precision"], np.float64), np.asarray(counted["recall"], np.float64))


def import_backend(backend: str) -> Any:
    """The library behind a name; an `InputError` where there is none, or it is not installed."""
    if backend not in BACKENDS:
        raise InputError(f"there is no back end {backend!r}: choose from {', '.join(BACKENDS)}")
    try:
        return import_module(BACKENDS[backend])
    except ModuleNotFoundError as error:
        raise InputError(
            f"the back end {backend} is not installed: pip install 'mcl_hf[fast-coco]', or use --backend pycocotools"
        ) from error


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]
    return float(np.mean(counted)) if counted.size else None


def _coco_inputs(
    data: DetectionData, results: Sequence[Result], kind: str, class_agnostic: bool
) -> tuple[dict[str, Any], list[Result]]:
    """Annotations as COCO's JSON and results, with ids of our own: whole numbers from 1 in the order of the data's own.

    COCO's tools take an object of id 0 for unmatched, and the fast ones take no texts as ids. The order is kept because
    it decides which of two equal scores comes first.
    """
    are_numbers = all(isinstance(image_id, int) for image_id in data.image_ids)
    keys: list[Any] = data.image_ids if are_numbers else list(map(str, data.image_ids))
    order = sorted(range(len(data)), key=keys.__getitem__)
    image_number = {data.image_ids[index]: number for number, index in enumerate(order, start=1)}
    label_of = {category: index for index, category in enumerate(data.category_ids)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    columns = data.columns
    for number, index in enumerate(order, start=1):
        width, height = int(data.widths[index]), int(data.heights[index])
        images.append({"id": number, "width": width, "height": height})
        rows = range(columns.offsets[index], columns.offsets[index + 1])
        for row in sorted(rows, key=columns.labels.__getitem__) if class_agnostic else rows:
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 1 if class_agnostic else int(columns.labels[row]) + 1,
                "bbox": columns.bbox[row].tolist(),
                "area": float(columns.areas[row]),
                "iscrowd": int(columns.iscrowd[row]),
            }
            if kind == "segm":
                segmentation = columns.segmentation(row)
                annotation["segmentation"] = to_rle(None, height, width) if segmentation is None else segmentation
            annotations.append(annotation)
    names = ["object"] if class_agnostic else data.category_names
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    truth = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    if class_agnostic:  # as useCats = 0 does: of equal scores in an image, the class with the smaller id comes first
        results = sorted(results, key=lambda result: label_of[result["category_id"]])
    found = []
    for result in results:
        number = image_number[result["image_id"]]
        label = label_of[result["category_id"]]
        entry = {"image_id": number, "category_id": 1 if class_agnostic else label + 1, "score": result["score"]}
        if kind == "bbox":
            entry["bbox"] = result["bbox"]
        else:  # without the box, so that small and large are told by the mask's size
            size = images[number - 1]
            entry["segmentation"] = to_rle(result["segmentation"], size["height"], size["width"])
        found.append(entry)
    return truth, found
