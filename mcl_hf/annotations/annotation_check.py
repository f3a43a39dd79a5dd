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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..data.decode import BrokenImage, open_image
from ..data.sources.image_source import folder_prefixes, leaves, outside
from ..errors import InputError
from ..plain_text import plain_text
from .detection_data import AnnotationColumns, DetectionData, ImageId
from .masks import clean_segmentation, mask_area
from .raw_data import RawData, RawImage, finite_box, flag_of, in_px, is_area, shown

_Kept = list[tuple[RawImage, dict[str, Any]]]  # objects in the order of the columns, with their images
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


def check_annotations(raw: RawData, skip_broken: bool, check_files: bool) -> DetectionData:
    """Check what a reader gave and put it into columns; options are those of `open_detection_data`.

    Raises:
        InputError: what the table above says is refused; no images; no annotations.
    """
    if not raw.images:
        raise InputError(f"{raw.source} lists no images")
    if not any(image.objects for image in raw.images):
        reasons = [f"{kind}: {next(iter(names))}" for kind, names, _ in raw.notes if names]
        reasons += raw.faults[:1] + [image.fault for image in raw.images if image.fault]
        why = f"; {plain_text(reasons[0])}" if reasons else ""
        raise InputError(
            f"{raw.source} holds no annotations of its {len(raw.images)} images: there is nothing to use{why}"
        )
    report = DataReport()
    _refuse_twins(raw)
    check_images(raw, check_files)
    _listed_twice(raw, report)
    broken = [f"{image.name}: {image.fault}" for image in raw.images if image.fault]
    _settle(report, "broken images", broken, skip_broken)
    kept, columns, faults = _check_objects(raw)
    data = checked_data(raw, columns)
    data.report = report
    _report_objects(raw, kept, data, report)
    _settle(report, "broken annotations", raw.faults + faults, skip_broken)
    if not kept:
        left_out = "; ".join(report.lines())
        raise InputError(f"{raw.source}: no annotation is left after the broken ones were taken out: {left_out}")
    if not raw.in_shares:
        _refuse_shares(data, report)
    unturned = (image.name for image in raw.images if image.is_unturned)
    report.add("images that were annotated unturned", unturned, "read unturned")
    crowds = (data.names[n] for n in columns.owners[columns.iscrowd])
    report.add("crowd regions", crowds, "left out in training, ignored in evaluation")
    report.add("images without objects", (data.names[n] for n in np.flatnonzero(data.num_objects == 0)), "kept")
    for kind, names, done in raw.notes:
        report.add(kind, names, done)
    return data


def checked_data(raw: RawData, columns: AnnotationColumns) -> DetectionData:
    """Images without a fault, with their annotations."""
    keep = [n for n, image in enumerate(raw.images) if not image.fault]
    images = [raw.images[n] for n in keep]
    categories = sorted(raw.categories)
    return DetectionData(
        kind=raw.kind,
        source=raw.source,
        category_ids=categories,
        category_names=[raw.categories[category] for category in categories],
        image_ids=[image.image_id for image in images],
        names=[image.name for image in images],
        widths=np.array([image.width for image in images], np.int64),
        heights=np.array([image.height for image in images], np.int64),
        columns=columns,
        reader=raw.reader,
        positions=np.array(keep, np.int64),
        is_voc=raw.is_voc,
        groups=[image.group for image in images],
    )


def _settle(report: DataReport, kind: str, faults: Sequence[str], skip_broken: bool) -> None:
    """Record faults as left out, or refuse the first of them."""
    if faults and not skip_broken:
        more = f" (and {len(faults) - 1} more {kind})" if len(faults) > 1 else ""
        raise InputError(f"{plain_text(faults[0])}{more}: mend the data, or leave such ones out with --skip-broken")
    report.add(kind, faults, "left out")


