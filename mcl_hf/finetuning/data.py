"""The data of a fine-tuning run: what is trained on, what AP is measured on, and how both are recorded.

Where it sits: open_data -> **data** -> `finetune.py`, and comparisons of runs.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations.detection_data import DetectionData
from ..annotations.open_data import has_split, list_splits, open_detection_data
from ..data.sources.licences import describe_sources
from ..errors import InputError
from .arguments import FinetuneArguments


def training_data(arguments: FinetuneArguments) -> DetectionData:
    """What is trained on: without what `val_fraction` holds out, without empty images where asked for, and the fraction
    of it. Raises an `InputError` as `open_detection_data`, or where nothing is left."""
    data = _opened_to_train(arguments)
    if arguments.val_fraction is not None:
        data = data.select(hold_out(data, arguments.val_fraction, arguments.seed)[0])
    if arguments.filter_empty:
        data = data.without_empty()
    if arguments.data_fraction < 1:
        data = take_fraction(data, arguments.data_fraction, arguments.seed)
    if len(data) == 0 or data.num_learnable == 0:
        raise InputError(
            f"{data.source} has no objects to learn from in its split {arguments.split!r}: crowds and boxes without "
            "area inside the image do not count"
        )
    return data


def validation_data(arguments: FinetuneArguments, data: DetectionData, lines: list[str]) -> DetectionData | None:
    """What AP is measured on; None, and a line about it, where neither `val_data` nor `val_split` nor `val_fraction` is
    given and `data` has no validation split.

    Raises:
        InputError: what was given, or the validation split of `data`, cannot be opened; what was given has no
            objects; or the categories are other than those of the training data.
    """
    source = str(arguments.val_data or arguments.data)
    asked_for = any(given is not None for given in (arguments.val_data, arguments.val_split, arguments.val_fraction))

    def unmeasured(reason: object) -> DetectionData | None:
        lines.append(f"warning: AP will not be measured: {reason}")
        return None

    if not asked_for and Path(source).is_file() and not list_splits(source):
        return unmeasured(f"{source} is a single file; name --val-data, or hold images out with --val-fraction")
    try:
        found = _to_measure(arguments, source)
    except InputError as error:
        if asked_for or has_split(source, "validation"):  # then it is there, and broken
            raise
        return unmeasured(error)
    if not found.num_objects.any():
        reason = f"the validation data {found.source} have no objects, crowds apart: AP cannot be measured"
        if asked_for:
            raise InputError(reason)
        return unmeasured(reason)
    if arguments.val_data is None and arguments.val_fraction is None and overlaps(found, data):
        return unmeasured(f"{source} has no split of its own for it; name --val-data")
    unknown = [name for name in found.category_names if name not in data.category_names]
    if unknown:
        raise InputError(
            f"{found.source} has categories that {data.source} lacks: {', '.join(unknown[:5])}: "
            "training and validation need the same ones"
        )
    lines.append(f"validation: {found.description}")
    return found


def _opened(arguments: FinetuneArguments, source: str, split: str, images: str | None) -> DetectionData:
    options = ("image_column", "objects_column", "box_format", "group_column", "skip_broken", "allow_outside_paths")
    reading = {name: getattr(arguments, name) for name in options}
    return open_detection_data(source, split=split, images=images, **reading)


def _opened_to_train(arguments: FinetuneArguments) -> DetectionData:
    data = _opened(arguments, str(arguments.data), arguments.split, arguments.images)
    if arguments.group_column is not None and all(group is None for group in data.groups):
        raise InputError(f"{data.source} tells no groups: no image has anything in '{arguments.group_column}'")
    return data


def _to_measure(arguments: FinetuneArguments, source: str) -> DetectionData:
    if arguments.val_fraction is not None:
        data = _opened_to_train(arguments)
        held_out = data.select(hold_out(data, arguments.val_fraction, arguments.seed)[1])
        held_out.kind += f", {len(held_out)} of {len(data)} images, held out by seed {arguments.seed}"
        return held_out
    split = arguments.val_split or "validation"
    if arguments.val_split is None and Path(source).exists() and not list_splits(source):
        if arguments.val_data is None:
            raise InputError(
                f"{source} has no split of its own for it; name --val-data, or hold images out with --val-fraction"
            )
        split = "train"  # all of it, as it was named for this
    return _opened(arguments, source, split, arguments.val_images)


def hold_out(data: DetectionData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that are kept and of those that are held out, at least one each, both ascending.

    Where the data tell groups, whole groups are held out, until they make up the fraction of the images; an image
    without a group is one of its own.

    Raises:
        InputError: fewer than two images, or than two groups.
    """
    groups = data.groups or [None] * len(data)
    number: dict[Any, int] = {}
    of_image = np.array(
        [number.setdefault(n if group is None else str(group), len(number)) for n, group in enumerate(groups)], np.int64
    )
    if len(number) < 2:
        raise InputError(f"{data.source} cannot be parted by --val-fraction: it has {len(number)} images or groups")
    sizes = np.bincount(of_image)
    order = np.random.default_rng([seed, len(data), len(number)]).permutation(len(number))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = order[: max(1, min(len(order) - 1, int((before < round(fraction * len(data))).sum())))]
    held_out = np.isin(of_image, chosen)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def overlaps(one: DetectionData, other: DetectionData) -> bool:
    """Whether the two hold the same images with the same annotations, at least in part."""

    def images(data: DetectionData) -> set[tuple[str, bytes, bytes]]:
        boxes, labels, ends = data.columns.bbox, data.columns.labels, itertools.pairwise(data.columns.offsets)
        return {
            (name, boxes[start:end].tobytes(), labels[start:end].tobytes())
            for name, (start, end) in zip(data.names, ends, strict=True)
            if end > start
        }

    return not images(one).isdisjoint(images(other))


def take_fraction(data: DetectionData, fraction: float, seed: int) -> DetectionData:
    """A share of the images, at least one; a larger share of the same seed holds the smaller one."""
    order = np.random.default_rng([seed, len(data)]).permutation(len(data))
    return data.select(np.sort(order[: max(1, round(fraction * len(data)))]))


def fingerprint(data: DetectionData) -> str:
    """Short hash of images' ids and sizes and of annotations, masks included; equal for equal data, wherever it
    lies."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([list(map(str, data.image_ids)), data.category_names]).encode())
    columns = data.columns
    boxes = (data.widths, data.heights, columns.offsets, columns.bbox, columns.labels, columns.iscrowd)
    for array in (*boxes, columns.segmentation_ends, columns.segmentations) if data.has_masks else boxes:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def data_record(given: str, split: str, data: DetectionData) -> dict[str, Any]:
    """What is trained on, or what AP is measured on, as runs record it; of `given` no folders and no keys."""
    return {
        "sources": describe_sources([given]),
        "split": split,
        "num_images": len(data),
        "num_objects": int(data.num_objects.sum()),
        "fingerprint": fingerprint(data),
    }
