"""Detections of an image, COCO's results JSON, and the results of several processes as those of one.

Flow: predict_data -> **results** -> evaluate. A result is COCO's: a dict with `image_id` and `category_id` (the data
set's own), `bbox` [x, y, width, height] in px, `score`, and with masks `segmentation` as run lengths. A file is a JSON
list of them (https://cocodataset.org/#format-results).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations.coco_format import load_json
from ..annotations.detection_data import DetectionData, ImageId
from ..annotations.masks import as_text, clean_segmentation, to_rle
from ..annotations.raw_data import shown
from ..errors import InputError
from ..given import plain_value
from ..plain_text import plain_text

Result = dict[str, Any]
_NUMBERS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class ImageDetections:
    """What a detector found in one image.

    Attributes:
        image_id: the data set's own.
        boxes: `(n, 4)`, x0 y0 x1 y1 in px of the picture that `DetectionItem.decode` gives.
        scores: `(n,)` in [0, 1].
        labels: int `(n,)`, class index of the data from 0.
        masks: n run lengths with text counts (`masks.encode_masks`), or None for boxes alone.
    """

    image_id: ImageId
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[dict[str, Any]] | None = None


def to_results(detections: Iterable[ImageDetections], data: DetectionData) -> list[Result]:
    """Detections as COCO results, in the order in which they come; numbers keep every bit.

    An image that comes twice, as samplers that fill up the last batch make it, is taken once.
    """
    results = []
    seen: set[ImageId] = set()
    for image in detections:
        if image.image_id in seen:
            continue
        seen.add(image.image_id)
        boxes = np.array(image.boxes, np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        for n, box in enumerate(boxes.tolist()):
            category = data.category_ids[int(image.labels[n])]
            result: Result = {"image_id": image.image_id, "category_id": category, "bbox": box}
            result["score"] = float(image.scores[n])
            if image.masks is not None:
                result["segmentation"] = image.masks[n]
            results.append(result)
    return results


def ground_truth_results(data: DetectionData) -> list[Result]:
    """The annotations themselves as results of score 1, crowds left out: what a perfect detector would say."""
    with_masks, found = data.has_masks, []
    for item in data:
        single = np.flatnonzero(~item.iscrowd)
        rles = (to_rle(item.segmentations[n], item.height, item.width) for n in single)
        masks, scores = list(map(as_text, rles)) if with_masks else None, np.ones(len(single))
        found.append(ImageDetections(item.image_id, item.boxes[single], scores, item.labels[single], masks))
    return to_results(found, data)


def write_results(path: str | Path, results: Sequence[Result]) -> None:
    """Write COCO's results JSON, one result a line."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")


def read_results(path: str | Path, data: DetectionData, left_out: list[str] | None = None) -> list[Result]:
    """Read a results JSON that was made for `data`, by this library or any other.

    Args:
        path: of the file.
        data: what it was made for.
        left_out: gets what is wrong with results that cannot be scored, which are then left out; None: the first of
            them is refused.

    Raises:
        InputError: no such file, another format, or images and categories that the data do not have.
    """
    path = Path(path)
    results = load_json(path)
    if not isinstance(results, list):
        raise InputError(f"{path} is no COCO results file: it holds a {type(results).__name__}, not a list")
    return check_results(results, data, str(path), left_out)


def check_results(
    results: Sequence[Result], data: DetectionData, name: str = "predictions", left_out: list[str] | None = None
) -> list[Result]:
    """Results that can be scored on `data`: a box or mask that is null or empty counts as not given. Messages call them
    `name`; `left_out` and what is raised are as in `read_results`."""
    sizes = image_sizes(data)
    categories = set(data.category_ids)
    kept: dict[int, Result] = {}
    faults: dict[int, str] = {}
    for number, result in enumerate(results, start=1):
        try:
            kept[number] = _checked_as_python(result, data, sizes, categories)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            faults[number] = plain_text(f"{name}, result {number}{error}")
            if left_out is None:
                raise InputError(faults[number]) from error
    if left_out is None:
        return list(kept.values())
    if data.has_masks and any("segmentation" in result for result in kept.values()):
        bare = [number for number, result in kept.items() if "segmentation" not in result]
        faults |= {number: plain_text(f"{name}, result {number} has no mask, as others have") for number in bare}
    left_out += [faults[number] for number in sorted(faults)]
    return [result for number, result in kept.items() if number not in faults]


