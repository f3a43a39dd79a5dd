"""What every reader of annotations gives, in its own numbers and not yet checked.

Flow: coco_format | yolo | voc | csv_boxes | ... -> **raw_data** -> annotation_check -> detection_data.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .detection_data import ImageId, ImageReader


@dataclass
class RawImage:
    """An image as listed: its own id, the name to find it by, its size in px where the annotations give one, the group
    that it belongs to where they tell groups, and what makes it useless where something does.
    """

    image_id: ImageId
    name: str
    width: int | None = None
    height: int | None = None
    group: Any = None
    fault: str | None = None


@dataclass
class RawData:
    """What a reader of one format gives: images, their annotations by position, categories by their own id.

    An annotation is COCO's: `category_id`, `bbox` [x, y, width, height] in px, and where known `id`, `area`,
    `iscrowd`, `segmentation`, `difficult`.

    Attributes:
        in_shares: boxes and polygons are shares of the image's sides, from 0 to 1, not px.
        faults: annotations that cannot be read, each in a line.
        notes: other findings: kind, those that it was found in, what was done about it.
        roots: folders that files of images must be in; none: anywhere.
    """

    kind: str
    source: str
    images: list[RawImage]
    annotations: list[tuple[int, dict[str, Any]]]
    categories: dict[int, str]
    reader: ImageReader
    is_voc: bool = False
    in_shares: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[tuple[str, list[str], str]] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
