"""The way to matplotlib: without pyplot, so that no window or global state is touched."""

import warnings
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..plain_text import plain_text

INK, QUIET = "#202024", "#6e6e76"
LINE_COLOURS = ("#2b6cb0", "#d9822b", "#2f855a", "#b83280", "#6b46c1", "#8a6d3b", "#319795", "#718096")


def new_figure(width_px: int, height_px: int) -> Any:
    """An empty `matplotlib.figure.Figure` of this size; an `InputError` where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            "curves and heat maps are drawn with matplotlib, which is not installed: pip install 'mcl_hf[viz]'"
        ) from error
    figure = Figure(figsize=(width_px / 100, height_px / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_to_image(figure: Any) -> Image.Image:
    """Render a figure to an RGB picture, whatever names in it: what no font has leaves a box without a word."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(plain_text(text.get_text(), keep="\n"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.canvas.draw()
    return Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB")  # from (H, W, 4) uint8


def literal(text: str) -> str:
    """A name as it is: matplotlib reads text between dollar signs as a formula, and leaves out of a legend what begins
    with an underscore, which gets a blank before it."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def style_axes(axes: Any, title: str, ylabel: str = "", xlabel: str = "") -> None:
    """Plain look: title at the left, faint grid, no box on top and right."""
    axes.set_title(literal(title), loc="left", fontsize=11, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=QUIET)
    axes.set_xlabel(xlabel, fontsize=9, color=QUIET)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.grid(True, color="#e6e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c8c8d0")
