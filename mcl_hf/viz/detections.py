"""Objects drawn over images, what is there beside what was found: boxes, names, scores and masks.

Behind `mcl-hf evaluate`; needs Pillow only. A class keeps its colour in the whole picture.
"""

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from PIL.ImageFont import load_default

from .montage_grid import GAP, INK, MARGIN, PAPER, QUIET, drawn_name, page

TITLE_HEIGHT, CAPTION = 46, 24  # px
_MASK_SHARE = 0.4
_MOST_TALL = 8  # times its width: a strip of 1 x 3000 px would make the picture take gigabytes
_IGNORED = (150, 150, 158)


@dataclass(frozen=True)
class DrawnObjects:
    """Objects of one image."""

    boxes: np.ndarray  # (n, 4), x0 y0 x1 y1 in px of the image
    labels: np.ndarray  # (n,) class indices, which choose the colours
    names: Sequence[str]  # n texts to write beside them
    masks: Iterable[np.ndarray] | None = None  # n of (H, W), 0 and 1, of which one at a time is looked at
    ignored: np.ndarray | None = None  # bool (n,), drawn in gray (crowds, difficult ones)


@dataclass(frozen=True)
class DrawnImage:
    """One row of the picture: pixels uint8 `(H, W, 3)`, the name below it, and its objects, annotated and predicted."""

    pixels: np.ndarray
    name: str
    annotated: DrawnObjects
    predicted: DrawnObjects
    note: str = ""


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class; neighbouring classes lie a golden section of the colour circle apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * 0.618034) % 1, 0.85, 0.95 if label % 2 == 0 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def detections_picture(
    images: Sequence[DrawnImage], title: str, *, panel_width: int = 460, pairs_per_row: int = 2
) -> Image.Image:
    """Pairs of panels, annotations on the left and predictions on the right.

    Args:
        images: N images, in the order in which they are shown.
        title: what was run, in a few words.
        panel_width: of a panel, px; images keep their shape, but for strips, which are squeezed.
        pairs_per_row: images side by side.
    """
    pair_width = 2 * panel_width + GAP
    rows = [images[start : start + pairs_per_row] for start in range(0, len(images), pairs_per_row)]
    heights = [max(_panel_height(image, panel_width) for image in row) + CAPTION + GAP for row in rows]
    columns = min(pairs_per_row, max(1, len(images)))
    width = 2 * MARGIN + columns * pair_width + (columns - 1) * 2 * GAP
    picture, draw = page(width, TITLE_HEIGHT + sum(heights) + MARGIN, title)
    top = TITLE_HEIGHT
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            left = MARGIN + column * (pair_width + 2 * GAP)
            panel = (panel_width, _panel_height(image, panel_width))
            picture.paste(draw_objects(image.pixels, image.annotated, panel), (left, top))
            picture.paste(draw_objects(image.pixels, image.predicted, panel), (left + panel_width + GAP, top))
            below, name = top + panel[1] + 4, drawn_name(image.name)
            name = name if len(name) <= 55 else f"...{name[-52:]}"
            draw.text((left, below), f"annotated: {name}", QUIET, load_default(12))
            found = f"predicted{': ' + image.note if image.note else ''}"
            draw.text((left + panel_width + GAP, below), found, QUIET, load_default(12))
        top += height
    return picture


def none_found(least: float, highest: float | None) -> str:
    """What a picture says in which no detection reaches the score `least`; `highest` is None where there is not even
    one.

    Example:
        >>> none_found(0.5, 0.1234)
        'none of score 0.5 or more, the highest is 0.123'
    """
    return f"none of score {least:g} or more" + ("" if highest is None else f", the highest is {highest:.3g}")


def draw_objects(pixels: np.ndarray, objects: DrawnObjects, size: tuple[int, int], note: str = "") -> Image.Image:
    """Pixels uint8 `(H, W, 3)` as a picture of (width, height) `size` px with the objects over it, and a note."""
    colours = [
        _IGNORED if objects.ignored is not None and objects.ignored[n] else class_colour(int(label))
        for n, label in enumerate(objects.labels)
    ]
    if objects.masks is not None and len(objects.labels):
        canvas = pixels.astype(np.float32)
        for mask, colour in zip(objects.masks, colours, strict=True):
            inside = mask.astype(bool)
            canvas[inside] = (1 - _MASK_SHARE) * canvas[inside] + _MASK_SHARE * np.array(colour, np.float32)
        pixels = canvas.round().astype(np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    draw, font = ImageDraw.Draw(picture), load_default(12)
    scale = np.array([size[0] / pixels.shape[1], size[1] / pixels.shape[0]] * 2)
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    for n in reversed(range(len(colours))):  # the first, which scored best, on top
        x0, y0, x1, y1 = np.clip(objects.boxes[n] * scale, 0, limits).tolist()
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colours[n], width=2)
        text = objects.names[n]
        left, upper, right, lower = draw.textbbox((0, 0), text, font=font)
        x = min(x0, max(0, size[0] - (right - left) - 6))
        y = y0 - (lower - upper) - 6 if y0 > lower - upper + 6 else y0
        draw.rectangle((x, y, x + right - left + 6, y + lower - upper + 6), fill=colours[n])
        luminance = float(np.dot(colours[n], (0.299, 0.587, 0.114)))
        draw.text((x + 3 - left, y + 3 - upper), text, "white" if luminance < 150 else "black", font)
    if note:
        draw.rectangle(draw.textbbox((GAP, GAP), note, font=font), outline=PAPER, fill=PAPER, width=4)
        draw.text((GAP, GAP), note, INK, font)
    return picture


def _panel_height(image: DrawnImage, width: int) -> int:
    height, own_width = image.pixels.shape[:2]
    return max(1, min(round(height * width / own_width), _MOST_TALL * width))
