"""Tables of detectors: AP of every arm, what came of the claims, and all differences.

Flow: figures + statistics -> **detector_tables** -> report.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arms import find_arm
from .figures import MISSING, Found, Results, as_table, interval_cell, is_of, mean_cell, probe_scores, scores
from .group_scores import SIZES
from .jobs import Bench
from .margins import read_claims
from .statistics import bootstrap_interval, group_interval, paired_difference, verdict


def detector_table(bench: Bench, arms: Sequence[str], results: Results) -> list[str]:
    """AP of every arm by every way of fine-tuning."""
    lines = ["AP in per cent: mean ± standard deviation over folds (runs).", ""]
    columns: list[tuple[str, str, str]] = [("box AP", "box", "AP"), ("AP50", "box", "AP50"), ("mask AP", "mask", "AP"),
                                           ("one class, box", "box", "agnostic")]  # fmt: skip
    for detection in bench.scale.detections:
        what = "frozen backbone" if detection.frozen else "everything fine-tuned"
        lines += [f"**{what}, {detection.fraction} % of the groups labelled, schedule {detection.schedule}**", ""]
        rows = []
        for name in arms:
            cells = [mean_cell(scores(results, name, detection.name, kind, figure)) for _, kind, figure in columns]
            sizes = [mean_cell(_nested(results, name, detection.name, "sizes", size)) for size in SIZES]
            rows.append([find_arm(name).title, *cells, *sizes])
        lines += [*as_table(["start", *(title for title, _, _ in columns), *SIZES], rows), ""]
        blendings = sorted(
            {name for r in results if r["job"]["detection"] == detection.name for name in r["box"]["blending"]}
        )
        if blendings:
            rows = [
                [find_arm(a).title, *(mean_cell(_nested(results, a, detection.name, "blending", b)) for b in blendings)]
                for a in arms
            ]
            lines += ["By blending, box AP:", "", *as_table(["start", *blendings], rows), ""]
    contact = [r for r in results if "contact" in r]
    if contact:
        rows = []
        for name in arms:
            values = {
                (r["job"]["fold"], r["job"]["seed"]): 100 * r["contact"]["box/AP"]
                for r in contact
                if is_of(r, "detect", name) and r["contact"]["box/AP"] is not None
            }
            rows.append([find_arm(name).title, mean_cell(values)])
        lines += ["Second set (objects in contact), one class, box AP:", "", *as_table(["start", "AP"], rows)]
    return lines


def _nested(results: Results, arm: str, detection: str, part: str, key: str) -> Found:
    return {
        (r["job"]["fold"], r["job"]["seed"]): 100 * r["box"][part][key]
        for r in results
        if is_of(r, "detect", arm) and r["job"]["detection"] == detection and r["box"][part].get(key) is not None
    }


def main_detection(bench: Bench) -> str:
    """What the claims are about: full fine-tuning on all groups where it is run, else the frozen backbone."""
    names = [detection.name for detection in bench.scale.detections]
    return "full-100" if "full-100" in names else "frozen-100"


def claim_table(bench: Bench, results: Results) -> list[str]:
    """What was written down beforehand, and what came of it."""
    detection = main_detection(bench)
    rows = []
    for claim in read_claims():
        one, other = (scores(results, name, detection) for name in (claim.arm, claim.against))
        found = paired_difference(one, other)
        expected = "at least {:g} above" if claim.kind == "superiority" else "equal within {:g}"
        rows.append(
            [
                f"{find_arm(claim.arm).title} − {find_arm(claim.against).title}",
                expected.format(claim.margin),
                MISSING if found is None else f"{found.mean:+.2f}",
                interval_cell(None if found is None or found.low is None else (found.low, found.high)),
                interval_cell(_bootstrap(results, claim.arm, claim.against, detection)),
                verdict(found, claim.kind, claim.margin),
            ]
        )
    head = f"Box AP of `{detection}`, points. Expectations are those of evaluation/transfer/margins.yaml."
    header = ["difference", "expected", "found", "95 %, folds", "95 %, groups drawn again", "verdict"]
    return [head, "", *as_table(header, rows)]


def _bootstrap(results: Results, one: str, other: str, detection: str) -> tuple[float, float] | None:
    draws = [
        {
            (r["job"]["fold"], r["job"]["seed"]): [100 * value for value in r["box"]["replicates"]]
            for r in results
            if is_of(r, "detect", name) and r["job"]["detection"] == detection
        }
        for name in (one, other)
    ]
    return bootstrap_interval(*draws)


def difference_table(bench: Bench, arms: Sequence[str], results: Results) -> list[str]:
    """Every arm less the one that it is compared with, by every figure."""
    rows = []
    for name in arms:
        arm = find_arm(name)
        if arm.name == arm.against:
            continue
        figures: dict[str, tuple[Found, Found]] = {
            f"box AP, {d.name}": (scores(results, name, d.name), scores(results, arm.against, d.name))
            for d in bench.scale.detections
        }
        for feature in ("region_head", "c5"):
            for kind in ("knn", "linear"):
                figures[f"{kind}, {feature}"] = (
                    probe_scores(results, name, feature, kind, "all"),
                    probe_scores(results, arm.against, feature, kind, "all"),
                )
        for title, (one, other) in figures.items():
            found = paired_difference(one, other)
            if found is None:
                continue
            groups = _groups(results, name, arm.against, title)
            rows.append(
                [
                    f"{arm.title} − {find_arm(arm.against).title}",
                    title,
                    f"{found.mean:+.2f}",
                    interval_cell(None if found.low is None else (found.low, found.high)),
                    MISSING
                    if groups is None
                    else f"{groups.mean:+.2f} ({interval_cell((groups.low, groups.high))})"
                    if groups.low is not None
                    else MISSING,
                    f"{found.runs} in {found.folds}",
                ]
            )
    head = (
        "Points; 95 % intervals, each by itself (with so many rows one in twenty misses). By groups: mean difference "
        "of recall (detectors) or accuracy (probes) over groups of cut-outs, each once."
    )
    return [head, "", *as_table(["difference", "of", "mean", "95 %, folds", "by groups", "runs in folds"], rows)]


def _groups(results: Results, one: str, other: str, title: str) -> Any:
    """Difference over groups, each group of each fold once, seeds averaged."""
    sides = []
    for name in (one, other):
        shares: dict[str, list[float]] = {}
        for result in results:
            job = result["job"]
            if title.startswith("box AP, ") and is_of(result, "detect", name) and job["detection"] == title[8:]:
                rows = {group: row[1] for group, row in result["box"]["groups"].items()}
            elif not title.startswith("box AP") and is_of(result, "probe", name):
                kind, feature = title.split(", ")
                column = 1 if kind == "knn" else 2
                rows = {g: row[column] / row[0] for g, row in result["features"][feature]["groups"].items()}
            else:
                continue
            for group, share in rows.items():
                shares.setdefault(f"{job['fold']}/{group}", []).append(100 * share)
        sides.append({group: (1.0, float(np.mean(values))) for group, values in shares.items()})
    return group_interval(*sides)
