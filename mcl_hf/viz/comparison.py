"""Starts compared: scores over labelled images, each seed a dot, paired differences with intervals, and what was found.

Behind `mcl-hf compare`; curves are drawn with matplotlib (extra `viz`), detections with Pillow.
"""

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
    """Two panels: scores over labels, and differences.

    Args:
        scores: labelled images -> start -> seed -> score in percent; ascending.
        counts: how many labelled images these are.
        differences: with `one`, `other`, `images`, `mean`, `low`, `high` (None: no interval), `holm` and `tells`.
        title: of the score, such as "box AP50".
        unit: such as "labelled images".
        sentence: above both.

    Returns:
        An RGB picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = new_figure(1280, max(520, 170 + 30 * len(differences)))
    figure.suptitle(literal("\n".join(textwrap.wrap(sentence, 150))), x=0.01, ha="left", fontsize=10, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _draw_scores(left, scores, counts, title, unit)
    _draw_differences(right, differences, title, unit)
    return figure_to_image(figure)


def _draw_scores(
    axis: Any,
    scores: Mapping[str, Mapping[str, Mapping[int, float]]],
    counts: Mapping[str, int],
    title: str,
    unit: str,
) -> None:
    style_axes(axis, "each seed, and the mean", f"{title}, %", unit)
    starts = list(next(iter(scores.values()), {}))
    places = np.log2([counts[images] for images in scores])
    width = 0.55 * (np.diff(places).min() if len(places) > 1 else 1.0)
    for index, start in enumerate(starts):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        dodge = width * ((index + 0.5) / len(starts) - 0.5)  # side by side at one number of images
        found = [
            (place + dodge, list(of[start].values()))
            for place, of in zip(places, scores.values(), strict=True)
            if of[start]
        ]
        for place, values in found:
            axis.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
        axis.plot(
            [place for place, _ in found],
            [float(np.mean(values)) for _, values in found],
            color=colour, marker="_", markersize=13, markeredgewidth=2.5, linewidth=1.0, label=literal(start),
        )  # fmt: skip
    axis.set_xticks(places, [f"{counts[images]:,}" for images in scores])
    axis.set_xlim(places.min() - width, places.max() + width) if len(places) else None
    axis.legend(fontsize=8, frameon=False, loc="best")


def _draw_differences(axis: Any, differences: Sequence[Any], title: str, unit: str) -> None:
    style_axes(axis, "differences seed by seed, with 95 % intervals", xlabel=f"points of {title}")
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
    note = "one seed: no interval can be given" if any(one.low is None for one in differences) else (
        "* what the plan is for; filled: told apart" if any(one.holm is not None for one in differences) else ""
    )  # fmt: skip
    axis.text(0.99, 0.01, note, transform=axis.transAxes, ha="right", fontsize=8, color=QUIET)
