"""Curves and a summary of runs, from their log.jsonl, whose names `mcl_hf/engine/tracking.py` describes.

Beside the training loop and `mcl-hf show run`. One run is drawn level by level; several are laid over each other as
means over levels.
"""

import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from .figure import INK, LINE_COLOURS, QUIET, figure_to_image, literal, new_figure, style_axes

Record = dict[str, Any]


def read_log(path: str | Path) -> list[Record]:
    """Records of a run, in the order of their steps, from a log.jsonl or the folder that holds it. A torn last line, as
    a killed run leaves it, is left out.

    Raises:
        InputError: No such file, a line that is no JSON, or no record in it yet.
    """
    path = Path(path)
    file = path / "log.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no log at {file}: give the --output-dir of a run, or its log.jsonl")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    records: list[Record] = []
    for number, line in lines:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("not a record with a step")
        except (ValueError, RecursionError) as error:
            if number == lines[-1][0] and records:
                break
            what = error.msg if isinstance(error, json.JSONDecodeError) else error  # whose own line is always 1
            raise InputError(f"{file}, line {number} is no record of a run ({what})") from error
        records.append(record)
    if not records:
        raise InputError(f"{file} is empty: the run has not logged a step yet")
    return records


def summarise(records: Sequence[Record]) -> dict[str, str]:
    """What a table says about a run: column title -> text; columns that the run has no numbers for are left out."""
    first, last = records[0], records[-1]
    row = {"steps": str(last["step"]), "loss": f"{_text(first.get('loss'))} -> {_text(last.get('loss'))}"}
    if "random_losses" in last:
        row["loss of a random network"] = _text(_random_loss(last))
    for title, name, digits in (
        ("positive cosine", "positive_similarity", 3),
        ("negative cosine", "negative_similarity", 3),
        ("feature std", "feature_std", 3),
        ("effective rank", "effective_rank", 1),
        ("accuracy", "accuracy", 3),
    ):
        if name in last:
            row[f"{title} by level"] = " ".join(_text(level, digits) for level in _levels(last[name]))
    if last.get("target_distance") is not None:
        row["distance of the target"] = _text(last["target_distance"])
    evaluated = next((record for record in reversed(records) if "eval/box/AP" in record), {})
    for name, title in _FIGURES.items():
        if name in evaluated:
            row[title] = f"{100 * evaluated[name]:.1f} at step {evaluated['step']}"
    probed = next((record for record in reversed(records) if _PROBES.keys() & record), {})
    for name, title in {**_PROBES, "probe/chance": "chance"}.items():
        if name in probed:
            row[f"probe: {title}"] = f"{100 * probed[name]:.1f} %"
    speeds, waits = ([v for _, v in _points(records, name)] for name in ("images_per_second", "data_wait_share"))
    if speeds:
        row["images/s"] = f"{statistics.median(speeds):.1f}"
    if waits:
        row["data wait"] = f"{100 * statistics.mean(waits):.0f} %"
    if last.get("seconds") is not None:
        minutes, seconds = divmod(round(last["seconds"]), 60)
        row["time"] = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if last.get("broken_images"):
        row["broken images"] = str(last["broken_images"])
    warnings = [
        f"step {record['step']}: {line.split(':')[0]}" for record in records for line in record.get("health", [])
    ]
    if warnings:
        row["health"] = ", ".join(warnings)
    return row


def curves_picture(logs: Sequence[str | Path] | str | Path, out: str | Path | None = None) -> Image.Image:
    """Draw the curves of one run, or of several runs over each other, as far as they have the numbers, in RGB.

    Args:
        logs: One or more log files or run folders.
        out: Where to write the picture as PNG; None writes nothing.

    Raises:
        InputError: A log that cannot be read, or matplotlib is not installed.
    """
    paths = [Path(logs)] if isinstance(logs, str | Path) else [Path(log) for log in logs]
    picture = draw_curves({name: read_log(path) for name, path in zip(_run_names(paths), paths, strict=True)})
    if out is not None:
        picture.save(out)
    return picture


