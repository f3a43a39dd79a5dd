"""AP of detections by size, by blending and by group, and its replicates when groups are drawn again.

Flow: scenes + detections (COCO results) -> **group_scores** -> detect_job -> statistics.

The matching is pycocotools'; what is added is what is counted over. An object belongs to a group (a cut-out and its
variants), and a fold's test split has a few groups of each class, each in many scenes. So scenes are no independent
observations, groups are, and a bootstrap must draw groups (cluster bootstrap: Davison and Hinkley, "Bootstrap Methods
and their Application", 1997, section 3.8; Field and Welsh, JRSS-B 69, 2007). AP is no mean over objects, so it is
computed anew for every draw: an object counts as often as its group was drawn, a detection that was matched to it
likewise, and one that was matched to nothing counts once, since the scenes are what they are. With every group drawn
once this is COCO's AP to the last bit. Draws depend on the fold alone, not on the arm, so that replicates of two arms
are paired.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcl_hf.detection.evaluate import evaluate_detections
from mcl_hf.detection.results import Result

from .scene_groups import Scenes

REPLICATES = 200
SIZES = {"small": (0.0, 0.125), "medium": (0.125, 0.25), "large": (0.25, float("inf"))}
"""Square root of an object's area as a share of the scene's side; COCO's sizes in px say nothing of small scenes."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Matches:
    """Detections of one class, best first, over all scenes; T IoU thresholds, D detections, G objects.

    Attributes:
        matched: `(T, D)` index of the object that each was matched to, -1 for none.
        groups: `(G,)` index of each object's group.
        names: of the groups.
    """

    matched: np.ndarray
    groups: np.ndarray
    names: list[str]


def score(scenes: Scenes, results: Sequence[Result], masks: bool, fold: int) -> dict[str, Any]:
    """All figures of one evaluation, in [0, 1].

    Args:
        scenes: annotations.
        results: detections.
        masks: whether to score masks as well as boxes.
        fold: decides on the draws.

    Returns:
        "box" and "mask": {"AP", "AP50", "AP75", "agnostic": AP with one class, "sizes", "blending", "per_class",
        "groups": group -> [objects, mean recall over IoU thresholds], "replicates"}.
    """
    metrics = evaluate_detections(scenes.data, list(results), masks=masks)
    found = {}
    for name, kind, whole in (("box", "bbox", metrics.box), ("mask", "segm", metrics.mask)):
        if whole is None:
            continue
        matches = match(scenes, results, kind)
        found[name] = {
            **{figure: whole.figures[figure] for figure in ("AP", "AP50", "AP75", "AR100")},
            "agnostic": whole.class_agnostic["AP"],
            "sizes": _by_size(scenes, results, kind),
            "blending": _by_blending(scenes, results, kind),
            "per_class": {label: figures["AP"] for label, figures in whole.per_class.items()},
            "groups": _by_group(matches),
            "replicates": replicates(matches, fold),
        }
    return found


def match(scenes: Scenes, results: Sequence[Result], kind: str) -> list[Matches]:
    """Match detections of every class that has objects."""
    evaluation, annotations = _evaluate(scenes, results, kind)
    of_class: dict[int, list[dict[str, Any]]] = {}
    for entry in evaluation.evalImgs:
        if entry is not None:
            of_class.setdefault(entry["category_id"], []).append(entry)
    found = []
    for category in sorted(of_class):
        entries = of_class[category]
        members = {ann["id"]: ann["group"] for ann in annotations if ann["category_id"] == category}
        if not members:
            continue
        position = {annotation: index for index, annotation in enumerate(members)}
        names = sorted(set(members.values()))
        groups = np.array([names.index(group) for group in members.values()])
        scores = np.concatenate([entry["dtScores"] for entry in entries])
        order = np.argsort(-scores, kind="mergesort")  # pycocotools' own, stable as Matlab's
        ids = np.concatenate([entry["dtMatches"] for entry in entries], axis=1)[:, order].astype(int)  # (T, D)
        matched = np.vectorize(position.get, otypes=[int])(ids, -1) if ids.size else np.zeros(ids.shape, int)
        found.append(Matches(matched, groups, names))
    return found


