"""A picture of the montages that the model saw: each level of both sides, with cell borders and image numbers.

Beside the training loop and `mcl-hf show montages`; needs Pillow only. An image keeps its colour and number on all
levels and both sides, so the eye can follow it.
"""

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from PIL.ImageFont import load_default

from ..models.montage import assemble_montage
from ..plain_text import plain_text

INK, QUIET, PAPER = (32, 32, 36), (110, 110, 118), (255, 255, 255)
LABEL_WIDTH, HEADER, GAP, MARGIN = 132, 74, 10, 18  # px
FPN_NAMES = {1: "P5", 2: "P4", 4: "P3", 8: "P2"}


def montage_picture(
    views_a: Sequence[torch.Tensor],
    views_b: Sequence[torch.Tensor] | None,
    montage_a: Sequence[torch.Tensor],
    montage_b: Sequence[torch.Tensor] | None,
    ratios: Sequence[int],
    *,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    panels_per_side: int = 3,
    panel_size: int = 256,
) -> Image.Image:
    """Draw one row a level, in RGB: the first montages of side a on the left, of side b on the right.

    Args:
        views_a: L tensors `(N, C, S/r, S/r)`: uint8, or floats normalised with `image_mean` and `image_std` (floats in
            [0, 1] when these are None). With C other than 1 or 3, the first channel is shown in grey.
        montage_a: L - 1 int64 tensors of image indices, row-major over (montage, row, column).
        views_b, montage_b: The same for side b; None where there is one side only (supervised pre-training).
        ratios: r of each level, 1 first.
        image_mean, image_std: Per channel, of images in [0, 1].
        panels_per_side: Montages shown of each side and level, at most.
        panel_size: Side of a montage in the picture, px.

    Raises:
        ValueError: Levels that do not fit each other, or an image index outside of the batch.
    """
    sides = [("view a", views_a, montage_a)]
    if views_b is not None:
        if montage_b is None:
            raise ValueError("side b has views but no montages")
        sides.append(("view b", views_b, montage_b))
    for name, views, montages in sides:
        if not len(views) == len(montages) + 1 == len(ratios):
            raise ValueError(f"{name}: {len(views)} views and {len(montages)} montages for {len(ratios)} levels")

    num_images = views_a[0].shape[0]
    columns = max(1, min(panels_per_side, num_images))
    side_width = columns * panel_size + (columns - 1) * GAP
    width = 2 * MARGIN + LABEL_WIDTH + len(sides) * side_width + (len(sides) - 1) * 4 * GAP
    height = HEADER + len(ratios) * (panel_size + GAP) - GAP + MARGIN
    picture, draw = page(width, height, f"What the model saw: {num_images} images on {len(ratios)} levels")
    for side, (name, views, montages) in enumerate(sides):
        left = MARGIN + LABEL_WIDTH + side * (side_width + 4 * GAP)
        draw.text((left, HEADER - 26), name, QUIET, load_default(15))
        for level, ratio in enumerate(ratios):
            top = HEADER + level * (panel_size + GAP)
            cells = torch.arange(num_images) if level == 0 else montages[level - 1].cpu()  # (B * r^2,)
            if cells.min() < 0 or cells.max() >= num_images:
                raise ValueError(f"{name}, level {level}: an image index lies outside of 0..{num_images - 1}")
            count = len(cells) // ratio**2
            if side == 0:
                _draw_level_label(draw, (MARGIN, top), level, ratio, views[level].shape[-1], count, columns)
            shown = cells[: min(columns, count) * ratio**2]
            tiles = _to_bytes(views[level], image_mean, image_std)
            canvases = assemble_montage(tiles, shown.to(tiles.device), ratio).cpu()  # (panels, 3, S, S)
            for panel, canvas in enumerate(canvases):
                numbers = shown[panel * ratio**2 : (panel + 1) * ratio**2].tolist()
                drawn = _draw_panel(canvas, numbers, ratio, panel_size)
                picture.paste(drawn, (left + panel * (panel_size + GAP), top))
    return picture


def page(width: int, height: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white picture of so many px with its title, and what draws on it."""
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN - 4), title, INK, load_default(19))
    return picture, draw


def draw_number(draw: ImageDraw.ImageDraw, corner: tuple[int, int], number: int, frame: int, size: int) -> None:
    """An image's number on its colour, in the upper left corner within a frame of so many px."""
    (x, y), font = corner, load_default(size)
    box = draw.textbbox((x + frame + 2, y + frame), str(number), font=font)
    draw.rectangle((x, y, box[2] + 2, box[3] + 2), fill=image_colour(number))
    draw.text((x + frame + 2, y + frame), str(number), "white", font)


def drawn_name(name: str) -> str:
    """A name of a file in one line, as Pillow can draw it."""
    return plain_text(name.encode("utf-8", errors="replace").decode())


def image_colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of an image of the batch: neighbouring numbers get hues far from each other (golden ratio)."""
    lightness = (0.42, 0.48, 0.34)[number // 5 % 3]
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1.0, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_panel(canvas: torch.Tensor, numbers: Sequence[int], ratio: int, size: int) -> Image.Image:
    """One montage `(3, S, S)` uint8 at `size` px, each cell framed and numbered in its image's colour."""
    panel = Image.fromarray(canvas.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(panel)
    frame = 3 if ratio <= 2 else 2 if ratio <= 4 else 1
    font_size = {1: 17, 2: 14, 4: 11}.get(ratio, 9)
    edges = [round(cell * size / ratio) for cell in range(ratio + 1)]
    for cell, number in enumerate(numbers):
        row, column = divmod(cell, ratio)
        x0, y0, x1, y1 = edges[column], edges[row], edges[column + 1] - 1, edges[row + 1] - 1
        draw.rectangle((x0, y0, x1, y1), outline=image_colour(number), width=frame)
        draw_number(draw, (x0, y0), number, frame, font_size)
    return panel


def _draw_level_label(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], level: int, ratio: int, tile_px: int, count: int, columns: int
) -> None:
    x, y = at
    lines = [f"{count} full views"]
    if ratio > 1:
        lines = [f"{count} montage{'s' if count != 1 else ''}", f"of {ratio} x {ratio} tiles"]
    lines += [f"{tile_px} px each", f"read from {FPN_NAMES.get(ratio, f'ratio {ratio}')}"]
    lines += [f"(first {columns} shown)"] if count > columns else []
    draw.text((x, y + 2), f"level {level}", INK, load_default(17))
    for row, line in enumerate(lines):
        draw.text((x, y + 28 + 19 * row), line, QUIET, load_default(13))


def _to_bytes(
    views: torch.Tensor, image_mean: Sequence[float] | None, image_std: Sequence[float] | None
) -> torch.Tensor:
    """Views `(N, C, s, s)` as uint8 RGB `(N, 3, s, s)`."""
    if views.dtype != torch.uint8:
        views = views.detach().float()
        if image_mean is not None and image_std is not None:
            mean = torch.tensor(image_mean, device=views.device).view(-1, 1, 1)
            std = torch.tensor(image_std, device=views.device).view(-1, 1, 1)
            views = views * std + mean
        views = views.mul(255).round().clamp(0, 255).to(torch.uint8)
    return views if views.shape[1] == 3 else views[:, :1].expand(-1, 3, -1, -1)
