"""Values of annotations, however programs write them: ids, sides, boxes, flags, areas.

Under the readers and annotation_check.
"""

import math
from typing import Any

from .detection_data import ImageId

_MOST_PX = 2**31


def shown(value: Any, most: int = 60) -> str:
    """A value from data for a message: as Python writes it, the beginning of long ones."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def image_id_of(value: Any) -> ImageId:
    """An id as it may be: a text or a whole number of up to 64 bits.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63):
        return value
    raise ValueError(f"the id {shown(value)} is neither a text nor a whole number of 64 bits")


def side_in_px(value: Any) -> int | None:
    """A side of an image as a whole number; some programs write it as text, or with .0.

    Raises:
        ValueError: no whole number, or none that a picture can have.
    """
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
    """A flag that is not empty as 0 or 1, however a program writes it.

    Raises:
        ValueError: anything else.
    """
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
