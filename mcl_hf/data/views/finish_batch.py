"""Colour, blur, solarisation and flip of a batch of cropped views, on whatever device they lie: what `finish_pixels`
does to one view, with the same draws, within one gray level.

Flow: views (draw, render) -> loader -> **finish_batch**, in the training process -> normalisation. With
`augment_on="device"` the workers only decode, crop and resize; what remains travels along as small tensors. Nothing
here waits for the device: sizes that depend on the draws are known on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .draw import ViewDraw
from .finish_pixels import colour_map, half_gaussian


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
    halves = [half_gaussian(draw.blur_sigma_px * sigma_scale) for draw in draws]
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
