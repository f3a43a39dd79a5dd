"""Is a fine-tuning run still sound? Rules over its log: a loss that has exploded, a detector that finds nothing.

Where it sits: `evaluation_watch.py` hands every record of the log to `observe`, whose result is part of the
checkpoint, and says what `verdicts` finds. It ends nothing: a loss that is not finite does (`engine/health.py`). The
rules, whose bounds are ours:

* **Diverged**: the loss is above three times what it was in the first step, in five records in a row that span at least
  100 steps (in a short run, a tenth of it). A first loss under 2 counts as 2, since a run that goes on from a trained
  detector starts low and may rise while it learns something new.
* **Finds nothing**: the finished detector has an AP under 1 %.
"""

from collections.abc import Mapping
from typing import Any

DIVERGED, FINDS_NOTHING = "diverged", "finds nothing"
"""Rules, which their lines begin with."""

LEAST_AP = 0.01
"""AP in [0, 1] under which a detector finds next to nothing."""

_FACTOR = 3.0
_UNTRAINED_LOSS = 2.0  # about log 2 each for class, objectness and mask: what telling nothing apart costs
_RECORDS, _STEPS = 5, 100

Streak = dict[str, float]
"""`first_loss`, the loss of the first record, and `since` and `records`: step of the first record of those in a row
that are far above it, and how many they are; JSON, kept in checkpoints."""


def observe(earlier: Streak, record: Mapping[str, Any]) -> Streak:
    """The streak after one more record; `earlier` is empty before the first one."""
    first = earlier.get("first_loss", record["loss"])
    if record["loss"] <= _FACTOR * max(first, _UNTRAINED_LOSS):
        return {"first_loss": first, "since": 0, "records": 0}
    since = earlier["since"] if earlier.get("records") else record["step"]
    return {"first_loss": first, "since": since, "records": earlier.get("records", 0) + 1}


def verdicts(streak: Streak, record: Mapping[str, Any], max_steps: int, final_ap: float | None) -> dict[str, str]:
    """Rule -> line of what is seen and what to try, for every rule that is broken.

    Args:
        streak: from `observe`, with `record`, the last one.
        max_steps: length of the run.
        final_ap: AP in [0, 1] of the detector that the run ends with; None before its end, or where it has none.
    """
    lines = {}
    lasts = record["step"] - streak["since"] >= min(_STEPS, max_steps // 10)
    if streak["records"] >= _RECORDS and lasts:
        lines[DIVERGED] = (
            f"{DIVERGED}: since step {streak['since']} the loss is more than {_FACTOR:g} times that of the first step "
            f"({record['loss']:.3g} now, {streak['first_loss']:.3g} then): the detector loses what it started from. "
            "Lower --base-learning-rate, lengthen --warmup-steps, or bound the gradient with --clip-grad-norm 10, and "
            "start anew"
        )
    if final_ap is not None and final_ap < LEAST_AP:
        lines[FINDS_NOTHING] = (
            f"{FINDS_NOTHING}: AP is {100 * final_ap:.2g} % on the images it is measured on. Likely too few steps, "
            "or a learning rate that is far too high or far too low: look at evaluation/detections.png, and at the "
            "losses with mcl-hf show run"
        )
    return lines
