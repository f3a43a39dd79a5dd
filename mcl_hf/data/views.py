"""Rendering the views of one image at the sizes that the levels use.

Flow: order -> sources -> decode -> augment + **views** -> loader. Level i of L takes a view of side S/r_i; side a
draws from the first published pipeline and side b from the second, each level from draws of its own (arXiv 2304.02010,
section 3; GuoQiushan/MCL at 1912aa9).

Two renderings of the same draws:

* ``direct`` (default): the crop is resized straight to S/r with antialiasing, the colour operations are one 3x4
  matrix, blur has sigma/r.
* ``published``: every view at S px with Pillow's operations in the published order, then every r-th pixel (``[::r,
  ::r]``).

Differs from the official code: only ``direct`` does; see ``augment.colour_matrix`` for its approximations.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as pil_ops
from torchvision.transforms.functional import InterpolationMode

from mcl_hf.data.augment import (
    PUBLISHED_A,
    PUBLISHED_B,
    REFERENCE_SIZE,
    ViewDraw,
    ViewRecipe,
    apply_colour,
    blur,
    draw_views,
    solarise,
)
from mcl_hf.data.decode import OpenedImage
from mcl_hf.errors import InputError

VIEW_RENDERINGS = ("direct", "published")


def side_recipes(num_levels: int, sides: int) -> list[ViewRecipe]:
    """Recipe of each of the ``sides * num_levels`` views: side a's levels, then side b's."""
    return [PUBLISHED_A] * num_levels + [PUBLISHED_B] * (num_levels if sides == 2 else 0)


def render_views(
    image: OpenedImage,
    recipes: Sequence[ViewRecipe],
    ratios: Sequence[int],
    *,
    seed: int,
    position: int,
    view_size: int = REFERENCE_SIZE,
    num_channels: int = 3,
    rendering: str = "direct",
) -> list[np.ndarray]:
    """Draw and render ``len(recipes)`` views of an image; view ``v`` belongs to level ``v % len(ratios)``.

    Returns:
        uint8 arrays ``(s, s, num_channels)`` with s = view_size / ratio of the view's level.

    Raises:
        BrokenImage: the image cannot be decoded.
    """
    draws = draw_views(image.width, image.height, recipes, seed, position)
    view_ratios = [ratios[v % len(ratios)] for v in range(len(draws))]
    if rendering == "published":
        picture = _as_picture(image.decode(num_channels))
        return [
            render_published(picture, draw, view_size, ratio) for draw, ratio in zip(draws, view_ratios, strict=True)
        ]
    if rendering != "direct":
        raise InputError(f"view_rendering '{rendering}' is unknown: it is one of {', '.join(VIEW_RENDERINGS)}.")
    shrink = _largest_shrink(draws, [view_size // ratio for ratio in view_ratios]) if image.can_shrink else 1
    pixels = image.decode(num_channels, shrink)
    return [
        render_direct(pixels, draw, view_size, ratio, shrink) for draw, ratio in zip(draws, view_ratios, strict=True)
    ]


def render_direct(pixels: np.ndarray, draw: ViewDraw, view_size: int, ratio: int, shrink: int = 1) -> np.ndarray:
    """One view at its own size: uint8 ``(H, W, C)``, decoded at 1/``shrink``, to ``(view_size/ratio, view_size/ratio,
    C)``.
    """
    side = view_size // ratio
    top, left = draw.top // shrink, draw.left // shrink
    bottom, right = max(top + 1, (draw.top + draw.height) // shrink), max(left + 1, (draw.left + draw.width) // shrink)
    crop = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[
        None
    ]  # (1, C, h, w), channels last in memory
    resized = F.interpolate(crop, size=(side, side), mode="bilinear", antialias=True)
    view = np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())  # (s, s, C)
    view = apply_colour(view, draw)
    view = blur(view, draw.blur_sigma_px * view_size / REFERENCE_SIZE / ratio)
    if draw.solarise:
        view = solarise(view)
    return view[:, ::-1] if draw.flip else view


def render_published(picture: Image.Image, draw: ViewDraw, view_size: int, ratio: int) -> np.ndarray:
    """One view as published: everything at ``view_size`` px in 8 bit with Pillow, then ``[::ratio, ::ratio]``."""
    size = [view_size, view_size]
    view = pil_ops.resized_crop(picture, draw.top, draw.left, draw.height, draw.width, size, InterpolationMode.BILINEAR)
    if draw.flip:
        view = pil_ops.hflip(view)
    adjust = (
        (pil_ops.adjust_brightness, draw.brightness),
        (pil_ops.adjust_contrast, draw.contrast),
        (pil_ops.adjust_saturation, draw.saturation),
        (pil_ops.adjust_hue, draw.hue),
    )
    for operation in draw.jitter_order:
        function, factor = adjust[operation]
        view = function(view, factor)
    if draw.grayscale:
        view = pil_ops.to_grayscale(view, num_output_channels=len(view.getbands()))
    if draw.blur_sigma_px > 0:
        view = view.filter(ImageFilter.GaussianBlur(radius=draw.blur_sigma_px * view_size / REFERENCE_SIZE))
    if draw.solarise:
        view = ImageOps.solarize(view, threshold=128)
    pixels = np.asarray(view)
    return pixels.reshape(view_size, view_size, -1)[::ratio, ::ratio]


def _largest_shrink(draws: Sequence[ViewDraw], sides: Sequence[int]) -> int:
    """Largest JPEG reduction at which every crop still has at least as many pixels a side as its view."""
    fits = (min(draw.height, draw.width) // side for draw, side in zip(draws, sides, strict=True))
    least = min(fits)
    return next(shrink for shrink in (8, 4, 2, 1) if shrink <= max(1, least))


def _as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