def _refuse_twins(raw: RawData) -> None:
    """Images are known by their ids, and classes, to models too, by their names: of two alike, one is never found."""
    image_of: dict[ImageId, RawImage] = {}
    for image in raw.images:
        other = image_of.setdefault(image.image_id, image)
        if other is not image:
            both = f"{plain_text(other.name)} and {plain_text(image.name)}"
            raise InputError(f"{raw.source}: {both} share the id {shown(image.image_id)}")
    category_of: dict[str, int] = {}
    for category, name in sorted(raw.categories.items()):
        if not name.strip() or name != name.encode(errors="replace").decode():
            raise InputError(f"{raw.source}: category {category} has the name {name!r}, which is no text to call it by")
        if category_of.setdefault(name, category) != category:
            both = f"{category_of[name]} and {category}"
            raise InputError(f"{raw.source}: the categories {both} share the name {name!r}")


def _listed_twice(raw: RawData, report: DataReport) -> None:
    """Images whose file another one has listed before with other objects are broken: each would teach that those are
    nothing."""

    def objects_of(image: RawImage) -> list[str]:
        return sorted(repr((entry.get("category_id"), entry.get("bbox"))) for entry in image.objects)

    first: dict[str, RawImage] = {}
    same = []
    for image, path in zip(raw.images, raw.reader.paths, strict=True):
        other = first.setdefault(path, image) if path and not image.fault else image
        if other is not image and objects_of(other) == objects_of(image):
            same.append(image.name)
        elif other is not image:
            both = f"{shown(other.image_id)} and {shown(image.image_id)}"
            image.fault = f"listed twice, as images {both}, with different objects: put them into one"
    report.add("images that are listed twice", same, "kept")


def check_images(raw: RawData, check_files: bool) -> None:
    """Tell images their faults, the sizes that the annotations do not give, and whether they were annotated as stored,
    before EXIF turned them (which `DetectionItem.decode` sees for itself)."""
    if raw.roots:
        prefixes = folder_prefixes(raw.roots)
        for image, path in zip(raw.images, raw.reader.paths, strict=True):
            if path and not image.fault and leaves(path, prefixes):
                image.fault = outside(prefixes)
    asked = [n for n, i in enumerate(raw.images) if not i.fault and (check_files or not (i.width and i.height))]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(partial(_check_image, raw, check_files), asked))


def _check_image(raw: RawData, to_the_end: bool, position: int) -> None:
    image, reader = raw.images[position], raw.reader
    try:
        try:
            opened = open_image(reader.read(position, most=HEADER_BYTES))
        except BrokenImage:  # some formats keep what is needed at their end
            opened = open_image(reader.read(position))
        end = _END_OF.get(opened.picture.format or "")
        # of a file without its mark of the end, decoding alone tells whether it is whole
        if to_the_end and end is not None and end not in reader.read(position, -_END_BYTES):
            open_image(reader.read(position)).decode()
    except BrokenImage as error:
        image.fault = str(error)
        return
    listed, stored, upright = (image.width, image.height), opened.stored_size, (opened.width, opened.height)
    if not (image.width and image.height):
        image.width, image.height = upright
    elif listed not in (stored, upright):
        image.fault = f"annotated as {listed[0]}x{listed[1]} px, but the file has {upright[0]}x{upright[1]}"
    image.is_unturned = listed == stored != upright


def _check_objects(raw: RawData) -> tuple[_Kept, AnnotationColumns, list[str]]:
    """The objects of images that can be used, their values, and what is wrong with the others."""
    index_of = {category: index for index, category in enumerate(sorted(raw.categories))}
    kept: _Kept = []
    rows: list[tuple[Any, ...]] = []
    counts: list[int] = []
    faults: list[str] = []
    for image in raw.images:
        if image.fault:
            continue
        width, height, before = image.width or 0, image.height or 0, len(kept)
        for entry in image.objects:
            try:
                if raw.in_shares:
                    entry = in_px(entry, width, height)
                rows.append(_values(entry, width, height, index_of))
                kept.append((image, entry))
            except (ValueError, TypeError, IndexError, OverflowError) as error:
                faults.append(f"{_name(image, entry)}: {error}")
        counts.append(len(kept) - before)
    return kept, AnnotationColumns.of(counts, *zip(*rows, strict=True)), faults


