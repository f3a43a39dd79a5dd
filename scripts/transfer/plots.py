"""Plots of the results: AP against compute, differences with their intervals, and how levels see each other.

Flow: report -> **plots** -> OUT/*.png. Colours and type are those of `mcl_hf.viz`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcl_hf.viz.figure import INK, LINE_COLOURS, QUIET, figure_to_image, new_figure, style_axes

from .arms import find_arm
from .detector_tables import main_detection
from .figures import probe_scores, scores
from .jobs import Bench
from .statistics import paired_difference


def draw_all(bench: Bench, arms: Sequence[str], results: list[dict[str, Any]]) -> list[Path]:
    """Draw what there is something for; paths of the pictures."""
    pictures = {"compute.png": _compute, "differences.png": _differences, "across_levels.png": _across}
    written = []
    for name, draw in pictures.items():
        picture = draw(bench, arms, results)
        if picture is not None:
            written.append(bench.out / name)
            picture.save(written[-1])
    return written


def _compute(bench: Bench, arms: Sequence[str], results: list[dict[str, Any]]) -> Any:
    """Figures against floating-point operations of pre-training."""

    detection = main_detection(bench)
    spent = {
        (r["job"]["arm"], r["job"]["fold"], r["job"]["seed"]): r["gflop"] / 1e3
        for r in results
        if r["job"]["kind"] == "pretrain"
    }
    panels = {
        f"box AP, {detection}": {name: scores(results, name, detection) for name in arms},
        "linear probe of region features": {
            name: probe_scores(results, name, "region_head", "linear", "all") for name in arms
        },
        "linear probe of C5": {name: probe_scores(results, name, "c5", "linear", "all") for name in arms},
    }
    panels = {title: found for title, found in panels.items() if any(found.values())}
    if not panels:
        return None
    figure = new_figure(430 * len(panels) + 240, 470)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        style_axes(axis, title, "%", "TFLOP of pre-training")
        for index, name in enumerate(arms):
            values = found[name]
            if not values:
                continue
            places = [spent.get((find_arm(name).source, *key), 0.0) for key in values]
            colour = LINE_COLOURS[index % len(LINE_COLOURS)]
            marker = "o" if find_arm(name).core else "s"
            axis.plot(places, list(values.values()), marker, color=colour, markersize=4, alpha=0.45, markeredgewidth=0)
            axis.plot(np.mean(places), np.mean(list(values.values())), marker, color=colour, markersize=9,
                      label=find_arm(name).title)  # fmt: skip
        axis.set_ylim(bottom=0)  # else a small difference looks like a large one
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False, labelcolor=QUIET)
    return figure_to_image(figure)


def _differences(bench: Bench, arms: Sequence[str], results: list[dict[str, Any]]) -> Any:
    """Every arm less the one that it is compared with, box AP, with 95 % intervals."""

    detection, rows = main_detection(bench), []
    for name in arms:
        arm = find_arm(name)
        found = paired_difference(scores(results, name, detection), scores(results, arm.against, detection))
        if found is not None and arm.name != arm.against:
            rows.append((f"{arm.title} − {find_arm(arm.against).title}", found))
    if not rows:
        return None
    figure = new_figure(1000, 150 + 36 * len(rows))
    axis = figure.subplots()
    style_axes(axis, f"box AP, {detection}: paired differences over folds, 95 % intervals", xlabel="points of AP")
    axis.axvline(0, color=INK, linewidth=1)
    for margin in (-1, 1):
        axis.axvline(margin, color=QUIET, linewidth=0.8, linestyle=":")
    for row, (_, found) in enumerate(rows):
        if found.low is not None:
            axis.plot([found.low, found.high], [row, row], color=LINE_COLOURS[0], linewidth=2, solid_capstyle="butt")
        axis.plot(found.mean, row, "o", color=LINE_COLOURS[0], markersize=7)
    axis.set_yticks(range(len(rows)), [label for label, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    return figure_to_image(figure)


def _across(bench: Bench, arms: Sequence[str], results: list[dict[str, Any]]) -> Any:
    """kNN class accuracy, queries' level by bank's level, region-head features; one panel an arm."""
    tables: dict[str, list[Any]] = {}
    levels: list[str] = []
    for result in results:
        job = result["job"]
        if job["kind"] == "probe" and job["split"] == "test" and job["arm"] in arms:
            tables.setdefault(job["arm"], []).append(result["features"]["region_head"]["across"])
            levels = result["levels"]
    if not tables:
        return None
    figure = new_figure(250 * min(5, len(tables)) + 40, 260 * -(-len(tables) // 5) + 30)
    panels = np.atleast_1d(figure.subplots(-(-len(tables) // 5), min(5, len(tables)), squeeze=False)).ravel()
    means = {name: 100 * np.mean(of_arm, axis=0) for name, of_arm in tables.items()}
    top = max(float(table.max()) for table in means.values())
    shown = [name for name in arms if name in means]
    for axis, name in zip(panels[: len(shown)], shown, strict=True):
        style_axes(axis, find_arm(name).title, "query read from", "bank read from")
        axis.title.set_fontsize(9)
        axis.grid(False)
        axis.imshow(means[name], cmap="Blues", vmin=0, vmax=1.25 * max(top, 1e-6))
        axis.set_xticks(range(len(levels)), levels)
        axis.set_yticks(range(len(levels)), levels)
        for row, values in enumerate(means[name]):
            for column, value in enumerate(values):
                colour = "white" if value > 0.75 * top else INK
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color=colour)
    for axis in panels[len(means) :]:
        axis.set_axis_off()
    return figure_to_image(figure)
