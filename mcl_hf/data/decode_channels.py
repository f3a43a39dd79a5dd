"""TIFF files of any number of channels, as satellites and microscopes give them.

Flow: order -> sources -> **decode_channels** -> decode -> views -> loader. Only where a model takes neither 1 nor 3
channels: Pillow knows no more than four. Read by tifffile (BSD-3-Clause), which is installed apart
(`pip install 'mcl_hf[multispectral]'`); bands lie side by side or one after the other, in 8 or 16 bit or as floats.

16-bit numbers are scaled from their whole range, 0-65535: stretch data that fill a small part of it (reflectances up to
10,000, say) before, or 8 bit will keep little of them.
"""

import io
import logging

import numpy as np

from ..errors import InputError
from ..models.pixels import BrokenImage


def read_tiff(data: bytes, most_pixels: int) -> np.ndarray:
    """The first picture of a TIFF file, whole and as it is stored: `(height, width, channels)`, integers or floats.

    Raises:
        BrokenImage: damaged, of no two dimensions and channels, or more than `most_pixels` pixels.
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
            if sizes["Y"] * sizes["X"] > most_pixels:
                raise BrokenImage(f"more than {most_pixels} pixels, taken for a decompression bomb")
            pixels = series.asarray()
            pixels = pixels[..., None] if pixels.ndim == 2 else np.moveaxis(pixels, axes.index("S"), 2)  # (H, W, C)
    except BrokenImage:
        raise
    except Exception as error:  # as Pillow's, its decoders raise nearly everything on damaged data
        raise BrokenImage(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if pixels.dtype.kind not in "uif":
        raise BrokenImage(f"pixels are {pixels.dtype}, not numbers")
    return np.ascontiguousarray(pixels)
