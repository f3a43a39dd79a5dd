"""Tuning in the open: at most six trials an arm, on the validation split, all of them recorded.

Flow: `--tune ARM` -> **tuning** (which trials) -> pretrain_job, probe_job (validation split) -> OUT/tuning/ARM.json.

Every arm gets the same six, in the order in which small data and small batches are known to hurt: crops that are too
small first (small networks suffer from views of very diverse scale), then temperature, negatives, target. A trial has
half of the visits, and is judged by the mean of kNN and linear accuracy of the stage that every arm transfers, C5.
The choice is the trial with the highest score; it is written by hand into `scales.Scale.tuned`, so that it is seen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mcl_hf.errors import InputError

MOST_TRIALS = 6
TRIAL_SHARE = 2  # of the visits, one in so many
_CONTRASTIVE: Sequence[Mapping[str, Any]] = (
    {},
    {"min_crop_scale": 0.5},
    {"min_crop_scale": 0.35, "temperature": 0.1},
    {"min_crop_scale": 0.35, "temperature": 0.4},
    {"min_crop_scale": 0.35, "queue_size": 2048},
    {"min_crop_scale": 0.35, "target_momentum": 0.95},
)
_SUPERVISED: Sequence[Mapping[str, Any]] = (
    {},
    {"min_crop_scale": 0.5},
    {"min_crop_scale": 0.35},
    {"min_crop_scale": 0.35, "base_learning_rate": 2e-3},
    {"min_crop_scale": 0.35, "base_learning_rate": 8e-3},
    {"min_crop_scale": 0.35, "weight_decay": 0.2},
)
TRIALS: dict[str, Sequence[Mapping[str, Any]]] = {
    "mcl": _CONTRASTIVE,
    "image": _CONTRASTIVE,
    "supervised": _SUPERVISED,
    "supervised-mcl": _SUPERVISED,
}


def trials_of(arm: str) -> Sequence[Mapping[str, Any]]:
    """Changes of each trial.

    Raises:
        InputError: the arm is not tuned: it is a variant of one that is.
    """
    if arm not in TRIALS:
        raise InputError(f"--tune {arm}: choose from {', '.join(TRIALS)}; the other arms take over their options")
    return TRIALS[arm][:MOST_TRIALS]


def trial_changes(arm: str, trial: int) -> dict[str, Any]:
    """Options of one trial, on top of the arm's."""
    return dict(trials_of(arm)[trial])


def record(arm: str, probes: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The search as it is written down.

    Args:
        arm: that was tuned.
        probes: number of a trial -> its probe's result.
    """
    rows = []
    for trial, changes in enumerate(trials_of(arm)):
        row: dict[str, Any] = {"trial": trial, "changes": dict(changes)}
        if trial in probes:
            found = probes[trial]["features"]["c5"]
            row |= {"knn": found["knn"]["all"], "linear": found["linear"]["all"]}
            row["score"] = (row["knn"] + row["linear"]) / 2
        rows.append(row)
    scored = [row for row in rows if "score" in row]
    best = max(scored, key=_score) if scored else None
    return {"arm": arm, "split": "val", "trials": rows, "best": best and best["trial"]}


def _score(row: Mapping[str, Any]) -> float:
    return row["score"]
