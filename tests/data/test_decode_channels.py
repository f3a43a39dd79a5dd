"""Images of other than 1 or 3 channels reach the model as they are stored; what does not fit is named."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mcl_hf.data import BrokenImage, ViewLoader, decode_image, open_source
from mcl_hf.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 6), dtype=np.uint8)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def test_six_channels_side_by_side_one_after_the_other_and_on_pages() -> None:
    planes = PIXELS.transpose(2, 0, 1)
    for data in (
        tiff(PIXELS, photometric="minisblack", planarconfig="contig"),
        tiff(planes, photometric="minisblack", planarconfig="separate"),
        tiff(planes, photometric="minisblack", compression="zlib"),
    ):
        assert np.array_equal(decode_image(data, 6), PIXELS)


def test_16_bit_and_floats_are_scaled_to_8() -> None:
    wide = tiff(PIXELS.astype(np.uint16) * 257, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode_image(wide, 6), PIXELS)
    shares = tiff((PIXELS / 255).astype(np.float32), photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode_image(shares, 6), PIXELS)


def test_four_channels_of_pillow_stay_apart() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[..., :4], "RGBA").save(buffer, "PNG")
    assert np.array_equal(decode_image(buffer.getvalue(), 4), PIXELS[..., :4])
    assert not np.array_equal(decode_image(buffer.getvalue(), 3), PIXELS[..., :3])  # laid over white


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff(PIXELS[..., :5], photometric="minisblack", planarconfig="contig"), "5 channels instead of 6"),
        (tiff(PIXELS, photometric="minisblack", planarconfig="contig")[:2000], "."),
        (tiff(np.zeros((2, 3, 20, 30, 6), np.uint8), photometric="minisblack"), "are no picture with channels"),
        (b"II*\0 and no more", "."),
        (b"", "zero bytes"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, said: str) -> None:
    with pytest.raises(BrokenImage, match=said):
        decode_image(data, 6)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[..., :3]).save(buffer, "PNG")
    with pytest.raises(BrokenImage, match=r"3 channels \(mode RGB\) instead of 6"):
        decode_image(buffer.getvalue(), 6)


def test_tiffs_with_any_byte_damaged_are_read_or_broken(caplog: pytest.LogCaptureFixture) -> None:
    """tifffile raises nearly every built-in exception on them, and remarks on each tag in the log."""
    whole = tiff(PIXELS[:6, :7], photometric="minisblack", planarconfig="contig")
    raised = 0
    for place in range(0, len(whole), 2):
        for byte in (0, 3, 255):
            try:
                decode_image(whole[:place] + bytes([byte]) + whole[place + 1 :], 6)
            except BrokenImage as error:
                raised += 1
                assert "\n" not in str(error)
    assert raised > 50 and not caplog.records


def test_without_tifffile_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(InputError, match=r"pip install 'mcl_hf\[multispectral\]'"):
        decode_image(tiff(PIXELS), 6)


@pytest.mark.parametrize("augment_on", ["cpu", "device"])
def test_views_of_six_channels(tmp_path: Path, augment_on: str) -> None:
    for number in range(6):
        data = tiff(np.roll(PIXELS, number, 0), photometric="minisblack", planarconfig="contig")
        (tmp_path / f"{number}.tif").write_bytes(data)
    source = open_source(str(tmp_path))
    assert "0.tif, 30x20 px, mode 6 x uint8" in source.description
    loader = ViewLoader(
        source, view_size=16, ratios=(1, 2), batch_size=3, seed=0, num_channels=6, augment_on=augment_on
    )
    for batch in itertools.islice(loader, 3):
        assert batch.broken == []
        assert [tuple(view.shape) for view in batch.views_a + batch.views_b] == [(3, 6, 16, 16), (3, 6, 8, 8)] * 2
