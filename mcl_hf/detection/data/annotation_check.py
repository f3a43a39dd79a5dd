"""What is wrong with annotations is found, named and settled here, before a model sees them.

Flow: coco_format | yolo | voc | csv_boxes | ... -> **annotation_check** -> detection_data. What COCO's own tools live
with is kept and reported; what they would stumble over, or silently score wrongly, is refused in one line, or left
out with `skip_broken`:

================================================ ====================================================================
file missing, cut short, or of another size      refused
file outside of the data's folder                refused, unless `allow_outside_paths`
unknown category, malformed box, mask or flag    refused
masks that pycocotools cannot draw               refused
two images with one id, categories with one name refused, with `skip_broken` too
a file listed twice, with different objects      refused; kept and reported where the objects are the same
all boxes within the first pixel: shares, not px refused, with `skip_broken` too
boxes that stick out of the image                kept for evaluation; clipped in training
boxes without area, or wholly outside            kept for evaluation, where nothing can match; left out in training
crowd regions                                    left out in training, ignored in evaluation
images without objects                           kept (`DetectionData.without_empty` is the choice for training)
annotations of images that are not listed        left out, as pycocotools does
areas that are negative or no number             computed from mask or box
annotation ids missing, zero or used twice       numbered anew (pycocotools counts an object with id 0 as never found)
================================================ ====================================================================
"""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...data.decode import BrokenImage, open_image
from ...data.sources.image_source import folder_prefixes, leaves, outside
from ...errors import InputError
from ...plain_text import plain_text
from ..models.masks import clean_segmentation, mask_area, run_length_faults
from .annotation_values import finite_box, flag_of, in_px, is_area, shown
from .detection_data import AnnotationColumns, DetectionData, ImageId, ImageReader
from .raw_data import RawData, RawImage

HEADER_BYTES = 65536
_THREADS = 16
_EXAMPLES = 3
_END_BYTES = 64
_END_OF = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_SLACK = 1.0  # px that a box may stick out without a word: COCO's own are rounded


@dataclass
class DataReport:
    """What a check found: kind -> (count, what was done about it, the first few by name)."""

    findings: dict[str, tuple[int, str, list[str]]] = field(default_factory=dict)

    def add(self, kind: str, names: Iterable[str], done: str) -> None:
        """Record a finding, if there is any."""
        listed = list(names)
        if listed:
            self.findings[kind] = (len(listed), done, [plain_text(name) for name in listed[:_EXAMPLES]])

    def settled_as(self, kind: str, done: str) -> "DataReport":
        """The same report, with something else done about a finding, if it is there."""
        count, _, names = self.findings.get(kind, (0, "", []))
        return DataReport(self.findings | ({kind: (count, done, names)} if count else {}))

    def lines(self) -> list[str]:
        """One line a finding."""
        return [
            f"{kind}: {count}, {done} ({', '.join(names)}{', ...' if count > len(names) else ''})"
            for kind, (count, done, names) in self.findings.items()
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing to report"


def check_annotations(
    raw: RawData, *, skip_broken: bool = False, check_files: bool = True, allow_outside_paths: bool = False
) -> DetectionData:
    """Check what a reader gave and put it into columns.

    Args:
        raw: from a reader.
        skip_broken: leave out, and name, what would be refused.
        check_files: read the header and the end of every image file, to see that it is there, has the annotated size
            and was not cut short.
        allow_outside_paths: take files of images wherever they lie.

    Raises:
        InputError: what the table above says is refused; no images; no annotations.
    """
    if not raw.images:
        raise InputError(f"{raw.source} lists no images")
    if not raw.annotations:
        more = [f"; {kind}: {plain_text(names[0])}" for kind, names, _ in raw.notes if names]
        more += [f"; {plain_text(fault)}" for fault in raw.faults[:1]]
        more += [f"; {plain_text(image.fault)}" for image in raw.images if image.fault]
        raise InputError(
            f"{raw.source} holds no annotations of its {len(raw.images)} images: there is nothing to use"
            f"{''.join(more[:1])}"
        )
    report = DataReport()
    _refuse_twins(raw)
    _check_class_names(raw)
    broken, turned = _check_images(raw, check_files, allow_outside_paths)
    broken |= _listed_twice(raw, broken, report)
    _settle(report, "broken images", broken.values(), skip_broken)
    index_of = {category: index for index, category in enumerate(sorted(raw.categories))}
    columns, faults = _columns(raw, index_of, set(broken), report)
    _settle(report, "broken annotations", raw.faults + faults, skip_broken)
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
        groups=[image.group for image in images],
    )
    if not len(columns.labels):
        left_out = "; ".join(report.lines())
        raise InputError(f"{raw.source}: no annotation is left after the broken ones were taken out: {left_out}")
    if not raw.in_shares:
        _refuse_shares(data, report)
    report.add("images that were annotated unturned", (raw.images[n].name for n in sorted(turned)), "read unturned")
    crowds = np.repeat(np.arange(len(images)), np.diff(columns.offsets))[columns.iscrowd]
    report.add("crowd regions", (images[n].name for n in crowds), "left out in training, ignored in evaluation")
    empty = np.flatnonzero(data.num_objects == 0)
    report.add("images without objects", (images[n].name for n in empty), "kept")
    for kind, names, done in raw.notes:
        report.add(kind, names, done)
    return data


