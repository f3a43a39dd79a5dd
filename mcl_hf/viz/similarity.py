"""Where else does a region's embedding occur? Cosine of one box against boxes of its shape slid over an image.

Beside `mcl-hf show similarity` and `mcl-hf demo`. It shows what pre-training asks for: the embedding of a region should
follow its content, not its place.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from ..models.modeling_mcl import MCLModel
from .figure import INK, QUIET, figure_to_image, new_figure

Box = Sequence[float]


def slide_boxes(height: int, width: int, box_height: float, box_width: float, positions: int) -> torch.Tensor:
    """Boxes of one size on an even grid inside of an image, px: `(rows, columns, 4)` float32 of x0, y0, x1, y1, so many
    positions along the longer free side and the same spacing along the other.

    Raises:
        ValueError: The box is larger than the image.
    """
    free_height, free_width = height - box_height, width - box_width
    if free_height < 0 or free_width < 0:
        raise ValueError(f"boxes of {box_width:.0f} x {box_height:.0f} px do not fit into {width} x {height} px")
    spacing = max(free_height, free_width) / max(positions - 1, 1) or 1.0
    rows, columns = round(free_height / spacing) + 1, round(free_width / spacing) + 1
    tops, lefts = torch.linspace(0, free_height, rows), torch.linspace(0, free_width, columns)
    y0, x0 = torch.meshgrid(tops, lefts, indexing="ij")  # (rows, columns)
    return torch.stack([x0, y0, x0 + box_width, y0 + box_height], dim=-1)


LEVELS = ("P2", "P3", "P4", "P5")


def similarity_map(
    model: MCLModel,
    pixel_values: torch.Tensor,
    box: Box,
    *,
    searched: torch.Tensor | None = None,
    scale: float = 1.0,
    positions: int = 24,
) -> torch.Tensor:
    """Cosine of one region's embedding against those of a grid of regions.

    Args:
        model: In eval mode for a result that does not depend on the other boxes.
        pixel_values: `(C, H, W)` float, normalised with the model's mean and std: the image that holds the box.
        box: x0, y0, x1, y1 in px of `pixel_values`.
        searched: `(C, H', W')` image to look in; None looks in `pixel_values` itself.
        scale: Side of the slid boxes relative to the box. 0.5 asks for the same content at half its size, which is read
            one level further down in the pyramid.
        positions: Boxes along the longer free side of the searched image.

    Returns:
        `(rows, columns)` float32 cosines on the CPU, of the boxes of `slide_boxes`.

    Raises:
        ValueError: A box that is empty, leaves the image, or does not fit into the searched one.
    """
    return _maps(model, pixel_values, box, searched, [scale], positions)[0]


def level_maps(
    model: MCLModel, pixel_values: torch.Tensor, box: Box, *, searched: torch.Tensor | None = None, positions: int = 24
) -> dict[str, tuple[float, torch.Tensor]]:
    """`similarity_map` once for each pyramid level, with slid boxes of the size that pre-training reads from it: level
    (`P2` to `P5`) -> the boxes' side relative to the query, and the map. Levels whose boxes do not fit into the
    searched image are left out."""
    height, width = (pixel_values if searched is None else searched).shape[-2:]
    box_height, box_width = box[3] - box[1], box[2] - box[0]
    scales = {
        level: 4 * model.config.region_size * 2**index / max(box_height * box_width, 1e-6) ** 0.5
        for index, level in enumerate(LEVELS)
    }
    fitting = {n: scale for n, scale in scales.items() if scale * box_height <= height and scale * box_width <= width}
    maps = _maps(model, pixel_values, box, searched, list(fitting.values()), positions)
    return {level: (scale, heat) for (level, scale), heat in zip(fitting.items(), maps, strict=True)}


@torch.no_grad()
def _maps(
    model: MCLModel, pixel_values: torch.Tensor, box: Box, searched: torch.Tensor | None, scales: Sequence[float],
    positions: int,
) -> list[torch.Tensor]:  # fmt: skip
    """One map a scale; each image goes through the network once."""
    _, height, width = pixel_values.shape
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"box {tuple(box)} must be x0 < x1, y0 < y1 within an image of {width} x {height} px")
    device = pixel_values.device
    query = model.embed_regions(pixel_values[None], [torch.tensor([[x0, y0, x1, y1]]).float().to(device)])
    target = pixel_values if searched is None else searched
    target_height, target_width = target.shape[-2:]
    grids = [
        slide_boxes(target_height, target_width, (y1 - y0) * scale, (x1 - x0) * scale, positions) for scale in scales
    ]
    if not grids:
        return []
    boxes = torch.cat([grid.flatten(0, 1) for grid in grids]).to(device)
    cosines = F.cosine_similarity(query.float(), model.embed_regions(target[None], [boxes]).float()).cpu()
    parts = cosines.split([grid.shape[0] * grid.shape[1] for grid in grids])
    return [part.view(grid.shape[:2]) for part, grid in zip(parts, grids, strict=True)]


def to_pixel_values(image: Image.Image, model: MCLModel) -> torch.Tensor:
    """A picture as the model's `(C, H, W)` normalised floats, at its own size.

    Raises:
        ValueError: The model takes neither 1 nor 3 channels.
    """
    modes = {1: "L", 3: "RGB"}
    if model.config.num_channels not in modes:
        raise ValueError(f"pictures have 1 or 3 channels, this model takes {model.config.num_channels}")
    pixels = pil_to_tensor(image.convert(modes[model.config.num_channels])) / 255  # (C, H, W) in [0, 1]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    return ((pixels - mean) / std).to(model.device, model.dtype)


def draw_similarity(
    model: MCLModel,
    image: Image.Image,
    box: Box | None = None,
    *,
    searched: Image.Image | None = None,
    scale: float = 1.0,
    positions: int = 24,
    longest_side: int = 512,
) -> Image.Image:
    """From pictures to the picture: `to_pixel_values`, `similarity_map` in eval mode, `similarity_picture`.

    Args:
        model, searched, scale, positions: See `similarity_map`.
        image: Holds the box.
        box: x0, y0, x1, y1 in px of `image`; None takes a box in the middle, as large as a tile of level 1.
        longest_side: Larger pictures are scaled down to it first, px.

    Raises:
        ValueError: See `similarity_map`.
        InputError: matplotlib is not installed.
    """
    factor = min(1.0, longest_side / max(image.size))
    image = shrink(image, longest_side)
    if box is None:
        side = usual_side(model, image)
        x0, y0 = (image.width - side) // 2, (image.height - side) // 2
        box = (x0, y0, x0 + side, y0 + side)
    else:
        limits = (image.width, image.height) * 2
        box = [min(edge * factor, limit) if factor < 1 else edge for edge, limit in zip(box, limits, strict=True)]
    target = None if searched is None else shrink(searched, longest_side)
    was_training = model.training
    model.eval()
    try:
        pixel_values = to_pixel_values(image, model)
        other = None if target is None else to_pixel_values(target, model)
        heat = similarity_map(model, pixel_values, box, searched=other, scale=scale, positions=positions)
    finally:
        model.train(was_training)
    return similarity_picture(image, box, heat, searched=target, scale=scale)


def usual_side(model: MCLModel, image: Image.Image) -> int:
    """Side of a region to begin with, px: that of a tile of level 1, or half of a small picture."""
    return max(1, min(model.config.image_size // 2, min(image.size) // 2))


def shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """The picture at most `longest_side` px long; a larger one becomes RGB."""
    factor = longest_side / max(image.size)
    if factor >= 1:
        return image
    return image.convert("RGB").resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def similarity_picture(
    image: Image.Image,
    box: Box,
    heat: torch.Tensor,
    *,
    searched: Image.Image | None = None,
    scale: float = 1.0,
    title: str = "Where the region's embedding is found again",
) -> Image.Image:
    """Draw the box on the left and, on the right, the heat over the searched picture with the best match framed.

    Args:
        image: Holds the box.
        box: x0, y0, x1, y1 in px of `image`.
        heat: From `similarity_map`, with the same `scale`.
        searched: The picture that was searched; None when it was `image`.
        scale: As given to `similarity_map`.
        title: Above both.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = new_figure(1180, 560)
    from matplotlib.patches import Rectangle

    target = image if searched is None else searched
    box_height, box_width = (box[3] - box[1]) * scale, (box[2] - box[0]) * scale
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, color=INK)
    left, right = figure.subplots(1, 2)
    query = f"query: {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px"
    boxes = f"{'same' if searched is None else 'other'} image, boxes of {box_width:.0f} x {box_height:.0f} px"
    for axes, picture, caption in ((left, image, query), (right, target, boxes)):
        axes.set_title(caption, loc="left", fontsize=11, color=QUIET)
        axes.imshow(picture.convert("RGB" if axes is left else "L"), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
    for colour, line in (("white", 4), ("#d7191c", 2)):
        left.add_patch(Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, ec=colour, lw=line))

    shown, best = _draw_heat(right, target, heat, box_height, box_width, None if searched is not None else box)
    bar = figure.colorbar(shown, ax=right, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=8, colors=QUIET)
    label = "cosine similarity"
    if best is not None:
        bar.ax.axhline(best, color="white", lw=2, ls="--")
        where = "best match elsewhere" if searched is None else "best match"
        label += f" (dashed: {where}, {best:.2f})"
    bar.set_label(label, fontsize=9, color=QUIET)
    return figure_to_image(figure)


