"""TIFF files of any number of channels, as satellites and microscopes give them.

Flow: order -> sources -> decode (**decode_channels**) -> views -> loader. Only where a model takes neither 1 nor 3
channels: Pillow knows no more than four. Read by tifffile (BSD-3-Clause), which is installed apart
(``pip install 'mcl_hf[multispectral]'``); bands lie side by side or one after the other, in 8 or 16 bit or as floats.

16-bit numbers are scaled from their whole range, 0-65535: stretch data that fill a small part of it (reflectances up to
10,000, say) before, or 8 bit will keep little of them.
"""

import io
import logging
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..models.pixels import scale_to_8_bit
from .decode import MAX_PIXELS, BrokenImage, OpenedImage


@dataclass
class OpenedTiff(OpenedImage):
    """As `OpenedImage`; the pixels have been read already, as they are stored: ``(height, width, channels)``."""

    pixels: np.ndarray

    @property
    def mode(self) -> str:
        return f"{self.pixels.shape[2]} x {self.pixels.dtype}"

    @property
    def can_shrink(self) -> bool:
        return False

    def decode(self, num_channels: int = 3, shrink: int = 1) -> np.ndarray:
        if self.pixels.shape[2] != num_channels:
            raise BrokenImage(f"{self.pixels.shape[2]} channels instead of {num_channels}")
        if self.pixels.dtype == np.uint8:
            return self.pixels
        return scale_to_8_bit(self.pixels, is_16_bit=self.pixels.dtype == np.uint16)


def open_tiff(data: bytes) -> OpenedTiff:
    """Read a TIFF file whole.

    Raises:
        BrokenImage: damaged, of no two dimensions and channels, or more than ``MAX_PIXELS`` pixels.
        InputError: tifffile is not installed.
    """
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
        raise BrokenImage(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if pixels.dtype.kind not in "uif":
        raise BrokenImage(f"pixels are {pixels.dtype}, not numbers")
    return OpenedTiff(None, sizes["X"], sizes["Y"], 1, np.ascontiguousarray(pixels))  # type: ignore[arg-type]  # no Pillow
