"""From encoded bytes to a uint8 picture, or a clear reason why there is none.

Flow: order -> sources -> **decode** -> views -> loader. Runs in the data workers on undecoded bytes, so that a broken
file costs itself alone. Decoding is Pillow's; what is decided here is what becomes of the odd kinds:

* EXIF orientation is applied, once: TIFF files are turned by Pillow itself, while it loads them. Damaged EXIF is taken
  as "upright".
* Animated files and multi-page files give their first frame.
* Transparent pixels are laid over white (their stored colours are arbitrary).
* 16-bit and 32-bit integers are scaled to 8 bit from the 16-bit range when they exceed 255; floats count as 0-1, 0-255
  or 0-65535 by their maximum.
* Palette, gray, CMYK, Lab and other modes are converted by Pillow.
* Where neither 1 nor 3 channels are asked for, nothing is converted: the file has to hold just as many. Pillow reads
  up to four (RGBA as it is stored, CMYK); TIFF files of any number are read by tifffile (`decode_channels`).
* Large JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size (``shrink``), which libjpeg does while decoding.
"""

import io
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded, in pixels (Pillow's own warning level): more is taken for a decompression bomb."""

_MODES = {1: "L", 3: "RGB"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
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
_BACK = {6: 8, 8: 6}  # what undoes a turn; the others undo themselves
_MOST_SCANS = 500  # of a progressive JPEG; real ones have about ten, each of which costs a whole decoding


class BrokenImage(Exception):
    """An image that cannot be used. The message is the reason, without the image's name."""


@dataclass
class OpenedImage:
    """An image whose header has been read and whose pixels have not.

    Attributes:
        picture: Pillow's.
        width, height: after EXIF orientation, px.
        orientation: EXIF's, 1 to 8.
        upright: whether ``decode`` turns it by its orientation; set it to False for pixels as they are stored.
    """

    picture: Image.Image
    width: int
    height: int
    orientation: int
    upright: bool = field(default=True, kw_only=True)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before EXIF orientation, px."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def mode(self) -> str:
        """Pillow's name of the stored pixel kind (RGB, L, P, CMYK, I;16, ...)."""
        return self.picture.mode

    @property
    def can_shrink(self) -> bool:
        """Whether ``decode(shrink=...)`` saves work, which only JPEG offers."""
        return self.picture.format == "JPEG"

    def decode(self, num_channels: int = 3, shrink: int = 1) -> np.ndarray:
        """Pixels as uint8 ``(height, width, num_channels)``; ``shrink`` 2, 4 or 8 gives a JPEG at that fraction of its
        size, rounded up.

        Raises:
            BrokenImage: the data are damaged or truncated.
        """
        picture = self.picture
        if num_channels not in _MODES and len(picture.getbands()) != num_channels:
            raise BrokenImage(f"{len(picture.getbands())} channels (mode {picture.mode}) instead of {num_channels}")
        mode = _MODES.get(num_channels, picture.mode)
        try:
            if shrink > 1 and self.can_shrink:
                # Pillow takes the largest reduction that is at most this one
                picture.draft(None, (max(1, picture.width // shrink), max(1, picture.height // shrink)))
            picture.load()
            picture = _to_mode(picture, mode)
            if self.upright != _is_turned_by_pillow(self.picture) and self.orientation in _TRANSPOSES:
                turn = self.orientation if self.upright else _BACK.get(self.orientation, self.orientation)
                picture = picture.transpose(_TRANSPOSES[turn])
        except BrokenImage:
            raise
        except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged data
            raise BrokenImage(_reason(error)) from error
        pixels = np.array(picture)  # a copy that is writable, as torch wants it
        return pixels.reshape(picture.height, picture.width, num_channels)


def open_image(data: bytes, num_channels: int = 3) -> OpenedImage:
    """Read the header of an encoded image.

    Args:
        data: the file.
        num_channels: that will be asked of ``decode``; with other numbers than 1 and 3, TIFF files are not Pillow's.

    Raises:
        BrokenImage: no bytes, no image, or more than ``MAX_PIXELS`` pixels.
    """
    if not data:
        raise BrokenImage("the file has zero bytes")
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > _MOST_SCANS:  # inside a scan 0xff is followed by 0
        raise BrokenImage(f"more than {_MOST_SCANS} scans in a JPEG, taken for a decompression bomb")
    if num_channels not in _MODES and data[:4] in _TIFF_STARTS:
        from mcl_hf.data.decode_channels import open_tiff

        return open_tiff(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    orientation = _orientation(picture)
    if orientation >= 5 and not _is_turned_by_pillow(picture):
        width, height = height, width
    return OpenedImage(picture, width, height, orientation)


def decode_image(data: bytes, num_channels: int = 3) -> np.ndarray:
    """Decode an image file's bytes to upright pixels, uint8 ``(height, width, num_channels)``.

    Raises:
        BrokenImage: with the reason, for anything that is not a whole image of sane size.
    """
    return open_image(data, num_channels).decode(num_channels)


def _orientation(picture: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow would tell of damage once in every worker
            value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about the pixels, whatever its parser stumbles over
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_turned_by_pillow(picture: Image.Image) -> bool:
    """Whether Pillow applies the orientation while loading: its size is then the turned one from the start."""
    return picture.format == "TIFF"


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _scale_to_8_bit(picture)
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] != 255:
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def _scale_to_8_bit(picture: Image.Image) -> Image.Image:
    return Image.fromarray(scale_to_8_bit(np.asarray(picture), is_16_bit=picture.mode.startswith("I;16")))


def scale_to_8_bit(stored: np.ndarray, is_16_bit: bool) -> np.ndarray:
    """Numbers of any kind as uint8 of the same shape: floats up to 1 times 255, what is 16 bit or exceeds 255 by 257.

    Raises:
        BrokenImage: not finite, or outside of 0-65535.
    """
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise BrokenImage("pixel values are not all finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise BrokenImage(f"pixel values from {low:g} to {high:g} lie outside 0-65535")
    if stored.dtype.kind == "f" and high <= 1:
        values = values * 255
    elif high > 255 or is_16_bit:
        values = values / 257
    return np.round(values).astype(np.uint8)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
