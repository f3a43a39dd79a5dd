"""Is the run learning at all? Rules over log records that recognise collapse and a loss that has not moved.

Where it sits: `watch.py` hands every record of the log to `observe`, whose result is part of the checkpoint, and says
what `verdicts` finds. Pure functions of records: two runs with equal records get equal verdicts, a resumed one too.

The rules, each over consecutive records:

* **Collapse to a point**: at some level the feature std is under a tenth of `1 / sqrt(D)`, what it is for vectors that
  are spread out in D dimensions.
* **Collapse to a few directions**: at some level the effective rank is under `1 + 0.02 * (possible - 1)`, `possible`
  being the smallest of D, the images of the batch and, supervised, the classes.
* **Flat**: after the warm-up, the loss is not 1 % below what it is where all keys look alike (`random_losses`), and
  queries are not nearer to their own keys than to others by a cosine of 0.05. (With a low temperature a network that
  learns well can stay above that loss for a while, because being sure costs where it is wrong.)

Collapse counts after 5 records; a flat loss after 20 records over at least 100 steps. A record that breaks the rule
starts the count anew.

Source: std as in SimSiam (Chen and He 2020, arXiv 2011.10566, figure 2), effective rank as in RankMe (arXiv
2210.02885); the bounds are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

STD_SHARE = 0.1
RANK_SHARE = 0.02
FLAT_SHARE, FLAT_MARGIN = 0.99, 0.05
COLLAPSE_RECORDS = 5
FLAT_RECORDS, FLAT_STEPS = 20, 100

Streaks = dict[str, dict[str, int]]
"""Rule -> {"since": step of the first record it holds for, "records": how many in a row}; JSON, kept in checkpoints."""


class CollapseError(InputError):
    """The run has collapsed or learns nothing, and was asked to stop then."""


@dataclass(frozen=True)
class HealthBounds:
    """What the rules need to know about a run.

    Attributes:
        embedding_dim: D.
        possible_rank: the largest effective rank that its batches can have.
        warmup_steps: steps before a flat loss counts.
        flat_steps: steps that a flat loss lasts before it is named.
    """

    embedding_dim: int
    possible_rank: int
    warmup_steps: int = 0
    flat_steps: int = FLAT_STEPS

    @property
    def least_std(self) -> float:
        """Feature std under which a level counts as collapsed."""
        return STD_SHARE / self.embedding_dim**0.5

    @property
    def least_rank(self) -> float:
        """Effective rank under which a level counts as collapsed."""
        return 1 + RANK_SHARE * (self.possible_rank - 1)


def broken_rules(record: Mapping[str, Any], bounds: HealthBounds) -> set[str]:
    """Which of the rules "point", "directions" and "flat" one record breaks; numbers that it lacks break none."""
    broken = set()
    if worst_level(record, "feature_std")[1] < bounds.least_std:
        broken.add("point")
    if worst_level(record, "effective_rank")[1] < bounds.least_rank:
        broken.add("directions")
    chance = _total(record, "random_losses")
    if record["step"] > bounds.warmup_steps and chance > 0 and _total(record, "level_losses") >= FLAT_SHARE * chance:
        margins = _total(record, "positive_similarity") - _total(record, "negative_similarity")
        if margins < FLAT_MARGIN * sum(map(len, _rows(record, "positive_similarity"))) or "accuracy" in record:
            broken.add("flat")
    return broken


def observe(earlier: Streaks, record: Mapping[str, Any], bounds: HealthBounds) -> Streaks:
    """The streaks after one more record."""
    streaks: Streaks = {}
    for rule in sorted(broken_rules(record, bounds)):
        before = earlier.get(rule, {"since": record["step"], "records": 0})
        streaks[rule] = {"since": before["since"], "records": before["records"] + 1}
    return streaks


def verdicts(streaks: Streaks, record: Mapping[str, Any], bounds: HealthBounds) -> dict[str, str]:
    """One line for every rule that has been broken for long enough: what is seen, the likely cause, what to try.

    Args:
        streaks: from `observe`, the record included.
        record: the last one, for its numbers.
        bounds: of the run.

    Returns:
        Rule -> line; "directions" is left out beside "point", which says more.
    """
    step = record["step"]
    lasting = {
        rule: streak["since"]
        for rule, streak in streaks.items()
        if streak["records"] >= (FLAT_RECORDS if rule == "flat" else COLLAPSE_RECORDS)
        and (rule != "flat" or step - streak["since"] >= bounds.flat_steps)
    }
    lines = {}
    if "point" in lasting:
        level, value = worst_level(record, "feature_std")
        lines["point"] = (
            f"collapse: the embeddings of level {level} are nearly one point since step {lasting['point']} (std "
            f"{value:.2g}, spread out {bounds.embedding_dim**-0.5:.2g}). Likely a learning rate that is too high, or "
            "images that are too much alike: lower --base-learning-rate, lengthen --warmup-steps, look at the data "
            "with mcl-hf show data"
        )
    elif "directions" in lasting:
        level, value = worst_level(record, "effective_rank")
        lines["directions"] = (
            f"collapse: the embeddings of level {level} use few directions since step {lasting['directions']} "
            f"(effective rank {value:.2g} of {bounds.possible_rank} possible). Likely images that are too much alike, "
            "too few negatives, or a learning rate that is too high: look at the data with mcl-hf show data, use a "
            "larger batch or --queue-size, lower --base-learning-rate"
        )
    if "flat" in lasting:
        chance, loss = _total(record, "random_losses"), _total(record, "level_losses")
        lines["flat"] = (
            f"flat loss: {loss:.4g} since step {lasting['flat']}, where a random network has {chance:.4g}: "
            "nothing is being learnt. Likely a learning rate that is far too high or far too low, or labels or images "
            "that carry nothing to tell apart: change --base-learning-rate by a factor of 10, look at the data with "
            "mcl-hf show data"
        )
    return lines


def worst_level(record: Mapping[str, Any], name: str) -> tuple[int, float]:
    """Level and value of the smallest mean over sides of an `(L,)` or `(L, 2)` list; (-1, inf) where it is absent."""
    means = [sum(row) / len(row) for row in _rows(record, name)]
    return min(enumerate(means), key=_value, default=(-1, float("inf")))


def _value(pair: tuple[int, float]) -> float:
    return pair[1]


def _rows(record: Mapping[str, Any], name: str) -> list[list[float]]:
    rows = record.get(name) or []
    return [row if isinstance(row, list) else [row] for row in rows]


def _total(record: Mapping[str, Any], name: str) -> float:
    return sum(map(sum, _rows(record, name)))