def levels_picture(
    image: Image.Image,
    box: Box,
    maps: dict[str, tuple[float, torch.Tensor]],
    searched: Image.Image | None = None,
    title: str = "",
) -> Image.Image:
    """The maps of `level_maps` side by side, with the best match of each framed and its cosine above."""
    target = image if searched is None else searched
    panel = 330  # px wide
    height = min(round(panel * target.height / target.width), 8 * panel)  # of a strip it would be millions
    figure = new_figure(panel * len(LEVELS) + 90, height + 60)
    figure.suptitle(title, x=0.005, ha="left", fontsize=12, color=INK)
    panels = figure.subplots(1, len(LEVELS))
    low = min((float(heat.min()) for _, heat in maps.values()), default=0.0)
    high = max((float(heat.max()) for _, heat in maps.values()), default=1.0)
    shown = None
    for axes, level in zip(panels, LEVELS, strict=True):
        axes.imshow(target.convert("L"), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        note = "boxes do not fit"
        if level in maps:
            scale, heat = maps[level]
            sides = ((box[3] - box[1]) * scale, (box[2] - box[0]) * scale)
            shown, best = _draw_heat(axes, target, heat, *sides, None if searched is not None else box)
            shown.set_clim(low, high)
            note = f"{sides[1]:.0f} x {sides[0]:.0f} px" + ("" if best is None else f", best {best:.2f}")
        axes.set_title(f"{level}: {note}", loc="left", fontsize=10, color=INK)
    if shown is not None:
        bar = figure.colorbar(shown, ax=panels, fraction=0.02, pad=0.01)
        bar.set_label("cosine", fontsize=9, color=QUIET)
        bar.ax.tick_params(labelsize=8, colors=QUIET)
    return figure_to_image(figure)


def _draw_heat(
    axes: Any, target: Image.Image, heat: torch.Tensor, box_height: float, box_width: float, query: Box | None
) -> tuple[Any, float | None]:
    """Heat over a gray picture and a frame around the best match, which may not touch the query where that is in the
    same picture; what was drawn, and the best cosine."""
    from matplotlib.patches import Rectangle

    # A cell of the heat stands at the centre of its box and is one spacing wide.
    rows, columns = heat.shape
    dx = (target.width - box_width) / max(columns - 1, 1) / 2 or box_width / 2
    dy = (target.height - box_height) / max(rows - 1, 1) / 2 or box_height / 2
    x, y = box_width / 2, box_height / 2
    extent = (x - dx, target.width - x + dx, target.height - y + dy, y - dy)
    shown = axes.imshow(heat.numpy(), extent=extent, cmap="inferno", alpha=0.72, interpolation="bilinear")
    axes.set_xlim(0, target.width)
    axes.set_ylim(target.height, 0)
    tops = torch.linspace(0, target.height - box_height, rows)[:, None]  # (rows, 1)
    lefts = torch.linspace(0, target.width - box_width, columns)[None]  # (1, columns)
    allowed = torch.ones_like(heat, dtype=torch.bool)
    if query is not None:
        apart_x = (lefts >= query[2]) | (lefts + box_width <= query[0])
        allowed = apart_x | (tops >= query[3]) | (tops + box_height <= query[1])  # (rows, columns)
    if not allowed.any():
        return shown, None
    row, column = divmod(int(heat.masked_fill(~allowed, -2).argmax()), columns)
    corner = (float(lefts[0, column]), float(tops[row, 0]))
    for colour, line, style in (("black", 2.5, "-"), ("white", 1.8, "--")):
        axes.add_patch(Rectangle(corner, box_width, box_height, fill=False, ec=colour, lw=line, ls=style))
    return shown, float(heat[row, column])
