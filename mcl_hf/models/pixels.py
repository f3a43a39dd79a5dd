"""Pictures of any kind -> upright 8-bit pixels in the channels of a model: the one conversion that there is.

Training's decoder (`mcl_hf.data.decode`) and `MCLImageProcessor` both end here: a model sees at work what it saw in
training. What becomes of the odd kinds:

* EXIF orientation is applied, once: TIFF files are turned by Pillow itself, while it loads them. Damaged EXIF is taken
  as "upright".
* Transparent pixels are laid over white (their stored colours are arbitrary).
* 16-bit and 32-bit integers are scaled to 8 bit from the 16-bit range when they exceed 255; floats count as 0-1, 0-255
  or 0-65535 by their maximum.
* Palette, gray, CMYK, Lab and other modes are converted by Pillow.
* Where neither 1 nor 3 channels are asked for, nothing is converted: the picture has to hold just as many.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

_MODES = {1: "L", 3: "RGB"}
_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_filters = threading.Lock()
if hasattr(os, "register_at_fork"):  # a process that is forked while a thread holds it would wait for ever
    os.register_at_fork(before=_filters.acquire, after_in_parent=_filters.release, after_in_child=_filters.release)
_BACK = {6: 8, 8: 6}  # what undoes a turn; the others undo themselves


class BrokenImage(ValueError):
    """An image that cannot be used. The message is the reason, without the image's name."""


@contextmanager
def unheard() -> Iterator[None]:
    """Warnings in here are not heard. Their filters are the process's: threads that change them at the same time would
    put back each other's, and leave it deaf for good."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; from 5 on, width and height change places."""
    try:
        with unheard():  # Pillow would tell of damage once in every worker
            value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about the pixels, whatever its parser stumbles over
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_turned_by_pillow(picture: Image.Image) -> bool:
    """Whether Pillow applies the orientation while loading: its size is then the turned one from the start."""
    return picture.format == "TIFF"


def turn_of(picture: Image.Image, orientation: int, upright: bool = True) -> int:
    """The turn that loaded pixels still need, as an EXIF orientation: `orientation` is that of `orientation_of`, asked
    before the picture was loaded, `upright` False for the pixels as they are stored."""
    if upright == is_turned_by_pillow(picture):
        return 1
    return orientation if upright else _BACK.get(orientation, orientation)


def check_bands(picture: Image.Image, num_channels: int) -> None:
    """BrokenImage where neither 1 nor 3 channels are asked for, and the picture has another number."""
    if num_channels not in _MODES and len(picture.getbands()) != num_channels:
        raise BrokenImage(f"{len(picture.getbands())} channels (mode {picture.mode}) instead of {num_channels}")


def to_pixels(picture: Image.Image, num_channels: int = 3, orientation: int = 1) -> np.ndarray:
    """A picture's pixels as uint8 `(height, width, num_channels)`, a copy that is writable, turned by `turn_of`.

    Raises:
        BrokenImage: channels that do not fit, or values that are not finite or outside of 0-65535.
    """
    check_bands(picture, num_channels)
    picture = _to_mode(picture, _MODES.get(num_channels, picture.mode))
    if orientation in _TRANSPOSES:
        picture = picture.transpose(_TRANSPOSES[orientation])
    return np.array(picture).reshape(picture.height, picture.width, num_channels)


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        is_16_bit = picture.mode.startswith("I;16")
        picture = Image.fromarray(scale_to_8_bit(np.asarray(picture), is_16_bit))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] != 255:
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def scale_to_8_bit(stored: np.ndarray, is_16_bit: bool) -> np.ndarray:
    """Numbers of any kind as uint8 of the same shape: floats up to 1 times 255, what is 16 bit or exceeds 255 by 257.
    BrokenImage: not finite, or outside of 0-65535."""
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise BrokenImage("pixel values are not all finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise BrokenImage(f"pixel values from {low:g} to {high:g} lie outside 0-65535")
    if stored.dtype.kind in "bf" and high <= 1:
        values = values * 255
    elif high > 255 or is_16_bit:
        values = values / 257
    return np.round(values).astype(np.uint8)
