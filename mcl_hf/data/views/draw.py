"""What happens to a view: random parameters as plain data.

Flow: order -> sources -> decode -> views (**draw** -> render, finish) -> loader.

Source: the two pipelines of arXiv 2304.02010 as in the published configuration (GuoQiushan/MCL at 1912aa9), which are
BYOL's; crop and jitter parameters are drawn with torchvision's rules (RandomResizedCrop, ColorJitter). Differs from the
official code: every number comes from a counter (seed, position, view) and never from a global generator, so that a
resumed run and any number of workers see the same views; there the blur's sigma depends on the worker's number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

REFERENCE_SIZE = 224
"""Side in px of the frame that blur sigmas refer to; at other view sizes sigma scales along."""

_CROP_TRIES = 10
_ORDERS = tuple(permutations(range(4)))
_NUM_DRAWS = 2 * _CROP_TRIES + 14


@dataclass(frozen=True)
class ViewRecipe:
    """Ranges and probabilities of one augmentation pipeline; a factor range of 0.4 means factors from 0.6 to 1.4.

    Attributes:
        crop_scale: area of the crop as a share of the picture.
        crop_ratio: width over height of the crop, drawn uniformly in the logarithm.
        hue: largest shift, in turns of the colour circle.
        blur_sigma_px: standard deviation in pixels of a frame of `REFERENCE_SIZE`.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 1.0
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    solarise_probability: float = 0.0


PUBLISHED_A = ViewRecipe()
PUBLISHED_B = ViewRecipe(blur_probability=0.1, solarise_probability=0.2)


@dataclass(frozen=True)
class ViewDraw:
    """The parameters of one view of one image.

    Attributes:
        top, left, height, width: of the crop, px of the upright picture at full size.
        jitter_order: of 0 brightness, 1 contrast, 2 saturation, 3 hue; empty where no jitter was drawn.
        blur_sigma_px: in pixels of a frame of `REFERENCE_SIZE`; 0: no blur.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    jitter_order: tuple[int, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: bool
    blur_sigma_px: float
    solarise: bool


def draw_views(width: int, height: int, recipes: Sequence[ViewRecipe], seed: int, position: int) -> list[ViewDraw]:
    """Draw the parameters of `len(recipes)` views of an image of `width` x `height` px. View `v` always reads the same
    `v`-th block of the Philox stream keyed by (seed, position), whatever the other views are."""
    bits = np.random.Philox(
        key=np.array([seed % 2**64, 0x4D434C], dtype=np.uint64), counter=np.array([0, 0, position, 0], dtype=np.uint64)
    )
    uniform = np.random.Generator(bits).random((len(recipes), _NUM_DRAWS))
    return [_draw_view(width, height, recipe, row) for recipe, row in zip(recipes, uniform.tolist(), strict=True)]


def _draw_view(width: int, height: int, recipe: ViewRecipe, uniform: list[float]) -> ViewDraw:
    flip, jitter, order, brightness, contrast, saturation, hue, gray, blur, sigma, solarise = uniform[
        2 * _CROP_TRIES + 2 : 2 * _CROP_TRIES + 13
    ]

    def factor(largest_change: float, drawn: float) -> float:
        return _between(max(0.0, 1 - largest_change), 1 + largest_change, drawn)

    return ViewDraw(
        *_draw_crop(width, height, recipe, uniform),
        flip=flip < recipe.flip_probability,
        jitter_order=_ORDERS[int(order * len(_ORDERS))] if jitter < recipe.jitter_probability else (),
        brightness=factor(recipe.brightness, brightness),
        contrast=factor(recipe.contrast, contrast),
        saturation=factor(recipe.saturation, saturation),
        hue=_between(-recipe.hue, recipe.hue, hue),
        grayscale=gray < recipe.grayscale_probability,
        blur_sigma_px=_between(*recipe.blur_sigma_px, sigma) if blur < recipe.blur_probability else 0.0,
        solarise=solarise < recipe.solarise_probability,
    )


def _draw_crop(width: int, height: int, recipe: ViewRecipe, uniform: list[float]) -> tuple[int, int, int, int]:
    """Top, left, height and width by torchvision's RandomResizedCrop.get_params: ten tries, then the largest central
    box within the ratios."""
    log_ratio = (math.log(recipe.crop_ratio[0]), math.log(recipe.crop_ratio[1]))
    for attempt in range(_CROP_TRIES):
        area = width * height * _between(*recipe.crop_scale, uniform[2 * attempt])
        ratio = math.exp(_between(*log_ratio, uniform[2 * attempt + 1]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform[2 * _CROP_TRIES] * (height - h + 1))
            left = int(uniform[2 * _CROP_TRIES + 1] * (width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < recipe.crop_ratio[0]:
        h = min(height, max(1, round(width / recipe.crop_ratio[0])))
    elif width / height > recipe.crop_ratio[1]:
        w = min(width, max(1, round(height * recipe.crop_ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform
