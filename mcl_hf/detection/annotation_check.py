"""What is wrong with annotations is found, named and settled here, before a model sees them.

Flow: coco_format | voc | cityscapes | object_tables -> **annotation_check** -> detection_data. What COCO's own tools
live with is kept and reported; what they would stumble over, or silently score wrongly, is refused in one line, or left
out with ``skip_broken``:

================================================ ====================================================================
file missing, unreadable, of another size        refused
unknown category, malformed box or mask          refused
run lengths that are not of the image's size     refused
two images with one id, categories with one name refused, with ``skip_broken`` too
boxes that stick out of the image                kept for evaluation; clipped in training
boxes without area, or wholly outside            kept for evaluation, where nothing can match; left out in training
crowd regions                                    left out in training, ignored in evaluation
images without objects                           kept (`DetectionData.without_empty` is the choice for training)
annotations of images that are not listed        left out, as pycocotools does
annotation ids missing, zero or used twice       numbered anew (pycocotools counts an object with id 0 as never found)
================================================ ====================================================================
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcl_hf.data.decode import BrokenImage, open_image
from mcl_hf.detection.detection_data import AnnotationColumns, DetectionData, ImageId, ImageReader
from mcl_hf.detection.masks import check_size, clean_segmentation, mask_area
from mcl_hf.errors import InputError

HEADER_BYTES = 65536
_THREADS = 16
_EXAMPLES = 3
_SLACK = 1.0  # px that a box may stick out without a word: COCO's own are rounded


@dataclass
class RawImage:
    """An image as listed: its own id, the name to find it by, and its size in px where the annotations give one."""

    image_id: ImageId
    name: str
    width: int | None = None
    height: int | None = None


@dataclass
class RawData:
    """What a reader of one format gives: images, their annotations by position, categories by their own id.

    An annotation is COCO's: ``category_id``, ``bbox`` [x, y, width, height] in px, and where known ``id``, ``area``,
    ``iscrowd``, ``segmentation``, ``difficult``. ``unlisted`` names annotations whose image is not listed.
    """

    kind: str
    source: str
    images: list[RawImage]
    annotations: list[tuple[int, dict[str, Any]]]
    categories: dict[int, str]
    reader: ImageReader
    unlisted: list[str] = field(default_factory=list)
    is_voc: bool = False


@dataclass
class DataReport:
    """What a check found: kind -> (count, what was done about it, the first few by name)."""

    findings: dict[str, tuple[int, str, list[str]]] = field(default_factory=dict)

    def add(self, kind: str, names: Iterable[str], done: str) -> None:
        """Record a finding, if there is any."""
        listed = list(names)
        if listed:
            self.findings[kind] = (len(listed), done, listed[:_EXAMPLES])

    def lines(self) -> list[str]:
        """One line a finding."""
        return [
            f"{kind}: {count}, {done} ({', '.join(names)}{', ...' if count > len(names) else ''})"
            for kind, (count, done, names) in self.findings.items()
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing to report"


def check_annotations(raw: RawData, *, skip_broken: bool = False, check_files: bool = True) -> DetectionData:
    """Check what a reader gave and put it into columns.

    Args:
        raw: from a reader.
        skip_broken: leave out, and name, what would be refused.
        check_files: read the header of every image file, to see that it is there and has the annotated size.

    Raises:
        InputError: what the table above says is refused; no images; no annotations.
    """
    if not raw.images:
        raise InputError(f"{raw.source} lists no images")
    if not raw.annotations:
        raise InputError(f"{raw.source} holds no annotations of its {len(raw.images)} images: there is nothing to use")
    report = DataReport()
    _refuse_twins(raw)
    _refuse_namesakes(raw)
    broken, turned = _check_headers(raw, check_files)
    _settle(report, "broken images", broken.values(), skip_broken)
    index_of = {category: index for index, category in enumerate(sorted(raw.categories))}
    columns, faults = _columns(raw, index_of, set(broken), report)
    _settle(report, "broken annotations", faults, skip_broken)
    keep = np.array([position for position in range(len(raw.images)) if position not in broken], np.int64)
    images = [raw.images[position] for position in keep]
    data = DetectionData(
        kind=raw.kind,
        source=raw.source,
        category_ids=sorted(raw.categories),
        category_names=[raw.categories[category] for category in sorted(raw.categories)],
        image_ids=[image.image_id for image in images],
        names=[image.name for image in images],
        widths=np.array([image.width for image in images], np.int64),
        heights=np.array([image.height for image in images], np.int64),
        columns=columns,
        reader=raw.reader,
        positions=keep,
        report=report,
        is_voc=raw.is_voc,
    )
    if not len(columns.labels):
        raise InputError(f"{raw.source}: no annotation is left after the broken ones were taken out")
    report.add("images that were annotated unturned", (raw.images[n].name for n in sorted(turned)), "read unturned")
    crowds = np.repeat(np.arange(len(images)), np.diff(columns.offsets))[columns.iscrowd]
    report.add("crowd regions", (images[n].name for n in crowds), "left out in training, ignored in evaluation")
    empty = np.flatnonzero(data.num_objects == 0)
    report.add("images without objects", (images[n].name for n in empty), "kept")
    report.add("annotations of images that are not listed", raw.unlisted, "left out")
    return data


def _settle(report: DataReport, kind: str, faults: Iterable[str], skip_broken: bool) -> None:
    """Record faults as left out, or refuse the first of them."""
    listed = list(faults)
    if listed and not skip_broken:
        more = f" (and {len(listed) - 1} more {kind})" if len(listed) > 1 else ""
        raise InputError(f"{listed[0]}{more}: mend the data, or leave such ones out with --skip-broken")
    report.add(kind, listed, "left out")


def _refuse_twins(raw: RawData) -> None:
    first: dict[ImageId, str] = {}
    for image in raw.images:
        if image.image_id in first:
            raise InputError(f"{raw.source}: {first[image.image_id]} and {image.name} share the id {image.image_id!r}")
        first[image.image_id] = image.name


def _refuse_namesakes(raw: RawData) -> None:
    """Models and data know their classes by name: of two with one name, the first would never be found."""
    first: dict[str, int] = {}
    for category, name in sorted(raw.categories.items()):
        if name in first:
            raise InputError(f"{raw.source}: the categories {first[name]} and {category} share the name {name!r}")
        first[name] = category


def _check_headers(raw: RawData, check_files: bool) -> tuple[dict[int, str], set[int]]:
    """Faults by position, and the positions of images that were annotated as stored, before EXIF turned them (which
    `DetectionItem.decode` sees for itself).

    Sizes that the annotations do not give are filled in.
    """
    asked = [n for n, image in enumerate(raw.images) if check_files or not (image.width and image.height)]
    broken, turned = {}, set()
    with ThreadPoolExecutor(_THREADS) as pool:
        for position, size in zip(asked, pool.map(_Header(raw.reader), asked), strict=True):
            image = raw.images[position]
            if isinstance(size, str):
                broken[position] = f"{image.name}: {size}"
                continue
            stored, upright = size
            listed = (image.width, image.height)
            if not (image.width and image.height):
                image.width, image.height = upright
            elif listed == stored and listed != upright:
                turned.add(position)
            elif listed != upright:
                broken[position] = (
                    f"{image.name}: annotated as {listed[0]}x{listed[1]} px, but the file has {upright[0]}x{upright[1]}"
                )
    return broken, turned


@dataclass(frozen=True)
class _Header:
    reader: ImageReader

    def __call__(self, position: int) -> tuple[tuple[int, int], tuple[int, int]] | str:
        """(width, height) as stored and upright, or what is wrong."""
        try:
            try:
                opened = open_image(self.reader.read(position, HEADER_BYTES))
            except BrokenImage:  # some formats keep what is needed at their end
                opened = open_image(self.reader.read(position))
        except BrokenImage as error:
            return str(error)
        return opened.picture.size, (opened.width, opened.height)


def _columns(
    raw: RawData, index_of: dict[int, int], left_out: set[int], report: DataReport
) -> tuple[AnnotationColumns, list[str]]:
    """Annotations in the order of their images, and what is wrong with those that are not among them."""
    by_image: list[list[dict[str, Any]]] = [[] for _ in raw.images]
    for position, annotation in raw.annotations:
        by_image[position].append(annotation)
    faults: list[str] = []
    outside: list[str] = []
    flat: list[str] = []
    no_mask: list[str] = []
    boxes, labels, crowds, difficult, areas, counts, pieces = [], [], [], [], [], [], []
    with_masks = any(annotation.get("segmentation") for _, annotation in raw.annotations)
    for position, annotations in enumerate(by_image):
        if position in left_out:
            continue
        image, kept = raw.images[position], 0
        width, height = image.width or 0, image.height or 0
        for annotation in annotations:
            name = f"{image.name}, annotation {annotation.get('id', '?')}"
            try:
                box = _box(annotation.get("bbox"))
                label = index_of[annotation["category_id"]]
                segmentation = clean_segmentation(annotation.get("segmentation"))
                check_size(segmentation, height, width)
                area = annotation.get("area")
                if area is None:
                    area = box[2] * box[3] if segmentation is None else mask_area(segmentation, height, width)
                area = float(area)
            except KeyError:
                faults.append(f"{name}: category {annotation.get('category_id')!r} is not in the list of categories")
                continue
            except (ValueError, TypeError, IndexError) as error:
                faults.append(f"{name}: {error}")
                continue
            x, y, w, h = box
            if w <= 0 or h <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
                flat.append(f"{name}: box {annotation['bbox']}")
            elif x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
                outside.append(f"{name}: box {annotation['bbox']} in {width}x{height} px")
            if with_masks and segmentation is None:
                no_mask.append(name)
            boxes.append(box)
            labels.append(label)
            crowds.append(bool(annotation.get("iscrowd", 0)))
            difficult.append(bool(annotation.get("difficult", 0)))
            areas.append(area)
            pieces.append(b"" if segmentation is None else json.dumps(segmentation).encode())
            kept += 1
        counts.append(kept)
    report.add("boxes that stick out of the image", outside, "clipped in training, as annotated in evaluation")
    report.add("boxes without area in the image", flat, "left out in training, as annotated in evaluation")
    report.add("objects without a mask", no_mask, "left out where masks are trained, never found where they are scored")
    _report_ids(raw, report)
    columns = AnnotationColumns(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        bbox=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        iscrowd=np.array(crowds, bool),
        difficult=np.array(difficult, bool),
        areas=np.array(areas, np.float64),
        segmentation_ends=np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64),
        segmentations=np.frombuffer(b"".join(pieces), np.uint8),
    )
    return columns, faults


def _box(value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise ValueError(f"bbox {value!r} is not [x, y, width, height]")
    x, y, w, h = (float(part) for part in value)
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError(f"bbox {value!r} is not finite")
    return x, y, w, h


def _report_ids(raw: RawData, report: DataReport) -> None:
    ids = Counter(annotation["id"] for _, annotation in raw.annotations if "id" in annotation)
    odd = [f"id {number!r}" for number, count in ids.items() if count > 1 or number == 0]
    report.add("annotation ids that are zero or used twice", odd, "numbered anew")
