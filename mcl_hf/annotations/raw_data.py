"""What every reader of annotations is told and gives, in the data's own numbers and not yet checked.

Flow: coco_format | yolo | voc | csv_boxes | ... -> **raw_data** -> annotation_check -> detection_data.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .detection_data import FileImages, ImageId, ImageReader

BoxFormat = Literal["xywh", "xyxy"]


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
    """An image as listed: its own id, the name to find it by, its size in px where the annotations give one, the group
    that it belongs to where they tell groups, what makes it useless where something does, and its objects.

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