def _settle(report: DataReport, kind: str, faults: Iterable[str], skip_broken: bool) -> None:
    """Record faults as left out, or refuse the first of them."""
    listed = list(faults)
    if listed and not skip_broken:
        more = f" (and {len(listed) - 1} more {kind})" if len(listed) > 1 else ""
        raise InputError(f"{plain_text(listed[0])}{more}: mend the data, or leave such ones out with --skip-broken")
    report.add(kind, listed, "left out")


def _refuse_twins(raw: RawData) -> None:
    first: dict[ImageId, str] = {}
    for image in raw.images:
        if image.image_id in first:
            raise InputError(
                f"{raw.source}: {plain_text(first[image.image_id])} and {plain_text(image.name)} share the id "
                f"{shown(image.image_id)}"
            )
        first[image.image_id] = image.name


def _check_class_names(raw: RawData) -> None:
    """Models and data know their classes by name: of two with one name, the first would never be found."""
    first: dict[str, int] = {}
    for category, name in sorted(raw.categories.items()):
        if not name.strip() or name != name.encode(errors="replace").decode():
            raise InputError(f"{raw.source}: category {category} has the name {name!r}, which is no text to call it by")
        if name in first:
            raise InputError(f"{raw.source}: the categories {first[name]} and {category} share the name {name!r}")
        first[name] = category


def _listed_twice(raw: RawData, broken: dict[int, str], report: DataReport) -> dict[int, str]:
    """Images whose file another image has listed before with other objects: each would teach that those are nothing."""
    first: dict[str, int] = {}
    again: dict[int, int] = {}
    for n, path in enumerate(raw.reader.paths):
        if path and n not in broken and first.setdefault(path, n) != n:
            again[n] = first[path]
    if not again:
        return {}
    objects: dict[int, list[str]] = {n: [] for n in (*again, *again.values())}
    for position, annotation in raw.annotations:
        if position in objects:
            objects[position].append(repr((annotation.get("category_id"), annotation.get("bbox"))))
    same = {n for n, other in again.items() if sorted(objects[n]) == sorted(objects[other])}
    report.add("images that are listed twice", (raw.images[n].name for n in sorted(same)), "kept")
    return {
        n: f"{raw.images[n].name}: listed twice, as images {shown(raw.images[other].image_id)} and "
        f"{shown(raw.images[n].image_id)}, with different objects: put them into one"
        for n, other in again.items()
        if n not in same
    }


def _check_images(raw: RawData, check_files: bool, allow_outside: bool) -> tuple[dict[int, str], set[int]]:
    """Faults by position, and the positions of images that were annotated as stored, before EXIF turned them (which
    `DetectionItem.decode` sees for itself).

    Sizes that the annotations do not give are filled in.
    """
    broken = {n: f"{image.name}: {image.fault}" for n, image in enumerate(raw.images) if image.fault is not None}
    if raw.roots and not allow_outside:
        prefixes = folder_prefixes(raw.roots)
        for n, path in enumerate(raw.reader.paths):
            if path and n not in broken and leaves(path, prefixes):
                broken[n] = f"{raw.images[n].name}: {outside(prefixes)}"
    turned = set()
    asked = [n for n, i in enumerate(raw.images) if n not in broken and (check_files or not (i.width and i.height))]
    with ThreadPoolExecutor(_THREADS) as pool:
        for position, size in zip(asked, pool.map(_Header(raw.reader, check_files), asked), strict=True):
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
    return dict(sorted(broken.items())), turned


