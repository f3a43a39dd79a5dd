"""Tables of what was learnt and what it took: probes, levels, pre-training, cost.

Flow: figures -> **learning_tables** -> report.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arms import find_arm
from .figures import MISSING, Results, as_table, is_of, mean_cell, probe_scores


def probe_table(arms: Sequence[str], results: Results) -> list[str]:
    """Class accuracy of region features."""
    lines = [
        "Share of objects of other groups that is classified rightly, per cent: mean ± standard deviation over folds "
        "(runs). `region head` is what a detector starts from; where FPN and head start new, C5 says what was learnt.",
        "",
    ]
    rows = []
    chance = [100 * r["chance"] for r in results if r["job"]["kind"] == "probe"]
    for name in arms:
        for feature, title in (("region_head", "region head"), ("c5", "C5")):
            cells = [mean_cell(probe_scores(results, name, feature, kind, "all")) for kind in ("knn", "linear")]
            cells += [mean_cell(probe_scores(results, name, feature, "linear", level)) for level in ("P3", "P4", "P5")]
            cells += [mean_cell(probe_scores(results, name, feature, level)) for level in ("same_level", "other_level")]
            rows.append([find_arm(name).title, title, *cells])
    header = ["start", "features", "kNN", "linear", "linear, read from P3", "from P4", "from P5", "kNN, same level",
              "kNN, other level"]  # fmt: skip
    return [*lines, *as_table(header, rows), "", f"The commonest class: {np.mean(chance):.1f}." if chance else ""]


def level_table(arms: Sequence[str], results: Results) -> list[str]:
    """Whether levels share a space: likeness of one object at two levels, and effective ranks."""
    rows = []
    for name in arms:
        found = [r["features"]["region_head"] for r in results if is_of(r, "probe", name)]
        if not found:
            continue
        pairs, levels = list(found[0]["found"]), list(found[0]["effective_rank"])
        mean = {
            key: [f"{np.mean([f[key][pair] for f in found]):.2f}" for pair in pairs]
            for key in ("same_object", "other_object", "found")
        }
        ranks = [f"{np.mean([f['effective_rank'][level] for f in found]):.1f}" for level in levels]
        rows += [
            [
                find_arm(name).title,
                pair,
                *(mean[key][i] for key in ("same_object", "other_object", "found")),
                ", ".join(f"{level} {rank}" for level, rank in zip(levels, ranks, strict=True)) if i == 0 else "",
            ]
            for i, pair in enumerate(pairs)
        ]
    head = (
        "Region-head features of single objects, rendered once for each level: cosine of one object at two levels and "
        "of two objects (centred by level), share of objects found again at the other level, effective rank by level."
    )
    return [head, "", *as_table(["start", "levels", "same object", "others", "found", "effective rank"], rows)]


def pretraining_table(arms: Sequence[str], results: Results) -> list[str]:
    """What pre-training took, and how its levels stood at the end."""
    rows = []
    for source in dict.fromkeys(find_arm(name).source for name in arms):
        found = [r for r in results if r["job"]["kind"] == "pretrain" and r["job"]["arm"] == source]
        if not found:
            continue
        health = [r["health"] for r in found]
        rows.append(
            [
                find_arm(source).title,
                f"{found[0]['visits']:,}",
                f"{found[0]['gflop_a_visit']:.2f}",
                f"{found[0]['gflop'] / 1e3:,.0f}",
                f"{np.mean([r['seconds'] for r in found]) / 3600:.2f}",
                f"{np.mean([r['images_per_second'] for r in found]):.0f}",
                _by_level(health, "positive_similarity"),
                _by_level(health, "negative_similarity"),
                _by_level(health, "effective_rank"),
            ]
        )
    header = ["arm", "visits", "GFLOP a visit", "TFLOP", "hours", "images/s", "cosine to own key, by level",
              "to others", "effective rank of queries"]  # fmt: skip
    return as_table(header, rows)


def _by_level(health: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [np.asarray(h[name], float) for h in health if name in h]
    if not values:
        return MISSING
    mean = np.mean([v.mean(axis=1) if v.ndim == 2 else v for v in values], axis=0)
    return ", ".join(f"{value:.2f}" if abs(value) < 2 else f"{value:.0f}" for value in mean)


def search_table(files: Sequence[Path]) -> list[str]:
    """Every trial of every arm's search, the chosen one marked.

    Args:
        files: of `tuning.record`, one an arm.
    """
    if not files:
        return ["Nothing has been searched."]
    rows, unrun = [], []
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        title = find_arm(found["arm"]).title
        for trial in found["trials"]:
            changes = (
                ", ".join(f"`{name}` {value}" for name, value in trial["changes"].items()) or "as the scale has it"
            )
            if "score" not in trial:
                unrun.append(f"{title}: {changes}")
                continue
            mark = " (chosen)" if trial["trial"] == found["best"] else ""
            rows.append([title, changes + mark, *(f"{100 * trial[key]:.1f}" for key in ("knn", "linear", "score"))])
    head = "Validation scenes of fold 0, features of C5, per cent; a trial has half of the visits."
    rest = ["", f"Never run: {'; '.join(unrun)}."] if unrun else []
    return [head, "", *as_table(["arm", "trial", "kNN", "linear", "mean"], rows), *rest]


def cost_table(results: Results) -> list[str]:
    """Time and memory of a step, as multiples of image-level contrast's."""
    found = {r["job"]["arm"]: r for r in results if r["job"]["kind"] == "cost"}
    if not found:
        return ["Not measured yet: `--cost`."]
    base = found.get("image") or next(iter(found.values()))
    rows = [
        [
            find_arm(name).title,
            f"{1000 / r['images_per_second']:.2f}",
            f"{base['images_per_second'] / r['images_per_second']:.2f}",
            f"{r['gflop_a_visit'] / base['gflop_a_visit']:.2f}",
            f"{r['peak_memory_gib']:.2f} ({r['peak_memory_gib'] - r['memory_before_gib']:.2f})",
        ]
        for name, r in found.items()
    ]
    header = ["arm", "ms an image", f"time / {find_arm(base['job']['arm']).title}", "FLOPs / the same",
              "peak memory, GiB (above what was there before)"]  # fmt: skip
    hours = found["mcl"]["paper_gpu_hours"] if "mcl" in found else None
    gpu = base["machine"]["gpu"]
    paper = (
        "The paper's recipe (ResNet-50, 100 epochs of ImageNet): not measured, no GPU."
        if hours is None
        else "The paper's recipe (ResNet-50, 100 epochs of ImageNet), from measured steps: "
        f"{hours['published']:.0f} hours of one {gpu} in published scope, {hours['lean']:.0f} in lean."
    )
    load = ", ".join(str(value) for value in base["machine"]["load_average"])
    return [*as_table(header, rows), "", f"Load average of the machine: {load}. {paper}"]
