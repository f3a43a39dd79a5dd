"""Probe results as text and as a picture, for `mcl-hf probe`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..viz.figure import INK, LINE_COLOURS, QUIET, figure_to_image, literal, new_figure, style_axes
from .region_features import FEATURES, MAIN_FEATURE
from .run_probe import ProbeResult

TITLES = {"region_head": "region head", "embedding": "embedding", "c5": "C5 of the backbone"}


def result_rows(results: Sequence[ProbeResult]) -> list[dict[str, str]]:
    """One row for each network and feature: column title -> text, shares in per cent."""
    rows = []
    for result in results:
        for name in FEATURES:
            row = {"network": result.network, "feature": TITLES[name]}
            if result.objects is not None:
                numbers = result.objects["features"][name]
                row |= {"kNN": _percent(numbers["knn"]["all"]), "linear": _percent(numbers["linear"]["all"])}
                for size, count in result.objects["sizes"].items():
                    if count:
                        row[f"kNN {size}"] = _percent(numbers["knn"][size])
                row |= {
                    "kNN same level": _percent(numbers["same_level"]),
                    "other level": _percent(numbers["other_level"]),
                }
                for kind in ("same", "other"):
                    row[f"balanced {kind} level"] = _percent(numbers["balanced"][f"{kind}_level"])
            if result.views is not None:
                numbers = result.views["features"][name]
                row |= {f"found {kind} level": _percent(numbers[f"{kind}_level"]) for kind in ("same", "other")}
            rows.append(row)
    return rows


def result_notes(results: Sequence[ProbeResult]) -> list[str]:
    """What the numbers are of, and what chance would give."""
    notes = []
    objects, views = results[0].objects, results[0].views
    if objects is not None:
        sizes = ", ".join(f"{count} {size}" for size, count in objects["sizes"].items())
        notes.append(
            f"classes: {objects['objects']} objects of {objects['classes']} classes in {objects['images']} images, one "
            f"half learnt from, the other asked ({sizes}); the commonest class alone is right in "
            f"{_percent(objects['chance'])} %. kNN of {objects['neighbours']}; same and other level: queries rendered "
            "for one level of the pyramid, the bank for the same or another one"
        )
        crops = objects["crops"]
        notes.append(
            f"same and other level ask for the largest object of each image, {crops['asked']} of them, of which the "
            f"commonest class alone is right in {_percent(crops['chance'])} %; balanced is the mean over the classes, "
            f"chance {_percent(crops['balanced_chance'])} %"
        )
        asked = sum(objects["sizes"].values())
        notes.append(
            f"{asked} objects are asked for, so one is {100 / asked:.1f} points: two networks that differ by less than "
            f"about {200 * (0.5 / asked) ** 0.5:.0f} points may be equally good"  # twice the error of a difference
        )
    if views is not None:
        notes.append(
            f"found: the nearest of {views['images']} images is the image itself, in another crop, at the same or at "
            f"another size; chance is {_percent(views['chance'])} %"
        )
    notes.append(f"go by the {TITLES[MAIN_FEATURE]}: it is what a detector starts from")
    return notes


def result_picture(results: Sequence[ProbeResult]) -> Image.Image:
    """Bars of every network side by side, and for each a table of levels by levels, drawn with matplotlib."""
    kinds = [kind for kind in ("objects", "views") if getattr(results[0], kind) is not None]
    figure = new_figure(90 + 330 * max(3, len(results)), 130 + 360 * (1 + len(kinds)))
    figure.suptitle("What the region features know", x=0.01, ha="left", fontsize=14, color=INK)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.14)  # inches
    parts = figure.subfigures(1 + len(kinds), 1, height_ratios=[1.15] + [1] * len(kinds))
    _draw_bars(parts[0], results, kinds)
    for part, kind in zip(parts[1:], kinds, strict=True):
        _draw_levels(part, results, kind)
    return figure_to_image(figure)


def _draw_bars(part: Any, results: Sequence[ProbeResult], kinds: Sequence[str]) -> None:
    """One panel a feature, one group of bars a number, one colour a network; chance as a dashed line."""
    panels = part.subplots(1, len(FEATURES), sharey=True)
    for axes, name in zip(panels, FEATURES, strict=True):
        style_axes(axes, TITLES[name], "share that is right" if name == FEATURES[0] else "")
        labels: list[str] = []
        for number, result in enumerate(results):
            bars: dict[str, tuple[float, float]] = {}  # label -> value, chance
            for kind in kinds:
                measured = getattr(result, kind)
                values, chance = measured["features"][name], measured["chance"]
                if kind == "objects":
                    bars["kNN"] = (values["knn"]["all"], chance)
                    bars["linear"] = (values["linear"]["all"], chance)
                    bars["kNN,\nother\nlevel"] = (values["other_level"] or 0.0, measured["crops"]["chance"])
                else:
                    bars["found,\nsame\nlevel"] = (values["same_level"], chance)
                    bars["found,\nother\nlevel"] = (values["other_level"] or 0.0, chance)
            labels, width = list(bars), 0.8 / len(results)
            places = [place - 0.4 + (number + 0.5) * width for place in range(len(bars))]
            colour = LINE_COLOURS[number % len(LINE_COLOURS)]
            shares, network = [value for value, _ in bars.values()], literal(_short(result.network))
            axes.bar(places, shares, width * 0.92, color=colour, label=network)
            for place, (_, chance) in enumerate(bars.values()):
                axes.plot([place - 0.42, place + 0.42], [chance, chance], "--", color=INK, linewidth=1.2)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylim(0, 1)
    handles, names = panels[0].get_legend_handles_labels()
    part.legend(
        handles, names, loc="outside upper right", ncols=len(results), fontsize=9,
        frameon=False, labelcolor=QUIET, title="dashed: chance", title_fontsize=8,
    )  # fmt: skip


def _draw_levels(part: Any, results: Sequence[ProbeResult], kind: str) -> None:
    """A table of shares for each network: rows are the queries' levels, columns the bank's."""
    panels = part.subplots(1, max(3, len(results)), squeeze=False)[0]
    measured = getattr(results[0], kind)
    what, chance = "the same image found", measured["chance"]
    if kind == "objects":
        what, chance = "kNN class accuracy", measured["crops"]["chance"]
    top = max(np.max(getattr(result, kind)["features"][MAIN_FEATURE]["across"]) for result in results)
    for axes, result in zip(panels[: len(results)], results, strict=True):
        measured = getattr(result, kind)
        table, levels = measured["features"][MAIN_FEATURE]["across"], measured["levels"]
        title = f"{what} (chance {100 * chance:.0f}): {_short(result.network)}"
        style_axes(axes, title, "query read from", "bank read from")
        axes.grid(False)
        axes.imshow(table, cmap="Blues", vmin=0, vmax=max(top, 1e-6) * 1.25)
        axes.set_xticks(range(len(levels)), levels)
        axes.set_yticks(range(len(levels)), levels)
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value > 0.75 * top else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=10, color=colour)
    for axes in panels[len(results) :]:
        axes.set_axis_off()


def _short(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= 28 else f"...{name[-25:]}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
