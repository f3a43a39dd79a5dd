"""Rendering the views of one image at the sizes that the levels use.

Flow: order -> sources -> decode -> views (draw -> **render** -> finish) -> loader. Level i of L takes a view of
side S/r_i; side a draws from the first published pipeline and side b from the second, each level from draws of its own
(arXiv 2304.02010, section 3; GuoQiushan/MCL at 1912aa9). Two renderings of the same draws:

* `direct` (default): the crop is resized straight to S/r with antialiasing, the colour operations are one matrix (see
  `finish.colour_map`), blur has sigma/r. `crop_views` stops after the crop; `augment_batch` does the rest.
* `published`: every view at S px with Pillow's operations in the published order, then every r-th pixel.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import cycle

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as pil_ops
from torchvision.transforms.functional import InterpolationMode

from ...errors import InputError
from ..decode import OpenedImage, as_picture
from .draw import PUBLISHED_A, PUBLISHED_B, REFERENCE_SIZE, ViewDraw, ViewRecipe, draw_views
from .finish import apply_colour, blur, solarise

VIEW_RENDERINGS = ("direct", "published")


@lru_cache
def side_recipes(num_levels: int, sides: int, min_crop_scale: float | None = None) -> tuple[ViewRecipe, ...]:
    """Recipe of each of the `sides * num_levels` views: side a's levels, then side b's; `min_crop_scale` is the
    smallest area of a crop as a share of the picture, None the published one."""
    recipes = (PUBLISHED_A,) * num_levels + (PUBLISHED_B,) * (num_levels if sides == 2 else 0)
    if min_crop_scale is None:
        return recipes
    return tuple(replace(recipe, crop_scale=(min_crop_scale, recipe.crop_scale[1])) for recipe in recipes)


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
    """Draw and render `len(recipes)` views of an image; view `v` belongs to level `v % len(ratios)`.

    Returns:
        uint8 arrays `(num_channels, s, s)` with s = view_size / ratio of the view's level.

    Raises:
        BrokenImage: the image cannot be decoded.
        InputError: an unknown rendering, or `published` for images that Pillow has no operations for.
    """
    check_rendering(rendering, num_channels)
    of_view = cycle(ratios)
    if rendering == "published":
        draws = draw_views(image.width, image.height, recipes, seed, position)
        picture = as_picture(image.decode(num_channels))
        return [render_published(picture, draw, view_size, ratio) for draw, ratio in zip(draws, of_view, strict=False)]
    crops, draws = crop_views(
        image, recipes, ratios, seed=seed, position=position, view_size=view_size, num_channels=num_channels
    )
    scales = (blur_scale(view_size, ratio) for ratio in of_view)
    return list(map(finish_direct, crops, draws, scales))


def check_rendering(rendering: str, num_channels: int) -> None:
    """Raise `InputError` where there is no such rendering of such images."""
    if rendering not in VIEW_RENDERINGS:
        raise InputError(f"view_rendering '{rendering}' is unknown: it is one of {', '.join(VIEW_RENDERINGS)}")
    if rendering == "published" and num_channels not in (1, 3):
        raise InputError(
            f"view_rendering 'published' is defined for 1 and 3 channels, not {num_channels}: use direct, which leaves "
            "saturation and hue alone"
        )


def crop_views(
    image: OpenedImage,
    recipes: Sequence[ViewRecipe],
    ratios: Sequence[int],
    *,
    seed: int,
    position: int,
    view_size: int = REFERENCE_SIZE,
    num_channels: int = 3,
) -> tuple[list[np.ndarray], list[ViewDraw]]:
    """The views of `render_views`, `direct`, only cropped and resized, and what remains to be done to each."""
    draws = draw_views(image.width, image.height, recipes, seed, position)
    sides = [view_size // ratios[view % len(ratios)] for view in range(len(draws))]
    shrink = largest_shrink(image, draws, sides)
    pixels = image.decode(num_channels, shrink)
    return [crop_direct(pixels, draw, side, shrink) for draw, side in zip(draws, sides, strict=True)], draws


def render_direct(pixels: np.ndarray, draw: ViewDraw, view_size: int, ratio: int, shrink: int = 1) -> np.ndarray:
    """One view at its own size s = view_size / ratio: uint8 `(H, W, C)`, decoded at 1/`shrink`, to `(C, s, s)`."""
    return finish_direct(crop_direct(pixels, draw, view_size // ratio, shrink), draw, blur_scale(view_size, ratio))


def crop_direct(pixels: np.ndarray, draw: ViewDraw, side: int, shrink: int = 1) -> np.ndarray:
    """The crop of `draw` at `side` px, antialiased: uint8 `(H, W, C)` to `(C, side, side)`."""
    top, left = draw.top // shrink, draw.left // shrink
    bottom, right = max(top + 1, (draw.top + draw.height) // shrink), max(left + 1, (draw.left + draw.width) // shrink)
    crop = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]  # (1, C, h, w), a view
    return F.interpolate(crop, size=(side, side), mode="bilinear", antialias=True)[0].contiguous().numpy()


def finish_direct(view: np.ndarray, draw: ViewDraw, sigma_scale: float) -> np.ndarray:
    """Colour, blur, solarisation and flip of a cropped view, uint8 `(C, s, s)`; `sigma_scale` is `blur_scale`'s."""
    view = blur(apply_colour(view, draw), draw.blur_sigma_px * sigma_scale)
    view = solarise(view) if draw.solarise else view
    return view[:, :, ::-1] if draw.flip else view


def blur_scale(view_size: int, ratio: int) -> float:
    """Pixels of a level's view per pixel of the frame that sigmas refer to."""
    return view_size / REFERENCE_SIZE / ratio


def render_published(picture: Image.Image, draw: ViewDraw, view_size: int, ratio: int) -> np.ndarray:
    """One view as published: everything at `view_size` px in 8 bit with Pillow, then `[::ratio, ::ratio]`: uint8
    `(C, s, s)` with s = view_size / ratio."""
    size = [view_size, view_size]
    view = pil_ops.resized_crop(picture, draw.top, draw.left, draw.height, draw.width, size, InterpolationMode.BILINEAR)
    if draw.flip:
        view = pil_ops.hflip(view)
    for operation in draw.jitter_order:
        name = ("brightness", "contrast", "saturation", "hue")[operation]
        view = getattr(pil_ops, f"adjust_{name}")(view, getattr(draw, name))
    if draw.grayscale:
        view = pil_ops.to_grayscale(view, num_output_channels=len(view.getbands()))
    if draw.blur_sigma_px > 0:
        view = view.filter(ImageFilter.GaussianBlur(radius=draw.blur_sigma_px * view_size / REFERENCE_SIZE))
    if draw.solarise:
        view = ImageOps.solarize(view, threshold=128)
    pixels = np.asarray(view)
    return pixels.reshape(view_size, view_size, -1)[::ratio, ::ratio].transpose(2, 0, 1)


def largest_shrink(image: OpenedImage, draws: Sequence[ViewDraw], sides: Sequence[int]) -> int:
    """Largest JPEG reduction at which every crop still has at least as many pixels a side as its view."""
    return image.shrink_for(min(min(draw.height, draw.width) // side for draw, side in zip(draws, sides, strict=True)))
