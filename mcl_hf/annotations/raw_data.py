"""What every reader of annotations is told and gives, not yet checked, and values as programs write them.

Flow: coco_format | yolo | voc | csv_boxes | ... -> **raw_data** -> annotation_check -> detection_data.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .detection_data import FileImages, ImageId, ImageReader

BoxFormat = Literal["xywh", "xyxy"]
_MOST_PX = 2**31


@dataclass(frozen=True)
class Reading:
    """How a source is to be read; see `open_detection_data`."""

    images: Path | None = None
    image_column: str | None = None
    objects_column: str = "objects"
    box_format: BoxFormat = "xywh"
    group_column: str | None = None
    allow_outside_paths: bool = False


@dataclass
class RawImage:
    """An image as listed: its own id, the name to find it by, its size in px and its group where the annotations give
    them, what makes it useless, its objects, and whether it was annotated before EXIF turned it (`annotation_check`).

    An object is COCO's: `category_id`, `bbox` [x, y, width, height] in px, and where known `id`, `area`, `iscrowd`,
    `segmentation`, `difficult`.
    """

    image_id: ImageId
    name: str
    width: int | None = None
    height: int | None = None
    group: Any = None
    fault: str | None = None
    objects: list[dict[str, Any]] = field(default_factory=list)
    is_unturned: bool = False


@dataclass
class RawData:
    """What a reader of one format gives: images with their objects, categories by their own id.

    Attributes:
        reader: of the images; left out, they are the files that they are called after.
        in_shares: boxes and polygons are shares of the image's sides, from 0 to 1, not px.
        faults: annotations that cannot be read, each in a line.
        notes: other findings: kind, those that it was found in, what was done about it.
        roots: folders that files of images must be in; none: anywhere.
        listed: images of all splits, where a list's rows tell theirs; else None.
    """

    kind: str
    source: str
    images: list[RawImage]
    categories: dict[int, str]
    reader: ImageReader = None  # type: ignore[assignment]  # filled in below
    is_voc: bool = False
    in_shares: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[tuple[str, Collection[str], str]] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    listed: int | None = None

    def __post_init__(self) -> None:
        if self.reader is None:
            self.reader = FileImages([image.name for image in self.images])

    @property
    def objects(self) -> Iterator[tuple[RawImage, dict[str, Any]]]:
        """Each object with its image."""
        return ((image, entry) for image in self.images for entry in image.objects)

    def number_objects(self) -> None:
        """Give objects ids from 1, where a format has none."""
        for number, (_, entry) in enumerate(self.objects, start=1):
            entry["id"] = number

    def number_classes(self, first: int = 0, usual: Sequence[str] = ()) -> None:
        """Number the classes of objects that name theirs: as the usual ones where all are among them, else in
        alphabetical order."""
        found = {entry["category_id"] for _, entry in self.objects if isinstance(entry["category_id"], str)}
        self.categories = dict(enumerate(usual if found <= set(usual) else sorted(found), first))
        number = {name: index for index, name in self.categories.items()}
        for _, entry in self.objects:  # a number among texts is none of them
            category = entry["category_id"]
            entry["category_id"] = number[category] if isinstance(category, str) else (category,)


def shown(value: Any, most: int = 60) -> str:
    """A value from data for a message: as Python writes it, the beginning of long ones."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def image_id_of(value: Any) -> ImageId:
    """An id as it may be: a text or a whole number of up to 64 bits; raises `ValueError` for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63):
        return value
    raise ValueError(f"the id {shown(value)} is neither a text nor a whole number of 64 bits")


def side_in_px(value: Any) -> int | None:
    """A side of an image, which some programs write as text, or with .0; raises `ValueError` for what is none."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
        if number.is_integer() and 0 <= number < _MOST_PX:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"a side of {shown(value)} px")


def in_px(annotation: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """An annotation whose box and polygons are shares of the image's sides, in px."""
    x, y, w, h = annotation["bbox"]
    scaled = {**annotation, "bbox": [x * width, y * height, w * width, h * height]}
    if annotation.get("segmentation"):
        sides = (width, height)
        scaled["segmentation"] = [
            [share * sides[place % 2] for place, share in enumerate(part)] for part in annotation["segmentation"]
        ]
    return scaled


def finite_box(value: Any) -> tuple[float, float, float, float]:
    """A box `[x, y, width, height]`; raises `ValueError` for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise ValueError(f"bbox {shown(value)} is not [x, y, width, height]")
    try:
        x, y, w, h = map(float, value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"bbox {shown(value)} is not four numbers") from None
    if not math.isfinite(x + y + w + h):
        raise ValueError(f"bbox {shown(value)} is not finite")
    return x, y, w, h


def flag_of(name: str, value: Any) -> bool:
    """A flag that is not empty, however a program writes it; raises `ValueError` for anything else."""
    if value == 1:
        return True
    word = value.strip().lower() if isinstance(value, str) else None
    if word in ("", "0", "0.0", "false", "no"):
        return False
    if word in ("1", "1.0", "true", "yes"):
        return True
    raise ValueError(f"{name} {shown(value)} is neither 0 nor 1")


def is_area(value: Any) -> bool:
    try:
        return 0 <= float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False
