"""What happens to a view: random parameters as plain data, and the pixel operations of the fast path as pure functions
of (pixels, parameters).

Flow: order -> sources -> decode -> **augment** + views -> loader.

Source: the two pipelines of arXiv 2304.02010 as in the published configuration (GuoQiushan/MCL at 1912aa9),
which are BYOL's; crop and jitter parameters are drawn with torchvision's rules (RandomResizedCrop,
ColorJitter).

Differs from the official code: every number comes from a counter (seed, position, view) and never from a global
generator, so that a resumed run and any number of workers see the same views; in the published code the blur's sigma
depends on the worker's number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch

LUMA = np.array([0.299, 0.587, 0.114])
REFERENCE_SIZE = 224
"""Side in px of the frame that blur sigmas refer to; at other view sizes sigma scales along, so that the same share of
the picture is blurred.
"""

_CROP_TRIES = 10
_ORDERS = tuple(permutations(range(4)))
_NUM_DRAWS = 2 * _CROP_TRIES + 14


@dataclass(frozen=True)
class ViewRecipe:
    """Ranges and probabilities of one augmentation pipeline; a factor range of 0.4 means factors from 0.6 to 1.4."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the crop as a share of the picture."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop, drawn uniformly in the logarithm."""
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """Largest shift, in turns of the colour circle."""
    grayscale_probability: float = 0.2
    blur_probability: float = 1.0
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Standard deviation in pixels of a frame of ``REFERENCE_SIZE``."""
    solarise_probability: float = 0.0


PUBLISHED_A = ViewRecipe()
PUBLISHED_B = ViewRecipe(blur_probability=0.1, solarise_probability=0.2)


@dataclass(frozen=True)
class ViewDraw:
    """The parameters of one view of one image. The crop box is in pixels of the upright picture at full size."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    jitter_order: tuple[int, ...]
    """Order of 0 brightness, 1 contrast, 2 saturation, 3 hue; empty where no jitter was drawn."""
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: bool
    blur_sigma_px: float
    """In pixels of a frame of ``REFERENCE_SIZE``; 0 = no blur."""
    solarise: bool


def draw_views(width: int, height: int, recipes: Sequence[ViewRecipe], seed: int, position: int) -> list[ViewDraw]:
    """Draw the parameters of ``len(recipes)`` views of an image of ``width`` x ``height`` px.

    View ``v`` always reads the same ``v``-th block of the Philox stream keyed by (seed, position), whatever the other
    views are.
    """
    bits = np.random.Philox(
        key=np.array([seed % 2**64, 0x4D434C], dtype=np.uint64), counter=np.array([0, 0, position, 0], dtype=np.uint64)
    )
    uniform = np.random.Generator(bits).random((len(recipes), _NUM_DRAWS))
    return [_draw_view(width, height, recipe, row) for recipe, row in zip(recipes, uniform.tolist(), strict=True)]


def _draw_view(width: int, height: int, recipe: ViewRecipe, uniform: list[float]) -> ViewDraw:
    top, left, crop_height, crop_width = _draw_crop(width, height, recipe, uniform)
    flip, jitter, order, brightness, contrast, saturation, hue, gray, blur, sigma, solarise = uniform[
        2 * _CROP_TRIES + 2 : 2 * _CROP_TRIES + 13
    ]
    return ViewDraw(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=flip < recipe.flip_probability,
        jitter_order=_ORDERS[int(order * len(_ORDERS))] if jitter < recipe.jitter_probability else (),
        brightness=_between(max(0.0, 1 - recipe.brightness), 1 + recipe.brightness, brightness),
        contrast=_between(max(0.0, 1 - recipe.contrast), 1 + recipe.contrast, contrast),
        saturation=_between(max(0.0, 1 - recipe.saturation), 1 + recipe.saturation, saturation),
        hue=_between(-recipe.hue, recipe.hue, hue),
        grayscale=gray < recipe.grayscale_probability,
        blur_sigma_px=_between(*recipe.blur_sigma_px, sigma) if blur < recipe.blur_probability else 0.0,
        solarise=solarise < recipe.solarise_probability,
    )


def _draw_crop(width: int, height: int, recipe: ViewRecipe, uniform: list[float]) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params of torchvision: ten tries, then the largest central box within the ratios."""
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


# ---- operations of the fast path: uint8 (s, s, C) in, uint8 (s, s, C) out -------------------------------------------


def colour_matrix(draw: ViewDraw, channel_means: np.ndarray) -> np.ndarray | None:
    """Jitter and grayscale of one draw as one affine map of RGB: float64 ``(3, 4)``, or None where nothing changes.

    Args:
        channel_means: ``(3,)`` means of the cropped picture, which contrast needs.

    Two approximations. Hue turns the colour about the gray axis: the hue angle is HSV's, but HSV keeps the largest of
    R, G, B where the rotation keeps their sum (6 gray levels apart on average on the embedded photos at the largest
    shift of 0.1 turns, which itself moves pixels by 9.5). And values are clipped to 0-255 once at the end, not after
    every operation.
    """
    if not draw.jitter_order and not draw.grayscale:
        return None
    matrix, offset = np.eye(3), np.zeros(3)
    for operation in draw.jitter_order:
        if operation == 0:
            matrix, offset = draw.brightness * matrix, draw.brightness * offset
        elif operation == 1:
            mean = LUMA @ (matrix @ channel_means + offset)
            matrix, offset = draw.contrast * matrix, draw.contrast * offset + (1 - draw.contrast) * mean
        else:
            linear = _saturation(draw.saturation) if operation == 2 else _hue_rotation(draw.hue)
            matrix, offset = linear @ matrix, linear @ offset
    if draw.grayscale:
        gray = _saturation(0.0)
        matrix, offset = gray @ matrix, gray @ offset
    return np.concatenate([matrix, offset[:, None]], axis=1)


