"""A contact sheet of a data set: originals with their views, images that look the same, and montages below.

Behind `mcl-hf show data`; needs Pillow only. An image wears the colour and number that it has in the montages
(`montage_grid`), so that a tile can be traced back to its original.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.ImageFont import load_default

from ..data.decode import as_picture
from .montage_grid import GAP, INK, MARGIN, PAPER, QUIET, draw_number, drawn_name, image_colour, page

TITLE_HEIGHT, HEADER, CAPTION = 46, 24, 36  # px


@dataclass(frozen=True)
class SheetImage:
    """An original: upright pixels uint8 `(H, W, C)` with 1 or 3 channels, and the name that a user can find it by."""

    pixels: np.ndarray
    name: str


def views_picture(
    originals: Sequence[SheetImage],
    views_a: Sequence[torch.Tensor],
    views_b: Sequence[torch.Tensor] | None,
    *,
    panel_size: int = 186,
) -> Image.Image:
    """One row an image: the original with its number, name and size, then its views, each enlarged to one size.

    Args:
        originals: N images, numbered from 0.
        views_a, views_b: L tensors uint8 `(N, C, S/r, S/r)` of a side with C of 1 or 3; `views_b` None: there is one.
        panel_size: side in the picture of the box for an original and of each view, px.

    Raises:
        ValueError: views of another number of images.
    """
    views = [("view a", view) for view in views_a] + [("view b", view) for view in views_b or ()]
    if any(len(view) != len(originals) for _, view in views):
        raise ValueError(f"{len(originals)} originals, but views of {[len(view) for _, view in views]} images")
    cell, row_height = panel_size + GAP, panel_size + CAPTION + GAP
    width = 2 * MARGIN + (1 + len(views)) * cell - GAP
    height = TITLE_HEIGHT + HEADER + len(originals) * row_height + MARGIN
    picture, draw = page(width, height, f"{len(originals)} images and their views")
    draw.text((MARGIN, TITLE_HEIGHT), "original", QUIET, load_default(13))
    for column, (name, view) in enumerate(views, start=1):
        draw.text((MARGIN + column * cell, TITLE_HEIGHT), f"{name}, {view.shape[-1]} px", QUIET, load_default(13))
    for number, original in enumerate(originals):
        top = TITLE_HEIGHT + HEADER + number * row_height
        _draw_original(picture, draw, original, (MARGIN, top), panel_size, number)
        for column, (_, view) in enumerate(views, start=1):
            pixels = as_picture(view[number].permute(1, 2, 0).numpy()).convert("RGB")
            enlarged = pixels.resize((panel_size, panel_size), Image.Resampling.BICUBIC)
            picture.paste(enlarged, (MARGIN + column * cell, top))
    return picture


def duplicates_picture(
    groups: Sequence[Sequence[SheetImage]], sizes: Sequence[int], title: str, *, panel_size: int = 186, columns: int = 8
) -> Image.Image:
    """One row a group of images that look the same.

    Args:
        groups: images to show; at most `columns` of each group are.
        sizes: images in each group, those that are not shown included.
        title: what was found, in a few words.
        panel_size: side in the picture of the box for an image, px.
    """
    cell, row_height = panel_size + GAP, panel_size + CAPTION + GAP
    width = 2 * MARGIN + (1 + columns) * cell - GAP
    picture, draw = page(width, TITLE_HEIGHT + len(groups) * row_height + MARGIN, title)
    for row, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        top = TITLE_HEIGHT + row * row_height
        shown = group[:columns]
        for column, image in enumerate(shown):
            _draw_original(picture, draw, image, (MARGIN + column * cell, top), panel_size)
        if size > len(shown):
            at = (MARGIN + len(shown) * cell, top + panel_size // 2 - 10)
            draw.text(at, f"and {size - len(shown)} more", QUIET, load_default(15))
    return picture


def stack_pictures(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, the narrower ones on white."""
    sheet = Image.new("RGB", (max(part.width for part in pictures), sum(part.height for part in pictures)), PAPER)
    top = 0
    for part in pictures:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _draw_original(
    picture: Image.Image, draw: ImageDraw.ImageDraw, image: SheetImage, at: tuple[int, int], box: int,
    number: int | None = None,
) -> None:  # fmt: skip
    """An image within a square box, its shape kept, with name and size below; framed where it has a number."""
    x, y = at
    height, width = image.pixels.shape[:2]
    scale = box / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = as_picture(image.pixels).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    below = y + small.height
    if number is not None:  # on the image, so that the frame of one a pixel wide ends with it
        edges = (0, 0, small.width - 1, small.height - 1)
        ImageDraw.Draw(small).rectangle(edges, outline=image_colour(number), width=3)
    picture.paste(small, at)
    if number is not None:
        draw_number(draw, at, number, frame=3, size=15)
        below = max(below, y + 22)  # the number is about 20 px high
    draw.text((x, below + 2), _fit(draw, image.name, box), INK, load_default(11))
    draw.text((x, below + 17), f"{width} x {height} px", QUIET, load_default(11))


def _fit(draw: ImageDraw.ImageDraw, name: str, width: int) -> str:
    """A name's end, which tells most, cut to `width` px."""
    shown = cut = drawn_name(name)
    while len(cut) > 1 and draw.textlength(shown, font=load_default(11)) > width:
        cut = cut[1:]
        shown = f"...{cut}"
    return shown
