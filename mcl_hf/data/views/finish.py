"""Colour, blur and solarisation: of one view in a data worker, or of a batch of cropped views on whatever device they
lie, with the same draws, within one gray level of each other.

Flow: order -> sources -> decode -> views (draw -> render -> **finish**) -> loader. With `augment_on="device"` the
workers only decode, crop and resize; what remains travels along as small tensors, `BatchDraws`, to the training
process. Nothing there waits for the device: sizes that depend on the draws are known on the host.

Pixels are uint8 `(C, s, s)`, one plane a channel, as the batch wants them and as the processor's vector units like
them. Saturation and hue are left out where there are not three channels; what stands for the luma is then their mean.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .draw import ViewDraw

LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in the luma of ITU-R BT.601, which Pillow's and torchvision's gray is."""

_CROSS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
_LARGEST_FLOAT32_SUM = 2**24 // 255  # pixels: below it each partial sum is a whole number that float32 holds


def colour_map(draw: ViewDraw, num_channels: int = 3) -> tuple[np.ndarray, np.ndarray] | None:
    """Jitter and grayscale of one draw as one map of pixels x with channel means m: `A x + k m`, the same `k m` for
    every channel, since all of these operations leave gray gray.

    Two approximations. Hue turns the colour about the gray axis: the hue angle is HSV's, but HSV keeps the largest of
    R, G, B where the rotation keeps their sum (6 gray levels apart on average on the embedded photos at the largest
    shift of 0.1 turns, which itself moves pixels by 9.5). And values are clipped to 0-255 once at the end.

    Returns:
        A, float64 `(C, C)`, and k, float64 `(C,)`, of the cropped picture's means; None where nothing changes.
    """
    if not draw.jitter_order and not draw.grayscale:
        return None
    coloured = num_channels == 3
    luma = LUMA if coloured else np.full(num_channels, 1 / num_channels)
    matrix, of_means = np.eye(num_channels), np.zeros(num_channels)
    for operation in draw.jitter_order:
        if operation == 0:
            matrix, of_means = draw.brightness * matrix, draw.brightness * of_means
        elif operation == 1:
            mean = luma @ matrix + of_means  # (C,): of the luma, as weights of m
            matrix, of_means = draw.contrast * matrix, draw.contrast * of_means + (1 - draw.contrast) * mean
        elif coloured and operation == 2:
            matrix = draw.saturation * matrix + (1 - draw.saturation) * (luma @ matrix)
        elif coloured:
            matrix = _hue_rotation(draw.hue) @ matrix
    if draw.grayscale and num_channels > 1:
        matrix = np.tile(luma @ matrix, (num_channels, 1))
    return matrix, of_means


def _hue_rotation(turns: float) -> np.ndarray:
    """Rotation about (1, 1, 1) (Rodrigues); a third of a turn takes red to green to blue, as HSV does."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    return cosine * np.eye(3) + sine * _CROSS + (1 - cosine) / 3


def apply_colour(pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
    """Jitter and grayscale of `draw`: uint8 `(C, s, s)` in and out."""
    num_channels = pixels.shape[0]
    found = colour_map(draw, num_channels)
    if found is None:
        return pixels
    matrix, of_means = found
    flat = torch.from_numpy(pixels.reshape(num_channels, -1)).float()  # (C, s * s)
    # whole numbers that the type holds, so that the sum does not depend on the order of summation
    exact = torch.float32 if flat.shape[1] <= _LARGEST_FLOAT32_SUM else torch.float64
    means = flat.sum(1, dtype=exact).numpy().astype(np.float64) / flat.shape[1]
    offset = torch.tensor(of_means @ means + 0.5, dtype=torch.float32)  # + 0.5: the cast cuts off
    coloured = torch.addmm(offset, torch.from_numpy(matrix.astype(np.float32)), flat).clamp_(0, 255)
    return coloured.numpy().astype(np.uint8).reshape(pixels.shape)  # NumPy's cast is several times as fast as torch's


@lru_cache(maxsize=4096)
def half_gaussian(sigma_px: float) -> np.ndarray:
    """Half of a Gaussian in 1/256: weights at distance 0, 1, ..., summing to 256 over both halves, without tails that
    round to 0; for a sigma of 0 the one weight that changes nothing."""
    if sigma_px == 0:
        return np.array([256])
    offsets = np.arange(math.ceil(3.5 * sigma_px) + 1)
    weights = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    weights = np.round(256 * weights / (2 * weights.sum() - weights[0])).astype(np.int64)
    weights = weights[: int(np.flatnonzero(weights)[-1]) + 1]
    weights[0] += 256 - (2 * weights.sum() - weights[0])
    return weights.astype(np.uint16)


def blur(pixels: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian blur with repeated edges, separable, in 16-bit integers: within 2 gray levels of the exact Gaussian.
    uint8 `(C, s, s)`; a sigma of 0 leaves them as they are."""
    weights = half_gaussian(round(sigma_px, 3))
    if len(weights) == 1:
        return pixels
    return _blur_axis(_blur_axis(pixels, weights, axis=1), weights, axis=2)