def draw_curves(runs: dict[str, list[Record]], title: str | None = None, names: Collection[str] = ()) -> Image.Image:
    """Draw records that were read (name of a run -> its records); see `curves_picture`. Without a `title` the picture
    says which runs they are; `names` chooses the panels of these numbers, such as "loss"."""
    panels = [
        panel for panel in _PANELS if (not names or panel.solid[0] in names) and any(map(panel.has_data, runs.values()))
    ]
    rows = max(1, -(-len(panels) // 3))
    figure = new_figure(1500, 90 + 380 * rows)
    from matplotlib.lines import Line2D  # after new_figure, which says so where matplotlib is missing

    single = next(iter(runs)) if len(runs) == 1 else None
    title = title or (f"Run {single}" if single else f"{len(runs)} runs, means over levels")
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=14, color=INK)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.14)  # inches
    grid = figure.subplots(rows, 3, squeeze=False).flatten()
    for place, (axes, panel) in enumerate(zip(grid[: len(panels)], panels, strict=True)):
        style_axes(axes, panel.title if single else panel.several or panel.title, panel.ylabel)
        if place >= len(panels) - 3:
            axes.set_xlabel("step", fontsize=9, color=QUIET)
        panel.draw(axes, runs, single is not None)
    if single is None:
        lines = [Line2D([], [], color=LINE_COLOURS[index % len(LINE_COLOURS)]) for index in range(len(runs))]
        look: Any = {"loc": "outside upper right", "ncols": 4, "fontsize": 9, "frameon": False, "labelcolor": QUIET}
        figure.legend(lines, [literal(name) for name in runs], **look)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure_to_image(figure)


@dataclass(frozen=True)
class _Panel:
    """A panel: its words, the names of its numbers, and how they are drawn."""

    title: str
    ylabel: str
    solid: tuple[str, ...]  # names of the numbers
    dashed: tuple[str, ...] = ()
    several: str = ""  # the title where several runs are drawn
    by_level: bool = False  # numbers are lists: a line a level for one run, the mean over levels for several
    from_zero: bool = False  # the axis starts at 0
    random: bool = False  # also a dashed line for the loss of a random network

    def has_data(self, records: Sequence[Record]) -> bool:
        return any(record.get(name) is not None for record in records for name in self.solid)

    def draw(self, axes: Any, runs: dict[str, list[Record]], single: bool) -> None:
        """Curves, limits, and a legend of what the lines of one run are."""
        for index, records in enumerate(runs.values()):
            colour = LINE_COLOURS[index % len(LINE_COLOURS)]
            if self.random:
                points = [(record["step"], _random_loss(record)) for record in records if "random_losses" in record]
                label = "a network that tells nothing apart" if index == 0 else None
                _plot(axes, points, "#8a8a92" if single else colour, "--", label, linewidth=1.1)
            if self.by_level:
                levels = len(records[0].get("level_losses", [])) if single else 0  # all records have as many
                for name in (*self.solid, *self.dashed):
                    style = "-" if name in self.solid else "--"
                    for level in range(levels):
                        label = f"level {level}" if style == "-" else None
                        own = LINE_COLOURS[level % len(LINE_COLOURS)]
                        _plot(axes, _points(records, name, level), own, style, label)
                    if not levels:
                        _plot(axes, _points(records, name), colour, style)
            else:
                present = [name for name in self.solid if _points(records, name)]
                for number, name in enumerate(present if single else present[:1]):
                    own = LINE_COLOURS[number] if len(present) > 1 else INK
                    label = _LABELS.get(name) if single else None
                    _plot(axes, _points(records, name), own if single else colour, "-", label)
                for name in self.dashed:
                    _plot(axes, _points(records, name), INK if single else colour, "--")
            if self.random:
                _mark_warnings(axes, records, "#c53030" if single else colour)
        if self.from_zero:
            axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles, labels, fontsize=8, frameon=False, labelcolor=QUIET)


