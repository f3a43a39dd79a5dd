"""Pascal VOC's average precision at an IoU of 0.5, by its own rules.

Beside coco_metrics, under evaluate. Source: the VOC devkit (VOCevaldet.m, VOCap.m): detections of a class in order of
their scores; each is compared with the object that it overlaps most; that object is found once, a second detection of
it is false; difficult objects count neither way.
"""

from collections.abc import Sequence

import numpy as np

from ..annotations.detection_data import DetectionData
from .results import Result

THRESHOLD = 0.5


def voc_average_precision(data: DetectionData, results: Sequence[Result]) -> dict[str, list[float | None]]:
    """AP50 of each class, in [0, 1]; None where a class has no object that counts.

    Returns:
        `AP50` by the area under the curve (VOC 2010 and later) and `AP50_11` by eleven points (VOC 2007), K each.
    """
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids)}
    label_of = {category: index for index, category in enumerate(data.category_ids)}
    by_class: list[list[Result]] = [[] for _ in data.category_ids]
    for result in results:
        by_class[label_of[result["category_id"]]].append(result)
    area, eleven = [], []
    for label, found in enumerate(by_class):
        recall, precision = _curve(data, label, found, index_of)
        area.append(None if recall is None else area_under_curve(recall, precision))
        eleven.append(None if recall is None else eleven_point_mean(recall, precision))
    return {"AP50": area, "AP50_11": eleven}


def area_under_curve(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision that is reached at each recall or beyond; `recall` `(n,)` ascending."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def eleven_point_mean(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over the recalls 0, 0.1, ... 1 of the best precision at that recall or beyond."""
    points = np.arange(11) / 10
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in points]))


def _curve(
    data: DetectionData, label: int, found: Sequence[Result], index_of: dict
) -> tuple[np.ndarray | None, np.ndarray]:
    """Recall and precision after each detection, both `(n,)`; recall is None where no object counts."""
    columns = data.columns
    # crowds do not exist in VOC; in other data they count neither way, like difficult objects
    ignored = columns.difficult | columns.iscrowd
    count = int(((columns.labels == label) & ~ignored).sum())
    if not count:
        return None, np.zeros(0)
    taken = np.zeros(len(columns.labels), bool)
    hits, misses = np.zeros(len(found)), np.zeros(len(found))
    for place, result in enumerate(sorted(found, key=lambda result: -result["score"])):
        start, end = columns.offsets[index_of[result["image_id"]] :][:2]
        rows = np.arange(start, end)[columns.labels[start:end] == label]
        overlaps = box_iou(np.asarray(result["bbox"], np.float64), columns.bbox[rows])
        best = int(overlaps.argmax()) if len(rows) else -1
        if best < 0 or overlaps[best] < THRESHOLD:
            misses[place] = 1
        elif not ignored[rows[best]]:
            hits[place], misses[place] = (0, 1) if taken[rows[best]] else (1, 0)
            taken[rows[best]] = True
    hits, misses = np.cumsum(hits), np.cumsum(misses)
    counted = np.maximum(hits + misses, np.finfo(np.float64).eps)
    return hits / count, hits / counted


def box_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of one box `(4,)` with others `(n, 4)`, all x y width height -> float64 `(n,)`."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = box[2:].prod() + others[:, 2:].prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