def _blur_axis(pixels: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """One direction of `blur`; sums stay below 2^16 because the weights sum to 256."""
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
    """`x if x < 128 else 255 - x`: the sign bit, spread over the byte, inverts exactly the values from 128 on."""
    return pixels ^ (pixels.view(np.int8) >> 7).view(np.uint8)


@dataclass
class BatchDraws:
    """What remains to be done to N cropped views of C channels.

    Attributes:
        colour: float32 `(N, C, C)`, each image's A of `colour_map`.
        of_means: float32 `(N, C)`, its k.
        blurred: int64 `(B,)`, which images are blurred.
        weights: float32 `(B, reach + 1)`, half a Gaussian for each of them, in 1/256.
        solarised, flipped: bool `(N,)`.
    """

    colour: Tensor
    of_means: Tensor
    blurred: Tensor
    weights: Tensor
    solarised: Tensor
    flipped: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "BatchDraws":
        """Each tensor through a function, such as one that copies it to a device."""
        return BatchDraws(*map(function, vars(self).values()))


def collect_draws(draws: Sequence[ViewDraw], num_channels: int, sigma_scale: float) -> BatchDraws:
    """The draws of one view of N images of C channels as tensors; `sigma_scale`: pixels of this view per pixel of the
    frame that the blur's sigmas refer to."""
    unchanged = np.eye(num_channels), np.zeros(num_channels)
    matrices, of_means = zip(*(colour_map(draw, num_channels) or unchanged for draw in draws), strict=True)
    halves = [half_gaussian(round(draw.blur_sigma_px * sigma_scale, 3)) for draw in draws]
    blurred = [number for number, half in enumerate(halves) if len(half) > 1]
    weights = np.zeros((len(blurred), max((len(halves[number]) for number in blurred), default=1)), dtype=np.float32)
    for row, number in zip(weights, blurred, strict=True):
        row[: len(halves[number])] = halves[number]
    return BatchDraws(
        colour=torch.from_numpy(np.stack(matrices).astype(np.float32)),
        of_means=torch.from_numpy(np.stack(of_means).astype(np.float32)),
        blurred=torch.tensor(blurred, dtype=torch.int64),
        weights=torch.from_numpy(weights),
        solarised=torch.tensor([draw.solarise for draw in draws]),
        flipped=torch.tensor([draw.flip for draw in draws]),
    )


def augment_batch(views: Tensor, draws: BatchDraws) -> Tensor:
    """Do to each cropped and resized view, uint8 `(N, C, s, s)` in and out, what its draw says; both on one device."""
    pixels = apply_colours(views, draws.colour, draws.of_means)
    if len(draws.blurred):
        blurred = blur_batch(pixels.index_select(0, draws.blurred), draws.weights)
        pixels = pixels.index_copy(0, draws.blurred, blurred)
    inverted = draws.solarised[:, None, None, None] & (pixels >= 128)
    pixels = torch.where(inverted, 255 - pixels, pixels)
    pixels = torch.where(draws.flipped[:, None, None, None], pixels.flip(-1), pixels)
    return pixels.to(torch.uint8)


def apply_colours(views: Tensor, colour: Tensor, of_means: Tensor) -> Tensor:
    """`A x + k m` of each image, rounded and clipped: uint8 `(N, C, s, s)` to whole numbers in float32."""
    pixels = views.float()
    means = views.sum((2, 3), dtype=torch.int64).float() / views[0, 0].numel()  # (N, C)
    total = (of_means * means).sum(1)[:, None, None, None] + 0.5  # (N, 1, 1, 1)
    for channel in range(views.shape[1]):  # no matrix product: a GPU may round its factors to ten bits
        total = total + colour[:, :, channel, None, None] * pixels[:, channel, None]
    return total.clamp(0, 255).floor()


def blur_batch(pixels: Tensor, weights: Tensor) -> Tensor:
    """Separable blur with repeated edges, a Gaussian for each image; whole numbers in float32 `(B, C, s, s)`, in and
    out. Sums stay below 2^24, so that they are exact."""
    for axis in (2, 3):
        length, reach = pixels.shape[axis], weights.shape[1] - 1
        places = torch.arange(-reach, length + reach, device=pixels.device).clamp(0, length - 1)
        padded = pixels.index_select(axis, places)
        total = pixels * weights[:, 0, None, None, None] + 128  # rounds the division below
        for distance in range(1, reach + 1):
            pair = padded.narrow(axis, reach - distance, length) + padded.narrow(axis, reach + distance, length)
            total = total + pair * weights[:, distance, None, None, None]
        pixels = (total / 256).floor()
    return pixels