def weighted_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP (mean over thresholds) with groups weighted.

    Args:
        matches: of one class.
        weights: `(B, groups)` float, how often each group counts.

    Returns:
        `(B,)`; NaN where no object counts.
    """
    of_object = weights[:, matches.groups]  # (B, G)
    total = of_object.sum(axis=1)  # (B,)
    scores = np.zeros((len(_THRESHOLDS), len(weights)))
    for number, matched in enumerate(matches.matched):
        is_hit = matched >= 0
        hits = np.where(is_hit, of_object[:, np.maximum(matched, 0)], 0.0).cumsum(axis=1)  # (B, D)
        misses = (~is_hit).cumsum()  # (D,)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = hits / total[:, None]
            precision = np.nan_to_num(hits / (hits + misses))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the envelope, as COCO
        for row in range(len(weights)):
            places = np.searchsorted(recall[row], _RECALLS, side="left")
            inside = places < recall.shape[1]
            scores[number, row] = precision[row, places[inside]].sum() / len(_RECALLS)
    return np.where(total > 0, scores.mean(axis=0), np.nan)


def replicates(matches: Sequence[Matches], fold: int, count: int = REPLICATES) -> list[float]:
    """AP over all classes with the groups of each class drawn with replacement, `count` times."""
    values = []
    for number, of_class in enumerate(matches):
        rng = np.random.default_rng([7, fold, number])
        size = len(of_class.names)
        weights = rng.multinomial(size, np.full(size, 1 / size), size=count).astype(float)  # (B, groups)
        values.append(weighted_ap(of_class, weights))
    return [round(float(value), 5) for value in np.nanmean(values, axis=0)] if values else []


def _by_group(matches: Sequence[Matches]) -> dict[str, list[float]]:
    """Group -> [objects, share of them that is found, mean over thresholds]."""
    rows: dict[str, list[float]] = {}
    for of_class in matches:
        found = np.stack([np.isin(np.arange(len(of_class.groups)), matched) for matched in of_class.matched]).mean(
            axis=0
        )  # (G,)
        for number, name in enumerate(of_class.names):
            mine = of_class.groups == number
            before = rows.get(name, [0, 0.0])
            count = before[0] + int(mine.sum())
            rows[name] = [count, round((before[0] * before[1] + float(found[mine].sum())) / count, 5)]
    return dict(sorted(rows.items()))


def _by_size(scenes: Scenes, results: Sequence[Result], kind: str) -> dict[str, float | None]:
    side = float(np.median(np.minimum(scenes.data.widths, scenes.data.heights)))
    ranges = [[(low * side) ** 2, min((high * side) ** 2, 1e10)] for low, high in SIZES.values()]
    evaluation, _ = _evaluate(scenes, results, kind, ranges=ranges)
    precision = _accumulated(evaluation)  # (T, R, K, A, M)
    return {name: _mean(precision[:, :, :, number, -1]) for number, name in enumerate(SIZES)}


def _by_blending(scenes: Scenes, results: Sequence[Result], kind: str) -> dict[str, float | None]:
    found = {}
    for blending in sorted(set(scenes.blending)):
        images = [number + 1 for number, name in enumerate(scenes.blending) if name == blending]
        evaluation, _ = _evaluate(scenes, results, kind, images=images)
        found[blending] = _mean(_accumulated(evaluation)[:, :, :, 0, -1])
    return found if len(found) > 1 else {}


def _evaluate(
    scenes: Scenes,
    results: Sequence[Result],
    kind: str,
    ranges: list[list[float]] | None = None,
    images: list[int] | None = None,
) -> tuple[Any, list[dict[str, Any]]]:
    """pycocotools' matching, and the annotations with their groups; ids are ours, from 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from mcl_hf.detection.coco_metrics import _coco_inputs

    truth, found = _coco_inputs(scenes.data, results, kind, class_agnostic=False)
    order = sorted(range(len(scenes.data)), key=lambda index: scenes.data.image_ids[index])
    groups = [group for index in order for group in scenes.groups[index]]
    annotations = [{**ann, "group": group} for ann, group in zip(truth["annotations"], groups, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth
        annotated.createIndex()
        if found:
            predicted = annotated.loadRes(found)
        else:
            predicted = COCO()
            predicted.dataset = {**truth, "annotations": []}
            predicted.createIndex()
        evaluation = COCOeval(annotated, predicted, kind)
        evaluation.params.areaRng = ranges or [[0, 1e10]]
        evaluation.params.areaRngLbl = [str(number) for number in range(len(evaluation.params.areaRng))]
        evaluation.params.maxDets = [100]
        evaluation.params.imgIds = images or evaluation.params.imgIds
        evaluation.evaluate()
    return evaluation, annotations


def _accumulated(evaluation: Any) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None
