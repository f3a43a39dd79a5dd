"""Figures of results by fold and seed, and cells of tables.

Flow: results/*.json -> **figures** -> detector_tables, learning_tables, plots.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MISSING = "-"

Results = list[dict[str, Any]]
Found = dict[tuple[int, int], float]
"""(fold, seed) -> figure in per cent."""


def scores(
    results: Results, arm: str, detection: str, kind: str = "box", figure: str = "AP"
) -> dict[tuple[int, int], float]:
    """(fold, seed) -> figure of detectors, in per cent."""
    return {
        (r["job"]["fold"], r["job"]["seed"]): 100 * r[kind][figure]
        for r in results
        if is_of(r, "detect", arm) and r["job"]["detection"] == detection and kind in r and r[kind][figure] is not None
    }


def probe_scores(results: Results, arm: str, feature: str, *keys: str) -> Found:
    """(fold, seed) -> figure of probes, in per cent."""
    found = {}
    for result in results:
        if is_of(result, "probe", arm):
            value: Any = result["features"][feature]
            for key in keys:
                value = (value or {}).get(key)
            if value is not None:
                found[result["job"]["fold"], result["job"]["seed"]] = 100 * value
    return found


def is_of(result: Mapping[str, Any], kind: str, arm: str) -> bool:
    job = result["job"]
    return job["kind"] == kind and job["arm"] == arm and job["split"] in (None, "test")


def mean_cell(values: Mapping[Any, float], digits: int = 1) -> str:
    """Mean, standard deviation over folds of the seeds' means, and how many runs there are."""
    if not values:
        return MISSING
    of_fold: dict[int, list[float]] = {}
    for (fold, _), value in values.items():
        of_fold.setdefault(fold, []).append(value)
    means = [float(np.mean(of_one)) for of_one in of_fold.values()]
    spread = f" ± {np.std(means, ddof=1):.{digits}f}" if len(means) > 1 else ""
    return f"{np.mean(means):.{digits}f}{spread} ({len(values)})"


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["Nothing has been run yet."]
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def interval_cell(bounds: Any) -> str:
    return MISSING if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"