def _checked_as_python(result: Any, *known: Any) -> Result:
    """`_checked`, also of a result whose numbers and box are numpy's or torch's."""
    try:
        return _checked(result, *known)
    except (ValueError, TypeError, RuntimeError):  # the last is torch's, of an array that is asked whether it is empty
        if not isinstance(result, dict):
            raise
        plain = {name: plain_value(result[name]) for name in _NUMBERS if name in result}
        return _checked({**result, **plain}, *known)


def _checked(result: Any, data: DetectionData, sizes: dict[ImageId, tuple[int, int]], categories: set[int]) -> Result:
    """A result without what is null or empty; raises `ValueError`, to be put after the result's number, or TypeError,
    OverflowError."""
    if not isinstance(result, dict) or not {"image_id", "category_id", "score"} <= set(result):
        raise ValueError(" lacks image_id, category_id or score: this is no COCO results file")
    result = {name: value for name, value in result.items() if name not in ("bbox", "segmentation") or value}
    image_id, category = result["image_id"], result["category_id"]
    if not ("bbox" in result or "segmentation" in result):
        raise ValueError(" has neither bbox nor segmentation")
    if not isinstance(image_id, int | str) or image_id not in sizes:
        raise ValueError(f" is of image {shown(image_id)}, which is not in {data.source}: other split?")
    if not isinstance(category, int | str | float) or category not in categories:
        known = f"{min(categories)} to {max(categories)}"
        raise ValueError(
            f" has category {shown(category)}, which {data.source} does not have (ids {known}): results carry the data "
            "set's own ids, not class indices"
        )
    box, score = result.get("bbox", (0, 0, 0, 0)), result["score"]
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_finite, [*box, score])):
        raise ValueError(f" has box {shown(box)} and score {shown(score)}: four and one finite numbers belong")
    if "segmentation" in result:
        try:
            mask = clean_segmentation(result["segmentation"], *sizes[image_id])
        except (ValueError, TypeError) as error:
            raise ValueError(f": its mask cannot be scored: {error}") from error
        if mask is None:
            raise ValueError(": its mask cannot be scored: it has no polygon of three points")
        result["segmentation"] = mask
    return result


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def image_sizes(data: DetectionData) -> dict[ImageId, tuple[int, int]]:
    """Height and width of every image in px, by its id."""
    sizes = zip(data.heights.tolist(), data.widths.tolist(), strict=True)
    return dict(zip(data.image_ids, sizes, strict=True))


def by_image(results: Iterable[Result], image_ids: Iterable[ImageId]) -> dict[ImageId, list[Result]]:
    """Those of each of these images, in their order."""
    of_image: dict[ImageId, list[Result]] = {image_id: [] for image_id in image_ids}
    for result in results:
        if result["image_id"] in of_image:
            of_image[result["image_id"]].append(result)
    return of_image


def merge_results(shards: Sequence[Sequence[Result]], data: DetectionData) -> list[Result]:
    """The results of several processes as one would have given them: image after image, in the data's order, and within
    an image in its own, so that figures agree to the last digit. An image that several shards hold, as samplers that
    fill up the last batch make it, is taken from the first."""
    found = [by_image(shard, data.image_ids) for shard in shards]
    return [
        result
        for image_id in data.image_ids
        for result in next((of_image[image_id] for of_image in found if of_image[image_id]), ())
    ]


def gather_results(results: Sequence[Result], data: DetectionData) -> list[Result]:
    """`merge_results` over the processes of `torch.distributed`; every rank must call it, and every rank gets all."""
    import torch.distributed as dist

    from ..models.collectives import world_size

    shards: list[Any] = [results] * world_size()
    if world_size() > 1:
        dist.all_gather_object(shards, list(results))
    return merge_results(shards, data)