def _saturation(factor: float) -> np.ndarray:
    return factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))


def _hue_rotation(turns: float) -> np.ndarray:
    """Rotation about (1, 1, 1) (Rodrigues); a third of a turn takes red to green to blue, as HSV does."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns) / math.sqrt(3)
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return cosine * np.eye(3) + sine * cross + (1 - cosine) / 3


def apply_colour(pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
    """Jitter and grayscale of ``draw``. On one channel only brightness and contrast have a meaning."""
    if pixels.shape[2] == 1:
        return _apply_gray_jitter(pixels, draw)
    if not draw.jitter_order and not draw.grayscale:
        return pixels
    # integer sums, so that the result does not depend on the order of summation
    sums = np.add.reduce(pixels.reshape(pixels.shape[0], -1), axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
    matrix = colour_matrix(draw, sums / (pixels.shape[0] * pixels.shape[1]))
    if matrix is None:
        return pixels
    # Eight pixels a row against a block-diagonal matrix: a matrix product with 3 columns would leave the vector units
    # idle.
    block = math.gcd(pixels.size // 3, 8)
    rows = torch.from_numpy(pixels.reshape(-1, 3 * block)).float()
    weight = np.zeros((block, 3, block, 3), dtype=np.float32)
    weight[np.arange(block), :, np.arange(block)] = matrix[:, :3].T
    bias = torch.from_numpy(np.tile(matrix[:, 3] + 0.5, block).astype(np.float32))  # + 0.5: the cast below cuts off
    result = (
        torch.addmm(bias, rows, torch.from_numpy(weight.reshape(3 * block, 3 * block))).clamp_(0, 255).to(torch.uint8)
    )
    return result.numpy().reshape(pixels.shape)


def _apply_gray_jitter(pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
    scale, offset, mean = 1.0, 0.0, None
    for operation in draw.jitter_order:
        if operation == 0:
            scale, offset = draw.brightness * scale, draw.brightness * offset
        elif operation == 1:
            mean = pixels.mean(dtype=np.float64) if mean is None else mean
            scale, offset = (
                draw.contrast * scale,
                draw.contrast * offset + (1 - draw.contrast) * (scale * mean + offset),
            )
    if scale == 1.0 and offset == 0.0:
        return pixels
    table = np.clip(np.arange(256) * scale + offset + 0.5, 0, 255).astype(np.uint8)
    return table[pixels]


@lru_cache(maxsize=4096)
def _gaussian_weights(sigma_px: float) -> np.ndarray:
    """Half of a Gaussian in 1/256: weights at distance 0, 1, ..., summing to 256 over both halves; tails that round to
    0 are left out.
    """
    offsets = np.arange(math.ceil(3.5 * sigma_px) + 1)
    weights = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    weights = np.round(256 * weights / (2 * weights.sum() - weights[0])).astype(np.int64)
    weights = weights[: int(np.flatnonzero(weights)[-1]) + 1]
    weights[0] += 256 - (2 * weights.sum() - weights[0])
    return weights.astype(np.uint16)


def blur(pixels: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian blur with repeated edges, separable, in 16-bit integers: within 2 gray levels of the exact Gaussian.
    ``sigma_px`` in px of ``pixels``.
    """
    if sigma_px <= 0:
        return pixels
    weights = _gaussian_weights(round(sigma_px, 3))
    if len(weights) == 1:
        return pixels
    return _blur_axis(_blur_axis(pixels, weights, axis=0), weights, axis=1)


def _blur_axis(pixels: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """One direction of ``blur``; sums stay below 2^16 because the weights sum to 256."""
    reach, length = len(weights) - 1, pixels.shape[axis]
    lead = (slice(None),) * axis
    first, last = pixels[(*lead, slice(0, 1))], pixels[(*lead, slice(length - 1, length))]
    padded = np.concatenate(
        [np.repeat(first, reach, axis), pixels, np.repeat(last, reach, axis)], axis=axis, dtype=np.uint16
    )
    total = padded[(*lead, slice(reach, reach + length))] * weights[0]
    total += np.uint16(128)  # rounds the shift below
    pair = np.empty_like(total)
    for distance in range(1, reach + 1):
        before, after = reach - distance, reach + distance
        np.add(padded[(*lead, slice(before, before + length))], padded[(*lead, slice(after, after + length))], out=pair)
        pair *= weights[distance]
        total += pair
    total >>= np.uint16(8)
    return total.astype(np.uint8)


def solarise(pixels: np.ndarray) -> np.ndarray:
    """``x if x < 128 else 255 - x``: the sign bit, spread over the byte, inverts exactly the values from 128 on."""
    return pixels ^ (pixels.view(np.int8) >> 7).view(np.uint8)
