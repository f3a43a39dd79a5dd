"""Starts compared: AP over the share of labels, each seed a dot, and the paired differences with their intervals.

Behind `mcl-hf finetune --compare`; draws with matplotlib (extra `viz`).
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mcl_hf.viz.figure import INK, LINE_COLOURS, QUIET, figure_to_image, literal, new_figure, style_axes


def comparison_picture(
    scores: Mapping[float, Mapping[str, Mapping[int, float]]],
    differences: Mapping[float, Sequence[Mapping[str, Any]]],
    figure_name: str,
    sentence: str,
) -> Image.Image:
    """Two panels: scores and differences.

    Args:
        scores: share of labels in (0, 1] -> start -> seed -> AP in percent; shares ascend.
        differences: share -> pairs with `better`, `other`, `mean`, `low` and `high` (None without an interval), points.
        figure_name: such as "box AP".
        sentence: above both.

    Returns:
        An RGB picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    pairs = [(fraction, pair) for fraction, found in differences.items() for pair in found]
    figure = new_figure(1280, max(520, 170 + 34 * len(pairs)))
    figure.suptitle(literal("\n".join(textwrap.wrap(sentence, 150))), x=0.01, ha="left", fontsize=10, color=INK)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _draw_scores(left, scores, figure_name)
    _draw_differences(right, pairs, figure_name)
    return figure_to_image(figure)


def _draw_scores(axis: Any, scores: Mapping[float, Mapping[str, Mapping[int, float]]], figure_name: str) -> None:
    style_axes(axis, "each seed, mean and standard deviation", f"{figure_name}, %", "share of the labelled images, %")
    fractions = list(scores)
    starts = list(next(iter(scores.values()), {}))
    for index, start in enumerate(starts):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        dodge = 0.12 * (index - (len(starts) - 1) / 2)  # side by side within a share
        found = [(place + dodge, list(scores[share][start].values())) for place, share in enumerate(fractions)]
        found = [(place, values) for place, values in found if values]
        for place, values in found:
            axis.plot(
                [place + 0.045] * len(values), values, "o", color=colour, markersize=5, alpha=0.6, markeredgewidth=0
            )
        axis.errorbar(
            [place for place, _ in found],
            [float(np.mean(values)) for _, values in found],
            yerr=[float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for _, values in found],
            color=colour,
            marker="_",
            markersize=14,
            markeredgewidth=2,
            linewidth=1.2,
            capsize=3,
            label=literal(start),
        )
    axis.set_xticks(range(len(fractions)), [f"{100 * fraction:g}" for fraction in fractions])
    axis.set_xlim(-0.5, len(fractions) - 0.5)
    axis.legend(fontsize=8, frameon=False, loc="best")


def _draw_differences(axis: Any, pairs: Sequence[tuple[float, Mapping[str, Any]]], figure_name: str) -> None:
    style_axes(
        axis, "differences seed by seed, with intervals that hold together in 95 %", xlabel=f"points of {figure_name}"
    )
    axis.axvline(0, color=INK, linewidth=1)
    labels = []
    for row, (fraction, pair) in enumerate(pairs):
        told = pair["low"] is not None and pair["low"] > 0
        colour = INK if told else "#a0a0a8"
        if pair["low"] is not None:
            axis.plot([pair["low"], pair["high"]], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot(pair["mean"], row, "o", color=colour, markersize=6, markerfacecolor=colour if told else "white")
        labels.append(literal(f"{pair['better']} − {pair['other']}, {100 * fraction:g} %"))
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    if any(pair["low"] is None for _, pair in pairs):
        axis.text(0.99, 0.02, "one seed: no interval can be given", transform=axis.transAxes, ha="right", fontsize=8,
                  color=QUIET)  # fmt: skip
    if not pairs:
        axis.text(0.5, 0.5, "nothing to compare yet", transform=axis.transAxes, ha="center", color=QUIET)
