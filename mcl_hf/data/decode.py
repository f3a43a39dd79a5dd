"""From encoded bytes to a uint8 picture, or a clear reason why there is none.

Flow: order -> sources -> **decode** -> views -> loader. Runs in the data workers on undecoded bytes, so that a broken
file costs itself alone. Decoding is Pillow's; what is decided here is what becomes of the odd kinds:

* Animated files and multi-page files give their first frame.
* Orientation, transparency, 16 bit, floats, palettes and other modes: see `mcl_hf.models.pixels`.
* Where neither 1 nor 3 channels are asked for, the file has to hold just as many. Pillow reads up to four; TIFF files
  of any number, as satellites and microscopes give them, are read by tifffile (BSD-3-Clause), which is installed apart:
  bands side by side or one after the other, in 8 or 16 bit or as floats. 16-bit numbers are scaled from their whole
  range, 0-65535: stretch data that fill a small part of it (reflectances up to 10,000, say) before.
* Large JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size (`shrink`), which libjpeg does while decoding.
"""

import io
import logging
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..models.pixels import (
    BrokenImage,
    check_bands,
    is_turned_by_pillow,
    orientation_of,
    scale_to_8_bit,
    to_pixels,
    turn_of,
    unheard,
)

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded, in pixels (Pillow's own warning level): more is taken for a decompression bomb."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_SCANS = 500  # of a progressive JPEG; real ones have about ten, each of which costs a whole decoding


@dataclass
class OpenedImage:
    """An image whose header has been read and whose pixels have not.

    Attributes:
        picture: Pillow's.
        width, height: after EXIF orientation, px.
        orientation: EXIF's, 1 to 8.
        upright: whether `decode` turns it by its orientation; set it to False for pixels as they are stored.
        part: left and top of the part that is meant, px of the upright picture; `width` and `height` are then its own.
            None: all of it. The whole picture is decoded: hardly a format can do less.
    """

    picture: Image.Image
    width: int
    height: int
    orientation: int
    upright: bool = field(default=True, kw_only=True)
    part: tuple[int, int] | None = field(default=None, kw_only=True)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before EXIF orientation, px."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def mode(self) -> str:
        """Pillow's name of the stored pixel kind (RGB, L, P, CMYK, I;16, ...)."""
        return self.picture.mode

    def shrink_for(self, times: int) -> int:
        """The largest `shrink` of at most `times`, at least 1; only JPEGs are decoded at less than their size."""
        is_jpeg = getattr(self.picture, "format", None) == "JPEG"
        return next((shrink for shrink in (8, 4, 2) if shrink <= times), 1) if is_jpeg else 1

    def decode(self, num_channels: int = 3, shrink: int = 1) -> np.ndarray:
        """Pixels as uint8 `(height, width, num_channels)`, or a `BrokenImage` where the data are damaged; a `shrink` of
        2, 4 or 8 gives a JPEG at that fraction of its size, rounded up, and anything else as it is."""
        shrink = self.shrink_for(shrink)
        pixels = self._decode_whole(num_channels, shrink)
        if self.part is None:
            return pixels
        left, top = (start // shrink for start in self.part)
        return pixels[top : top + math.ceil(self.height / shrink), left : left + math.ceil(self.width / shrink)]

    def _decode_whole(self, num_channels: int, shrink: int) -> np.ndarray:
        picture = self.picture
        check_bands(picture, num_channels)
        try:
            if shrink > 1:
                # Pillow takes the largest reduction that is at most this one
                picture.draft(None, (max(1, picture.width // shrink), max(1, picture.height // shrink)))
            picture.load()
            return to_pixels(picture, num_channels, turn_of(picture, self.orientation, self.upright))
        except BrokenImage:
            raise
        except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged data
            raise BrokenImage(_reason(error)) from error


@dataclass
class OpenedTiff(OpenedImage):
    """Without a picture: the pixels have been read already, as they are stored, `(height, width, channels)`."""

    pixels: np.ndarray

    @property
    def mode(self) -> str:
        return f"{self.pixels.shape[2]} x {self.pixels.dtype}"

    def _decode_whole(self, num_channels: int, shrink: int) -> np.ndarray:
        if self.pixels.shape[2] != num_channels:
            raise BrokenImage(f"{self.pixels.shape[2]} channels instead of {num_channels}")
        if self.pixels.dtype == np.uint8:
            return self.pixels
        return scale_to_8_bit(self.pixels, is_16_bit=self.pixels.dtype == np.uint16)


def open_image(data: bytes, num_channels: int = 3) -> OpenedImage:
    """Read the header of an encoded image; `num_channels` is what will be asked of `decode`.

    Raises:
        BrokenImage: no bytes, no image, or more than `MAX_PIXELS` pixels.
        InputError: a TIFF file is not Pillow's, and tifffile is not installed.
    """
    if not data:
        raise BrokenImage("the file has zero bytes")
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > _MOST_SCANS:  # inside a scan 0xff is followed by 0
        raise BrokenImage(f"more than {_MOST_SCANS} scans in a JPEG, taken for a decompression bomb")
    if num_channels not in (1, 3) and data[:4] in _TIFF_STARTS:
        pixels = _read_tiff(data)
        return OpenedTiff(None, pixels.shape[1], pixels.shape[0], 1, pixels)  # type: ignore[arg-type]  # no Pillow
    try:
        with unheard():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        start = data[:16].decode("ascii", errors="replace").encode("unicode_escape", errors="replace").decode("ascii")
        raise BrokenImage(f"not an image that Pillow knows ({len(data)} bytes, starts with '{start}')") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImage(f"more than {MAX_PIXELS} pixels, taken for a decompression bomb") from error
    except Exception as error:  # as in decode: a damaged header raises whatever its parser stumbles over
        raise BrokenImage(_reason(error)) from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width}x{height} pixels are more than {MAX_PIXELS}, taken for a decompression bomb")
    if width < 1 or height < 1:
        raise BrokenImage(f"the header says {width}x{height} pixels")
    orientation = orientation_of(picture)
    if orientation >= 5 and not is_turned_by_pillow(picture):
        width, height = height, width
    return OpenedImage(picture, width, height, orientation)


def _read_tiff(data: bytes) -> np.ndarray:
    """The first picture of a TIFF file, whole and as it is stored: `(height, width, channels)`, integers or floats."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise InputError(
            "TIFF images of other than 1 or 3 channels are read by tifffile: pip install 'mcl_hf[multispectral]'"
        ) from error
    logging.getLogger("tifffile").disabled = True  # it remarks on each damaged tag, hundreds in a file
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            axes, shape = series.axes.replace("I", "S").replace("Q", "S").replace("C", "S"), series.shape
            sizes = dict(zip(axes, shape, strict=True))
            if sorted(axes) not in (["X", "Y"], ["S", "X", "Y"]):
                raise BrokenImage(f"axes {series.axes} of {shape} are no picture with channels")
            if sizes["Y"] * sizes["X"] > MAX_PIXELS:
                raise BrokenImage(f"more than {MAX_PIXELS} pixels, taken for a decompression bomb")
            pixels = series.asarray()
            pixels = pixels[..., None] if pixels.ndim == 2 else np.moveaxis(pixels, axes.index("S"), 2)  # (H, W, C)
    except BrokenImage:
        raise
    except Exception as error:  # as Pillow's, its decoders raise nearly everything on damaged data
        raise BrokenImage(_reason(error)) from error
    if pixels.dtype.kind not in "uif":
        raise BrokenImage(f"pixels are {pixels.dtype}, not numbers")
    return np.ascontiguousarray(pixels)


def decode_image(data: bytes, num_channels: int = 3) -> np.ndarray:
    """Decode an image file's bytes to upright pixels, uint8 `(height, width, num_channels)`.

    Raises:
        BrokenImage: with the reason, for anything that is not a whole image of sane size.
    """
    return open_image(data, num_channels).decode(num_channels)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """uint8 `(H, W, 1 or 3)` as Pillow's gray or RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def open_picture(path: Path, name: str | None = None) -> Image.Image:
    """A picture of a file that a user named, upright and RGB; an `InputError` calls it `name`, None: by its path."""
    name = name or str(path)
    try:
        return as_picture(decode_image(path.read_bytes(), 3))
    except BrokenImage as error:
        raise InputError(f"{name} is not a picture that can be read: {error}") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
