"""The image processor makes of a picture what the decoder of training makes of its file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_hf import MCLConfig, MCLImageProcessor
from mcl_hf.data import decode_image

from ..data.odd_images import good_files, smooth_picture
from .tiny import tiny_config

FILES = [(name, data) for name, data, _, _ in good_files()]


def plain_processor(num_channels: int = 3) -> MCLImageProcessor:
    """Neither resizes nor normalises: what remains is the conversion."""
    config: MCLConfig = tiny_config(num_channels=num_channels)
    return MCLImageProcessor.from_config(config, do_resize=False, do_center_crop=False, do_normalize=False)


def pixels_of(processor: MCLImageProcessor, image: object) -> np.ndarray:
    """(H, W, C) in 0-255."""
    return 255 * processor(image, return_tensors="pt").pixel_values[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(("name", "data"), FILES, ids=[name for name, _ in FILES])
def test_every_kind_of_picture_is_what_training_saw(name: str, data: bytes, num_channels: int) -> None:
    decoded = decode_image(data, num_channels).astype(float)
    shown = pixels_of(plain_processor(num_channels), Image.open(io.BytesIO(data)))
    assert shown.shape == decoded.shape and np.abs(shown - decoded).max() <= 1


@pytest.mark.parametrize(
    "kind",
    ["uint16", "int32", "float", "float32 to 65535", "bool", "gray", "tensor", "rgba", "rgba uint16", "rgba int64",
     "rgba float", "rgba float32 to 255"],
)  # fmt: skip
@pytest.mark.parametrize("num_channels", [1, 3])
def test_numbers_of_every_kind_are_what_uint8_is(kind: str, num_channels: int) -> None:
    pixels, processor = smooth_picture(), plain_processor(num_channels)
    pixels[:4] = 255
    if kind == "bool":
        pixels = np.where(pixels[..., :1] > 127, 255, 0).astype(np.uint8).repeat(3, axis=2)
    if kind == "gray":
        pixels = pixels[..., :1].repeat(3, axis=2)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    given = {
        "uint16": pixels.astype(np.uint16) * 257,
        "int32": pixels.astype(np.int32) * 257,
        "float": pixels / 255,
        "float32 to 65535": pixels.astype(np.float32) * 257,
        "bool": pixels > 0,
        "gray": pixels[..., :1],
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        "rgba": rgba,
        "rgba uint16": rgba.astype(np.uint16) * 257,
        "rgba int64": rgba.astype(np.int64),
        "rgba float": rgba / 255,
        "rgba float32 to 255": rgba.astype(np.float32),
    }[kind]
    expected = pixels_of(processor, Image.fromarray(pixels))
    assert expected.shape[-1] == num_channels and np.abs(pixels_of(processor, given) - expected).max() <= 1.01


def test_transparent_parts_of_floats_are_white_without_rescaling() -> None:
    clear = np.zeros((8, 8, 4), np.float32)
    assert (plain_processor()(clear, do_rescale=False, return_tensors="np").pixel_values == 1).all()


def test_other_numbers_of_channels_are_as_stored() -> None:
    pixels = np.dstack([smooth_picture(), smooth_picture()[..., :2]])  # (H, W, 5)
    assert np.abs(pixels_of(plain_processor(5), pixels) - pixels).max() < 0.01
    rgba = Image.fromarray(pixels[..., :4], "RGBA")
    assert np.abs(pixels_of(plain_processor(4), rgba) - pixels[..., :4]).max() < 0.01
    with pytest.raises(ValueError, match="3 channels .* instead of 4"):
        plain_processor(4)(Image.fromarray(pixels[..., :3]))


def test_numbers_that_are_no_picture_are_refused_or_left_alone() -> None:
    normalised = torch.randn(3, 8, 8)
    with pytest.raises(ValueError, match="lie outside 0-65535"):
        plain_processor()(normalised)
    left = plain_processor()(normalised, do_rescale=False, return_tensors="pt").pixel_values[0]
    assert torch.equal(left, normalised)
    half = plain_processor()(normalised, rescale_factor=0.5, return_tensors="pt").pixel_values[0]
    assert torch.allclose(half, normalised / 2)
