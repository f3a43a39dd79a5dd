"""One image file, made no larger than it has to be: what `pack` does to every image.

Flow: sources -> decode -> **shrink** -> pack. Decoding a JPEG of 4000 px takes some ninety times as long as one of
500 px (108 and 1.2 ms on one core), reading it thirty times as many bytes; views of 224 px need neither.
"""

import io
from dataclasses import dataclass

from PIL import Image

from ..decode import as_picture, open_image

MAX_JPEG_SIDE = 65_500
"""Longest side that libjpeg writes, in px."""

_GRAY_MODES = ("1", "L", "LA", "La", "F")


@dataclass(frozen=True)
class ShrunkImage:
    """The bytes to store, and whether they are new ones."""

    data: bytes
    reencoded: bool


def shrink_image(data: bytes, max_side: int, jpeg_quality: int) -> ShrunkImage:
    """Cap the longer side of an encoded image at `max_side` px.

    An image that is small enough keeps its bytes; it is decoded nevertheless, so that a damaged one is found here. A
    larger one becomes a baseline JPEG (4:2:0, gray where it was gray) of what training would see of it (`decode`),
    without EXIF and colour profile, as the pixels no longer need the one and training does not read the other.

    Args:
        data: bytes of an image file of any kind that `decode` reads.
        max_side: in px, at most `MAX_JPEG_SIDE`.
        jpeg_quality: 1 to 95, libjpeg's scale.

    Raises:
        BrokenImage: the image cannot be decoded; the message is the reason.
    """
    image = open_image(data)
    channels = 1 if image.mode in _GRAY_MODES or image.mode.startswith("I") else 3
    if max(image.width, image.height) <= max_side:
        image.decode(channels)
        return ShrunkImage(data, reencoded=False)
    width, height = capped_size(image.width, image.height, max_side)
    # at least twice the wanted size is left for the resampling filter
    pixels = image.decode(channels, image.shrink_for(max(image.width, image.height) // (2 * max_side)))  # (H, W, C)
    buffer = io.BytesIO()
    as_picture(pixels).resize((width, height), Image.Resampling.LANCZOS).save(
        buffer, "JPEG", quality=jpeg_quality, subsampling="4:2:0"
    )
    return ShrunkImage(buffer.getvalue(), reencoded=True)


def capped_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Width and height in px with the longer one at most `max_side` and the shape kept, each at least 1."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