@dataclass(frozen=True)
class _Header:
    reader: ImageReader
    to_the_end: bool

    def __call__(self, position: int) -> tuple[tuple[int, int], tuple[int, int]] | str:
        """(width, height) as stored and upright, or what is wrong."""
        try:
            data = self.reader.read(position, HEADER_BYTES)
            try:
                opened = open_image(data)
            except BrokenImage:  # some formats keep what is needed at their end
                opened = open_image(self.reader.read(position))
            end = _END_OF.get(opened.picture.format or "")
            # of a file without its mark of the end, decoding alone tells whether it is whole
            if self.to_the_end and end is not None and end not in self.reader.end(position, _END_BYTES):
                open_image(self.reader.read(position)).decode()
        except BrokenImage as error:
            return str(error)
        return opened.stored_size, (opened.width, opened.height)


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
    no_area: list[str] = []
    boxes, labels, crowds, difficult, areas, counts, pieces = [], [], [], [], [], [], []
    with_masks = any(annotation.get("segmentation") for _, annotation in raw.annotations)
    undrawable = _run_length_faults(raw) if with_masks else {}
    for position, annotations in enumerate(by_image):
        if position in left_out:
            continue
        image, kept = raw.images[position], 0
        width, height = image.width or 0, image.height or 0
        for annotation in annotations:
            try:
                if raw.in_shares:
                    annotation = in_px(annotation, width, height)
                box = finite_box(annotation.get("bbox"))
                category = annotation["category_id"]
                if isinstance(category, list | dict):
                    raise KeyError(category)
                label = index_of[category]
                given = annotation.get("segmentation")
                segmentation = clean_segmentation(given, height, width) if given else None
                if id(annotation) in undrawable:
                    raise ValueError(undrawable[id(annotation)])
                crowd, hard = annotation.get("iscrowd"), annotation.get("difficult")
                crowd = flag_of("iscrowd", crowd) if crowd else False
                hard = flag_of("difficult", hard) if hard else False
                area = annotation.get("area")
                is_odd = area is not None and not is_area(area)
                if area is None or is_odd:
                    area = box[2] * box[3] if segmentation is None else mask_area(segmentation, height, width)
                area = float(area)
            except KeyError:
                category = shown(annotation.get("category_id"))
                faults.append(f"{_name(image, annotation)}: category {category} is not in the list of categories")
                continue
            except (ValueError, TypeError, IndexError, OverflowError) as error:
                faults.append(f"{_name(image, annotation)}: {error}")
                continue
            x, y, w, h = box
            if w <= 0 or h <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
                flat.append(f"{_name(image, annotation)}: box {shown(annotation['bbox'])}")
            elif x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
                outside.append(f"{_name(image, annotation)}: box {shown(annotation['bbox'])} in {width}x{height} px")
            if with_masks and segmentation is None:
                no_mask.append(_name(image, annotation))
            if is_odd:
                no_area.append(f"{_name(image, annotation)}: {shown(annotation['area'])}")
            boxes.append(box)
            labels.append(label)
            crowds.append(crowd)
            difficult.append(hard)
            areas.append(area)
            pieces.append(b"" if segmentation is None else json.dumps(segmentation).encode())
            kept += 1
        counts.append(kept)
    report.add("boxes that stick out of the image", outside, "clipped in training, as annotated in evaluation")
    report.add("boxes without area in the image", flat, "left out in training, as annotated in evaluation")
    report.add("objects without a mask", no_mask, "left out where masks are trained, never found where they are scored")
    report.add("areas that are negative or no number", no_area, "computed from mask or box")
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


def _name(image: RawImage, annotation: dict[str, Any]) -> str:
    number = annotation.get("id", "?")
    return f"{image.name}, annotation {number if isinstance(number, str) else shown(number)}"


def _run_length_faults(raw: RawData) -> dict[int, str]:
    """What is wrong with compressed run lengths, by the `id` of their annotation."""
    owners, texts, pixels = [], [], []
    for position, annotation in raw.annotations:
        given = annotation.get("segmentation")
        if isinstance(given, list | tuple) and len(given) == 1:
            given = given[0]
        counts = given.get("counts") if isinstance(given, dict) else None
        if isinstance(counts, str | bytes):
            image = raw.images[position]
            owners.append(id(annotation))
            texts.append(counts if isinstance(counts, str) else counts.decode("latin-1"))
            pixels.append((image.width or 0) * (image.height or 0))
    return {owners[place]: fault for place, fault in run_length_faults(texts, pixels).items()}


def _refuse_shares(data: DetectionData, report: DataReport) -> None:
    """Boxes that all end within the first pixel are shares of the image, from 0 to 1; some such boxes are reported."""
    boxes, counts = data.columns.bbox, np.diff(data.columns.offsets)
    ends = (boxes[:, :2] + boxes[:, 2:]).max(axis=1)
    large = np.repeat(np.minimum(data.widths, data.heights), counts) > 8
    tiny = large & (boxes >= 0).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & (ends <= 1)
    if tiny.all() and (boxes % 1).any():
        raise InputError(
            f"{data.source}: all {len(boxes)} boxes end within the first pixel, such as {boxes[0].tolist()}: they look "
            "like shares of the image; multiply them by its width and height, as boxes are in px"
        )
    owners = np.repeat(np.arange(len(data)), counts)
    names = [f"{data.names[owners[n]]}: box {boxes[n].tolist()}" for n in np.flatnonzero(tiny)]
    report.add("boxes that end within the first pixel", names, "kept, but they look like shares of the image")


def _report_ids(raw: RawData, report: DataReport) -> None:
    ids = [annotation["id"] for _, annotation in raw.annotations if "id" in annotation]
    usable = Counter(number for number in ids if isinstance(number, int | str))
    odd = [f"id {shown(number)}" for number, count in usable.items() if count > 1 or number == 0]
    odd += [f"id {shown(number)}" for number in ids if not isinstance(number, int | str)]
    report.add("annotation ids that are zero or used twice", odd, "numbered anew")
