"""Curves and a summary of runs, from their log.jsonl.

Beside the training loop and `mcl-hf show run`; the records' names are described in `mcl_hf/training/tracking.py`. One
run is drawn level by level; several runs are laid over each other as means over levels.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mcl_hf.errors import InputError
from mcl_hf.viz.figure import INK, LINE_COLOURS, QUIET, figure_to_image, new_figure, style_axes

Record = dict[str, Any]


def read_log(path: str | Path) -> list[Record]:
    """Records of a run, in the order of their steps.

    Args:
        path: A log.jsonl, or the folder that holds it.

    Returns:
        One dict a line. A torn last line, as a killed run leaves it, is left out.

    Raises:
        InputError: No such file, a line that is no JSON, or no record in it yet.
    """
    path = Path(path)
    file = path / "log.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no log at {file}: give the --output-dir of a run, or its log.jsonl")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError("not a record with a step")
        except ValueError as error:
            if number == len(lines) and records:
                break
            raise InputError(f"{file}, line {number} is no record of a run ({error})") from error
        records.append(record)
    if not records:
        raise InputError(f"{file} is empty: the run has not logged a step yet")
    return records


def summarise(records: Sequence[Record]) -> dict[str, str]:
    """What a table says about a run: column title -> text; columns that the run has no numbers for are left out."""
    first, last = records[0], records[-1]
    row = {"steps": str(last["step"]), "loss": f"{_text(first.get('loss'))} -> {_text(last.get('loss'))}"}
    for title, name in (
        ("positive cosine by level", "positive_similarity"),
        ("negative cosine by level", "negative_similarity"),
        ("feature std by level", "feature_std"),
        ("accuracy by level", "accuracy"),
    ):
        if name in last:
            row[title] = " ".join(_text(level) for level in _levels(last[name]))
    speeds = [record["images_per_second"] for record in records if record.get("images_per_second") is not None]
    if speeds:
        row["images/s"] = f"{statistics.median(speeds):.1f}"
    waits = [record["data_wait_share"] for record in records if record.get("data_wait_share") is not None]
    if waits:
        row["data wait"] = f"{100 * statistics.mean(waits):.0f} %"
    if last.get("seconds") is not None:
        minutes, seconds = divmod(round(last["seconds"]), 60)
        row["time"] = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if last.get("broken_images"):
        row["broken images"] = str(last["broken_images"])
    return row


def curves_picture(logs: Sequence[str | Path] | str | Path, out: str | Path | None = None) -> Image.Image:
    """Draw the curves of one run, or of several runs over each other.

    Args:
        logs: One or more log files or run folders.
        out: Where to write the picture as PNG; None writes nothing.

    Returns:
        An RGB picture.

    Raises:
        InputError: A log that cannot be read, or matplotlib is not installed.
    """
    paths = [Path(logs)] if isinstance(logs, str | Path) else [Path(log) for log in logs]
    runs = {name: read_log(path) for name, path in zip(_run_names(paths), paths, strict=True)}
    supervised = all("accuracy" in records[-1] for records in runs.values())
    figure = new_figure(1500, 860)
    single = next(iter(runs)) if len(runs) == 1 else None
    title = f"Run {single}" if single else f"{len(runs)} runs, means over levels"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, color=INK)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
    panels = figure.subplots(2, 3).flatten()

    style_axes(panels[0], "Loss, total", "loss")
    style_axes(panels[1], "Loss of each level" if single else "Loss of a level, mean", "loss, weight included")
    if supervised:
        style_axes(panels[2], "Tiles classified rightly", "share, 0 to 1")
    else:
        style_axes(panels[2], "Cosine to the own key (solid) and to others (dashed)", "cosine")
    style_axes(panels[3], "Gradient norm, before clipping" if supervised else "Spread of the embeddings", xlabel="step")
    panels[3].set_ylabel("L2 norm" if supervised else "standard deviation; 0 is collapse", fontsize=9, color=QUIET)
    style_axes(panels[4], "Learning rate", "learning rate", "step")
    style_axes(panels[5], "Speed (solid), share of time without data (dotted)", "images/s", "step")

    waiting = panels[5].twinx()
    for index, (name, records) in enumerate(runs.items()):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        levels = _level_count(records) if single else 0
        _line(panels[0], records, "loss", colour=INK if single else colour, label=None if single else name)
        _level_lines(panels[1], records, "level_losses", levels, colour, sum_sides=True)
        if supervised:
            _level_lines(panels[2], records, "accuracy", levels, colour)
            _line(panels[3], records, "grad_norm", colour)
        else:
            _level_lines(panels[2], records, "positive_similarity", levels, colour)
            _level_lines(panels[2], records, "negative_similarity", levels, colour, style="--")
            _level_lines(panels[3], records, "feature_std", levels, colour)
        _line(panels[4], records, "learning_rate", colour)
        _line(panels[5], records, "images_per_second", colour)
        _line(waiting, records, "data_wait_share", colour, style=":")
    for axes in panels[3:]:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    waiting.set_ylim(0, 1)
    waiting.tick_params(labelsize=8, colors=QUIET)
    waiting.set_ylabel("share, 0 to 1", fontsize=9, color=QUIET)
    for side in ("top", "left", "bottom", "right"):
        waiting.spines[side].set_visible(False)
    panels[1 if single else 0].legend(fontsize=8, frameon=False, labelcolor=QUIET)
    picture = figure_to_image(figure)
    if out is not None:
        picture.save(out)
    return picture


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


def _level_count(records: Sequence[Record]) -> int:
    """L, as the first record has it; all records of a run have the same."""
    return len(records[0].get("level_losses", []))


def _line(
    axes: Any, records: Sequence[Record], name: str, colour: str, style: str = "-", label: str | None = None
) -> None:
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    _plot(axes, points, colour, style, label)


def _level_lines(
    axes: Any, records: Sequence[Record], name: str, levels: int, colour: str, style: str = "-", sum_sides: bool = False
) -> None:
    """One line a level, or with `levels` 0 one line of the mean over levels."""
    series: list[tuple[int, list[float | None]]] = []
    for record in records:
        if record.get(name) is not None:
            sides = 2 if sum_sides and record[name] and isinstance(record[name][0], list) else 1
            series.append((record["step"], [None if v is None else v * sides for v in _levels(record[name])]))
    if not levels:
        _plot(
            axes, [(step, mean) for step, values in series if (mean := _mean(values)) is not None], colour, style, None
        )
    for level in range(levels):
        points = [
            (step, value) for step, values in series if level < len(values) and (value := values[level]) is not None
        ]
        _plot(axes, points, LINE_COLOURS[level % len(LINE_COLOURS)], style, f"level {level}" if style == "-" else None)


def _plot(axes: Any, points: Sequence[tuple[int, float]], colour: str, style: str, label: str | None) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else None  # a single point draws no line
        axes.plot(steps, values, style, color=colour, linewidth=1.6, label=label, marker=marker, markersize=3)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
