"""Precision over recall of a detector, one line a class; behind `mcl-hf evaluate`, with matplotlib (extra `viz`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .figure import INK, LINE_COLOURS, QUIET, figure_to_image, literal, new_figure, style_axes

MOST_LINES = 12


def precision_recall_picture(
    panels: Mapping[str, Mapping[str, np.ndarray]], recalls: np.ndarray, title: str = ""
) -> Image.Image:
    """Two panels a row in RGB, in each its classes' curves and their mean in black; a class keeps its colour. Of more
    than a dozen classes the best and the worst are named, the others drawn thin and gray.

    Args:
        panels: title, such as "box, IoU 0.5" -> class name -> precision `(R,)` at each recall.
        recalls: `(R,)` ascending in [0, 1].
        title: above all panels.

    Raises:
        InputError: matplotlib is not installed.
    """
    columns = min(2, max(1, len(panels)))
    rows = -(-max(1, len(panels)) // columns)
    figure = new_figure(640 * columns, 480 * rows)
    if title:
        figure.suptitle(literal(title), x=0.01, ha="left", fontsize=12, color=INK)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, curves) in zip(axes[: len(panels)], panels.items(), strict=True):
        _draw_panel(axis, name, curves, recalls)
    return figure_to_image(figure)


def _draw_panel(axis: Any, name: str, curves: Mapping[str, np.ndarray], recalls: np.ndarray) -> None:
    style_axes(axis, name, "precision", "recall")
    axis.set_xlim(0, 1.01)
    axis.set_ylim(0, 1.03)
    ranked = sorted(curves, key=lambda label: -float(np.mean(curves[label])))
    named = ranked if len(ranked) <= MOST_LINES else [*ranked[: MOST_LINES // 2], *ranked[-MOST_LINES // 2 :]]
    for label in ranked:
        if label not in named:
            axis.plot(recalls, curves[label], color="#d8d8de", linewidth=0.8)
    places = {label: place for place, label in enumerate(label for label in curves if label in named)}
    for label in named:
        style = "-" if places[label] < len(LINE_COLOURS) else "--"
        colour = LINE_COLOURS[places[label] % len(LINE_COLOURS)]
        shown = literal(f"{label}  {100 * float(np.mean(curves[label])):.1f}")
        axis.plot(recalls, curves[label], style, color=colour, linewidth=1.6, label=shown)
    if curves:
        mean = np.mean([curves[label] for label in ranked], axis=0)
        axis.plot(recalls, mean, color=INK, linewidth=2.2, label=f"mean  {100 * float(mean.mean()):.1f}")
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        axis.text(0.5, 0.5, "no objects", color=QUIET, ha="center")