def _values(entry: dict[str, Any], width: int, height: int, index_of: dict[int, int]) -> tuple[Any, ...]:
    """Of each of the columns, in their order."""
    box, category, given = finite_box(entry.get("bbox")), entry.get("category_id"), entry.get("segmentation")
    try:
        label = index_of[category]  # type: ignore[index]
    except (KeyError, TypeError):
        raise ValueError(f"category {shown(category)} is not in the list of categories") from None
    mask = clean_segmentation(given, height, width) if given else None
    flags = [bool(entry.get(name)) and flag_of(name, entry[name]) for name in ("iscrowd", "difficult")]
    if is_area(entry.get("area")):
        area = float(entry["area"])
    else:
        area = box[2] * box[3] if mask is None else mask_area(mask, height, width)
    return box, label, *flags, area, b"" if mask is None else json.dumps(mask).encode()


def _report_objects(raw: RawData, kept: _Kept, data: DetectionData, report: DataReport) -> None:
    def box(number: int) -> str:
        return f"{_name(*kept[number])}: box {shown(kept[number][1]['bbox'])}"

    low, has_area = data.columns.bbox[:, :2], data.has_area
    past_end = low + data.columns.bbox[:, 2:] > data.image_sides + _SLACK
    sticks_out = np.flatnonzero(has_area & ((low < -_SLACK) | past_end).any(axis=1)).tolist()
    found = [f"{box(n)} in {kept[n][0].width}x{kept[n][0].height} px" for n in sticks_out]
    report.add("boxes that stick out of the image", found, "clipped in training, as annotated in evaluation")
    found = [box(n) for n in np.flatnonzero(~has_area).tolist()]
    report.add("boxes without area in the image", found, "left out in training, as annotated in evaluation")
    if any(entry.get("segmentation") for _, entry in raw.objects):
        without = np.flatnonzero(np.diff(data.columns.segmentation_ends) == 0)
        found = [_name(*kept[n]) for n in without.tolist()]
        done = "left out where masks are trained, never found where they are scored"
        report.add("objects without a mask", found, done)
    odd = [(image, entry) for image, entry in kept if entry.get("area") is not None and not is_area(entry["area"])]
    found = [f"{_name(image, entry)}: {shown(entry['area'])}" for image, entry in odd]
    report.add("areas that are negative or no number", found, "computed from mask or box")
    ids = [entry["id"] for _, entry in raw.objects if "id" in entry]
    usable = Counter(number for number in ids if isinstance(number, int | str))
    found = [f"id {shown(number)}" for number, count in usable.items() if count > 1 or number == 0]
    found += [f"id {shown(number)}" for number in ids if not isinstance(number, int | str)]
    report.add("annotation ids that are zero or used twice", found, "numbered anew")


def _name(image: RawImage, annotation: dict[str, Any]) -> str:
    number = annotation.get("id", "?")
    return f"{image.name}, annotation {number if isinstance(number, str) else shown(number)}"


def _refuse_shares(data: DetectionData, report: DataReport) -> None:
    """Boxes that all end within the first pixel are shares of the image, from 0 to 1; some such boxes are reported."""
    boxes = data.columns.bbox
    ends = (boxes[:, :2] + boxes[:, 2:]).max(axis=1)
    large = data.image_sides.min(axis=1) > 8
    tiny = large & (boxes >= 0).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & (ends <= 1)
    if tiny.all() and (boxes % 1).any():
        raise InputError(
            f"{data.source}: all {len(boxes)} boxes end within the first pixel, such as {boxes[0].tolist()}: they look "
            "like shares of the image; multiply them by its width and height, as boxes are in px"
        )
    owners = data.columns.owners
    names = [f"{data.names[owners[n]]}: box {boxes[n].tolist()}" for n in np.flatnonzero(tiny)]
    report.add("boxes that end within the first pixel", names, "kept, but they look like shares of the image")