def _mark_warnings(axes: Any, records: Sequence[Record], colour: str) -> None:
    """A vertical line where something was found wrong with the run."""
    look = {"rotation": 90, "fontsize": 8, "color": colour, "ha": "right", "va": "center"}
    for record in records:
        for line in record.get("health", []):
            axes.axvline(record["step"], color=colour, linewidth=1.1, linestyle=":")
            axes.annotate(line.split(":")[0], (record["step"], 0.5), xycoords=("data", "axes fraction"), **look)


_PROBES = {
    "probe/knn": "kNN classes",
    "probe/linear": "linear classes",
    "probe/same_level": "same level",
    "probe/other_level": "other level",
}
_DETECTOR_LOSSES = {
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_mask": "masks",
    "loss_objectness": "proposals: objectness",
    "loss_rpn_box_reg": "proposals: boxes",
}
_FIGURES = {
    "eval/box/AP": "box AP",
    "eval/box/AP50": "box AP50",
    "eval/mask/AP": "mask AP",
    "eval/mask/AP50": "mask AP50",
}
_LABELS = {**_PROBES, **_DETECTOR_LOSSES, **_FIGURES}
_PANELS = (
    _Panel("Loss, total", "loss", ("loss",), random=True),
    _Panel("Loss by part", "loss", tuple(_DETECTOR_LOSSES), several="Loss of classes", from_zero=True),
    _Panel("AP on the validation data", "AP, 0 to 1", tuple(_FIGURES), several="Box AP", from_zero=True),
    _Panel(
        "Loss of each level (dashed: nothing told apart)", "loss, weight included", ("level_losses",),
        ("random_losses",), several="Loss of a level, mean", by_level=True,
    ),
    _Panel(
        "Cosine to the own key (solid) and to others (dashed)", "cosine", ("positive_similarity",),
        ("negative_similarity",), by_level=True,
    ),
    _Panel("Tiles classified rightly", "share, 0 to 1", ("accuracy",), by_level=True),
    _Panel(
        "Spread of the embeddings", "standard deviation; 0 is collapse", ("feature_std",), by_level=True, from_zero=True
    ),
    _Panel(
        "Effective rank of the embeddings", "directions used; 1 is collapse", ("effective_rank",), by_level=True,
        from_zero=True,
    ),
    _Panel(
        "Probe (dashed: chance)", "share that is right", tuple(_PROBES), ("probe/chance",),
        several="Probe, kNN or same level (dashed: chance)", from_zero=True,
    ),
    _Panel("Gradient norm, before clipping", "L2 norm", ("grad_norm",), from_zero=True),
    _Panel("Distance of the target from the online network", "relative", ("target_distance",), from_zero=True),
    _Panel("Learning rate", "learning rate", ("learning_rate",), from_zero=True),
    _Panel("Speed", "images/s", ("images_per_second",), from_zero=True),
    _Panel("Time spent waiting for data", "share, 0 to 1", ("data_wait_share",), from_zero=True),
)  # fmt: skip


def _run_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]


def _levels(value: Any) -> list[float | None]:
    """Per-level numbers of `(L, 2)` or `(L,)` lists: the mean over sides."""
    return [_mean(level) if isinstance(level, list) else level for level in value]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _random_loss(record: Record) -> float:
    """Loss of a network that tells nothing apart: the sum over levels and sides."""
    return sum(sum(level) if isinstance(level, list) else level for level in record["random_losses"])


def _points(records: Sequence[Record], name: str, level: int | None = None) -> list[tuple[int, float]]:
    """Steps and numbers; of lists by level those of one, or the mean over levels. Losses are summed over sides."""
    points = []
    for record in records:
        value = record.get(name)
        if isinstance(value, list):
            sides = 2 if name.endswith("losses") and value and isinstance(value[0], list) else 1
            levels = [None if one is None else one * sides for one in _levels(value)]
            value = _mean(levels if level is None else levels[level : level + 1])
        if value is not None:
            points.append((record["step"], value))
    return points


def _plot(axes: Any, points: Sequence[Any], colour: str, style: str, label: str | None = None, **look: float) -> None:
    """A curve through (step, number) pairs."""
    if points:
        look = {"linewidth": 1.6, "markersize": 3, **look}
        marker = "o" if len(points) == 1 else None  # one alone draws no line
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker=marker, **look)


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
