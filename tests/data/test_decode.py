"""Odd image files come out as the right picture, broken ones as a clear reason."""

import importlib.util
import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.data import BrokenImage, decode_image, open_image

_SPEC = importlib.util.spec_from_file_location("odd_images", Path(__file__).with_name("odd_images.py"))
odd_images = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(odd_images)

GOOD = list(odd_images.good_files())
BROKEN = list(odd_images.broken_files())


def test_there_are_many_kinds() -> None:
    assert len(GOOD) + len(BROKEN) >= 80
    assert len({name for name, *_ in GOOD + BROKEN}) == len(GOOD) + len(BROKEN)


@pytest.mark.parametrize(("data", "expected", "tolerance"), [pytest.param(*file[1:], id=file[0]) for file in GOOD])
def test_good_files(data: bytes, expected: np.ndarray, tolerance: int) -> None:
    opened = open_image(data)
    pixels = decode_image(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape == (opened.height, opened.width, 3)
    assert np.abs(pixels.astype(int) - expected).mean() <= tolerance


@pytest.mark.parametrize(("data", "expected", "tolerance"), [pytest.param(*file[1:], id=file[0]) for file in GOOD])
def test_good_files_in_gray(data: bytes, expected: np.ndarray, tolerance: int) -> None:
    pixels = decode_image(data, num_channels=1)
    gray = np.asarray(Image.fromarray(expected).convert("L"))
    assert pixels.shape == (*gray.shape, 1)
    assert np.abs(pixels[..., 0].astype(int) - gray).mean() <= tolerance + 1


@pytest.mark.parametrize(("data", "reason"), [pytest.param(*file[1:], id=file[0]) for file in BROKEN])
def test_broken_files(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode_image(data)
    assert reason in str(caught.value)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_can_be_decoded_smaller(shrink: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = odd_images.encode(odd_images.smooth_picture(403, 301), "JPEG", exif=exif, quality=95)
    opened = open_image(data)
    small, whole = opened.decode(shrink=shrink), decode_image(data)
    assert small.shape == (-(-opened.height // shrink), -(-opened.width // shrink), 3)
    averaged = Image.fromarray(whole).resize((small.shape[1], small.shape[0]), Image.Resampling.BOX)
    assert np.abs(small.astype(int) - np.asarray(averaged)).mean() < 2


def test_damaged_exif_is_passed_over_without_a_word() -> None:
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"  # promises five entries, ends in the first
    data = odd_images.encode(odd_images.smooth_picture(40, 30), "PNG", exif=damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_image(data)
    assert opened.orientation == 1
    with pytest.warns(UserWarning, match="Corrupt EXIF"):  # so that the test can fail
        Image.open(io.BytesIO(data)).getexif()


def test_threads_leave_the_filters_of_warnings_as_they_were():
    data = odd_images.encode(odd_images.smooth_picture(), "PNG")
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(open_image, [data] * 400))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
