"""How one cut-out, one background and the finished picture look: crop, size, rotation, colours, grain.

Flow: pool -> **appearance** + blending -> compose. All random numbers come from the generator that is handed in.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

MIN_TARGET_PX = 7.0
"""Least size of an object, as the root of its box' area: below it nothing can be told."""
OPAQUE = 0.5
"""Alpha from which a pixel belongs to an object."""

MAX_ROTATION_DEGREES = {
    "coin": 180, "flower": 180, "tool": 180, "fruit": 60, "vegetable": 60, "arthropod": 60, "fish": 25,
}  # fmt: skip
DEFAULT_ROTATION_DEGREES = 12
NEVER_MIRRORED = ("sign",)


def jitter(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Brightness, contrast and (1.4 times as strong) saturation, each by a factor of at most 1 ± strength."""
    for enhancer, extent in (
        (ImageEnhance.Brightness, strength),
        (ImageEnhance.Contrast, strength),
        (ImageEnhance.Color, 1.4 * strength),
    ):
        image = enhancer(image).enhance(rng.uniform(1 - extent, 1 + extent))
    return image


def background_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square part of a background, maybe mirrored and slightly blurred: float32 ``(size, size, 3)`` in 0..255."""
    side = min(image.size) * rng.uniform(0.45, 1.0)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    crop = jitter(crop, rng, 0.2)
    radius = rng.choice([0.0, 0.0, 0.4, 0.8])
    if radius:
        crop = crop.filter(ImageFilter.GaussianBlur(float(radius)))
    return np.asarray(crop).astype(np.float32)  # (S, S, 3)


def posed(
    cutout: Image.Image, label: str, target_px: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """A cut-out at a size, mirrored, stretched, rotated and recoloured at random.

    Args:
        cutout: RGBA.
        label: its class, which says how far it may be turned.
        target_px: root of the area of its box before it is turned.
        rng: source of all choices.

    Returns:
        Colours, float32 ``(h, w, 3)`` in 0..255, and alpha, float32 ``(h, w)`` in 0..1; None where fewer than a third
        of `MIN_TARGET_PX` squared pixels are opaque.
    """
    scale = max(target_px, MIN_TARGET_PX) / math.sqrt(cutout.width * cutout.height)
    if rng.random() < 0.5 and label not in NEVER_MIRRORED:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stretch = rng.uniform(0.88, 1.13)
    size = (max(3, round(cutout.width * scale * stretch)), max(3, round(cutout.height * scale)))
    degrees = rng.uniform(-1, 1) * MAX_ROTATION_DEGREES.get(label, DEFAULT_ROTATION_DEGREES)
    image = cutout.convert("RGBa").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    image = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    rows, columns = np.nonzero(np.asarray(image)[..., 3] > 255 * OPAQUE)
    if len(rows) < MIN_TARGET_PX**2 / 3:
        return None
    image = image.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    colours = np.asarray(jitter(image.convert("RGB"), rng, 0.25)).astype(np.float32)  # (h, w, 3)
    colours *= rng.uniform(0.93, 1.07, size=3).astype(np.float32)
    return colours, np.asarray(image)[..., 3].astype(np.float32) / 255


def finish(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The picture of a canvas, float32 ``(S, S, 3)`` in 0..255: grain, maybe a light blur, and a last jitter."""
    deviation = int(rng.integers(3)) * 2
    if deviation:
        canvas = canvas + deviation * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(0.35 if canvas.shape[0] <= 160 else 0.6))
    return jitter(image, rng, 0.08)
