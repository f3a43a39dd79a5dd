"""Starts compared, for `mcl-hf compare`: scores over labelled images, each seed a dot, and paired differences."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .figure import INK, LINE_COLOURS, QUIET, figure_to_image, literal, new_figure, style_axes


def comparison_picture(
    scores: Mapping[str, Mapping[str, Mapping[int, float]]],
    counts: Mapping[str, int],
    differences: Sequence[Any],
    title: str,
    unit: str,
    sentence: str,
) -> Image.Image:
    """Two panels in RGB: scores over labels, and differences.

    Args:
        scores: labelled images -> start -> seed -> score in percent; ascending.
        counts: how many labelled images these are.
        differences: with `one`, `other`, `images`, `mean`, `low`, `high` (None: no interval), `holm` and `tells`.
        title, unit: of the score, such as "box AP50", and of the counts, such as "labelled images".
        sentence: above both.
    """
    figure = new_figure(1280, max(520, 170 + 30 * len(differences)))
    figure.suptitle(literal("\n".join(textwrap.wrap(sentence, 150))), x=0.01, ha="left", fontsize=10, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    style_axes(left, "each seed, and the mean", f"{title}, %", unit)
    _draw_scores(left, scores, counts)
    style_axes(right, "differences seed by seed, with 95 % intervals", xlabel=f"points of {title}")
    _draw_differences(right, differences)
    return figure_to_image(figure)


def _draw_scores(axis: Any, scores: Mapping[str, Mapping[str, Mapping[int, float]]], counts: Mapping[str, int]) -> None:
    starts = list(next(iter(scores.values()), {}))
    places = np.log2([counts[images] for images in scores])
    width = 0.55 * (np.diff(places).min() if len(places) > 1 else 1.0)
    for index, start in enumerate(starts):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        dodge = width * ((index + 0.5) / len(starts) - 0.5)  # side by side at one number of images
        means: list[tuple[float, float]] = []
        for place, of in zip(places + dodge, scores.values(), strict=True):
            values = list(of[start].values())
            if values:
                means.append((place, float(np.mean(values))))
                axis.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
        look = {"marker": "_", "markersize": 13, "markeredgewidth": 2.5, "linewidth": 1.0}
        axis.plot(*np.reshape(means, (-1, 2)).T, color=colour, label=literal(start), **look)
    axis.set_xticks(places, [f"{counts[images]:,}" for images in scores])
    axis.set_xlim(places.min() - width, places.max() + width) if len(places) else None
    axis.legend(fontsize=8, frameon=False, loc="best")


def _draw_differences(axis: Any, differences: Sequence[Any]) -> None:
    axis.axvline(0, color=INK, linewidth=1)
    labels = []
    for row, one in enumerate(differences):
        colour = INK if one.tells else "#a0a0a8"
        if one.low is not None:
            axis.plot([one.low, one.high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot(one.mean, row, "o", color=colour, markersize=6, markerfacecolor=colour if one.tells else "white")
        star = " *" if one.holm is not None else ""
        labels.append(literal(f"{one.one} − {one.other}, {one.images}{star}"))
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    note = "* what the plan is for; filled: told apart" if any(one.holm is not None for one in differences) else ""
    if any(one.low is None for one in differences):
        note = "one seed: no interval can be given"
    axis.text(0.99, 0.01, note, transform=axis.transAxes, ha="right", fontsize=8, color=QUIET)
