"""Is the run learning at all? Rules over log records that recognise collapse and a loss that has not moved.

Where it sits: the loop owns one `HealthWatch`, which hands every record of the log to `observe`, keeps the result in
the checkpoint, and says what `verdicts` finds. Both are pure functions of records: a resumed run gets equal ones.

The rules:

* **Collapse to a point**: at some level the feature std is under a tenth of `1 / sqrt(D)`, what it is for vectors that
  are spread out in D dimensions.
* **Collapse to a few directions**: at some level the effective rank is under `1 + 0.02 * (possible - 1)`, `possible`
  being the smallest of D, the images of the batch and, supervised, the classes.
* **Flat**: after the warm-up, the loss is not 1 % below what it is where all keys look alike (`random_losses`), and
  queries are not nearer to their own keys than to others by a cosine of 0.05. (With a low temperature a network that
  learns well can stay above that loss for a while, because being sure costs where it is wrong.)

Collapse counts after 5 records in a row. A flat loss is judged by means over windows of 20 records that span at least
100 steps, because the loss of a small batch jumps.

Source: std as in SimSiam (Chen and He 2020, arXiv 2011.10566, figure 2), effective rank as in RankMe (arXiv
2210.02885); the bounds are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ..engine.health import effective_rank, relative_distance, second_moments
from ..engine.run import Run, Watch
from ..errors import InputError

STD_SHARE = 0.1
RANK_SHARE = 0.02
FLAT_SHARE, FLAT_MARGIN = 0.99, 0.05
COLLAPSE_RECORDS = 5
FLAT_RECORDS, FLAT_STEPS = 20, 100

Streaks = dict[str, dict[str, float]]
"""Rule -> {"since": step of the first record it holds for, "records": how many in a row}, and for "flat" also sums over
the window and what the last whole window showed; JSON, kept in checkpoints."""


class CollapseError(InputError):
    """The run has collapsed or learns nothing, and was asked to stop then."""


@dataclass(frozen=True)
class HealthBounds:
    """What the rules need to know about a run."""

    embedding_dim: int  # D
    possible_rank: int  # the largest effective rank that its batches can have
    warmup_steps: int = 0  # before a flat loss counts
    flat_steps: int = FLAT_STEPS  # the least of the window that a flat loss is judged by


def broken_rules(record: Mapping[str, Any], bounds: HealthBounds) -> set[str]:
    """Which of the rules "point" and "directions" one record breaks; numbers that it lacks break none."""
    broken = set()
    if _worst_level(record, "feature_std")[1] < STD_SHARE / bounds.embedding_dim**0.5:
        broken.add("point")
    if _worst_level(record, "effective_rank")[1] < 1 + RANK_SHARE * (bounds.possible_rank - 1):
        broken.add("directions")
    return broken


def observe(earlier: Streaks, record: Mapping[str, Any], bounds: HealthBounds) -> Streaks:
    """The streaks after one more record."""
    streaks: Streaks = {}
    for rule in sorted(broken_rules(record, bounds)):
        before = earlier.get(rule, {"since": record["step"], "records": 0})
        streaks[rule] = {"since": before["since"], "records": before["records"] + 1}
    chance = _total(record, "random_losses")
    if record["step"] > bounds.warmup_steps and chance > 0:
        streaks["flat"] = _flat_window(earlier.get("flat", {}), record, chance, bounds)
    return streaks


def _flat_window(
    earlier: dict[str, float], record: Mapping[str, Any], chance: float, bounds: HealthBounds
) -> dict[str, float]:
    """The window of the flat rule with one more record; a whole one is followed by a new one.

    `share` and `margin` are sums over its records of loss / loss where all keys look alike, and of how much nearer
    queries are to their own keys; `flat_since` is the first step of the windows that were flat up to the last whole
    one, -1 where that was not flat, and `flat_share` the mean share of that one.
    """
    cosines = sum(map(len, _rows(record, "positive_similarity")))
    margin = (_total(record, "positive_similarity") - _total(record, "negative_similarity")) / max(cosines, 1)
    begun = earlier if earlier and not earlier["whole"] else {}
    window = {
        "since": begun.get("since", record["step"]),
        "records": begun.get("records", 0) + 1,
        "share": begun.get("share", 0.0) + _total(record, "level_losses") / chance,
        "margin": begun.get("margin", 0.0) + margin,
        "flat_since": earlier.get("flat_since", -1),
        "flat_share": earlier.get("flat_share", 0.0),
        "whole": 0,
    }
    count = window["records"]
    if count >= FLAT_RECORDS and record["step"] - window["since"] >= bounds.flat_steps:
        window["whole"] = 1
        window["flat_share"] = window["share"] / count
        flat = window["share"] >= FLAT_SHARE * count and window["margin"] < FLAT_MARGIN * count
        window["flat_since"] = -1 if not flat else max(window["flat_since"], 0) or window["since"]
    return window


def verdicts(streaks: Streaks, record: Mapping[str, Any], bounds: HealthBounds) -> dict[str, str]:
    """A line for every rule that has been broken for long enough: what is seen, the likely cause, what to try. The last
    record gives its numbers; "directions" is left out beside "point", which says more."""
    lasting = {rule: streak["since"] for rule, streak in streaks.items() if streak["records"] >= COLLAPSE_RECORDS}
    lines = {}
    if "point" in lasting:
        level, value = _worst_level(record, "feature_std")
        lines["point"] = (
            f"collapse: the embeddings of level {level} are nearly one point since step {lasting['point']} (std "
            f"{value:.2g}, spread out {bounds.embedding_dim**-0.5:.2g}). Likely a learning rate that is too high, or "
            "images that are too much alike: lower --base-learning-rate, lengthen --warmup-steps, look at the data "
            "with mcl-hf show data"
        )
    elif "directions" in lasting:
        level, value = _worst_level(record, "effective_rank")
        lines["directions"] = (
            f"collapse: the embeddings of level {level} use few directions since step {lasting['directions']} "
            f"(effective rank {value:.2g} of {bounds.possible_rank} possible). Likely images that are too much alike, "
            "too few negatives, or a learning rate that is too high: look at the data with mcl-hf show data, use a "
            "larger batch or --queue-size, lower --base-learning-rate"
        )
    flat_since = streaks.get("flat", {}).get("flat_since", -1)
    if flat_since >= 0:
        share = streaks["flat"]["flat_share"]
        lines["flat"] = (
            f"flat loss: since step {flat_since}, its mean is {share:.2f} times that of a network that tells nothing "
            f"apart ({_total(record, 'random_losses'):.4g}): nothing is being learnt. Likely a learning rate that is "
            "far too high or far too low, or labels or images that carry nothing to tell apart: change "
            "--base-learning-rate by a factor of 10, look at the data with mcl-hf show data"
        )
    return lines


def _worst_level(record: Mapping[str, Any], name: str) -> tuple[int, float]:
    """Level and value of the smallest mean over sides of an `(L,)` or `(L, 2)` list; (-1, inf) where it is absent."""
    means = [sum(row) / len(row) for row in _rows(record, name)]
    return min(enumerate(means), key=itemgetter(1), default=(-1, float("inf")))


def _rows(record: Mapping[str, Any], name: str) -> list[list[float]]:
    rows = record.get(name) or []
    return [row if isinstance(row, list) else [row] for row in rows]


def _total(record: Mapping[str, Any], name: str) -> float:
    return sum(map(sum, _rows(record, name)))


class HealthWatch(Watch):
    """Measures and judges a run at its logging steps. All ranks must call `measure` and `judge`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bounds = _health_bounds(run)

    def measure(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """A step's outputs with `effective_rank` of its queries over all ranks, and `target_distance`, the relative
        distance of target and online parameters."""
        numbers = {name: value for name, value in outputs.items() if name != "queries"}
        # (sides, L, D, D), summed over ranks: the rank is that of the whole batch
        moments = self.run.accelerator.reduce(second_moments(outputs["queries"]), "sum")
        ranks = effective_rank(moments)  # (sides, L)
        numbers["effective_rank"] = ranks[0] if len(ranks) == 1 else ranks.T  # (L,) or (L, 2)
        network = self.run.network
        if hasattr(network, "target"):
            numbers["target_distance"] = relative_distance(network.target.parameters(), network.mcl.parameters())
        return numbers

    def judge(self, record: dict[str, Any]) -> None:
        """Take a record into account; what is new goes to the console and into `record["health"]`, and `fatal` is set
        where the run was asked to stop on what was found."""
        run = self.run
        streaks: Streaks = observe(run.state.health.get("streaks", {}), record, self.bounds)
        lines = verdicts(streaks, record, self.bounds)
        new = [line for rule, line in lines.items() if rule not in run.state.health.get("said", [])]
        run.state.health = {"streaks": streaks, "said": sorted(lines)}
        if new:
            record["health"] = new
        for line in new:
            run.tracking.print(f"warning: {line}")
        if run.arguments.on_collapse == "stop" and run.total_over_ranks(int(bool(lines))):
            found = next(iter(lines.values()), "another process has collapsed")
            self.fatal = CollapseError(
                f"{found}. Stopped after step {run.state.step}, which is saved: continue with --resume auto and other "
                "options, or with --on-collapse warn"
            )
            run.state.health = {}  # a run that continues from here, with other options, starts counting anew


def _health_bounds(run: Run) -> HealthBounds:
    """Bounds for a run's batches: of its last forward pass on all ranks, which the health numbers are of."""
    config, world_size = run.network.config, run.accelerator.num_processes
    batch_size, _ = run.arguments.batch_sizes(world_size)
    cells = min(run.network.layout(batch_size).cells)
    possible = min(config.embedding_dim, batch_size * world_size, cells * world_size)
    if run.arguments.objective == "supervised":  # trained classes become the corners of a simplex
        possible = min(possible, max(1, config.num_labels - 1))
    return HealthBounds(config.embedding_dim, possible, run.warmup_steps)
