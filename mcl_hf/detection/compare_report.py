"""What a comparison found, in words and numbers: one sentence, two tables, and the same as JSON.

Flow: compare.py (results of the jobs done so far) + compare_statistics -> **compare_report** -> comparison.md, .json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mcl_hf.detection.compare_job import JobResult
from mcl_hf.detection.compare_statistics import (
    ERROR,
    Difference,
    common_seeds,
    comparisons_of,
    differences,
    mean_and_sd,
    seeds_needed,
)
from mcl_hf.detection.finetune_health import LEAST_AP

NOTHING = 100 * LEAST_AP
"""Below this AP, percent, a detector finds next to nothing, and starts cannot be compared by it."""

_TITLES = {"eval/box/AP": "box AP", "eval/mask/AP": "mask AP"}


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison, whole or in progress.

    Attributes:
        starts: in the order given.
        fractions: ascending.
        seeds: asked for.
        results: of the jobs done.
        failed: job -> why it has no result.
        data: `training` (all of it, before fractions are taken) and `validation`, see `finetune.training_record`.
        warnings: what makes the comparison less than fair; see `beware` for all of them.
    """

    starts: list[str]
    fractions: list[float]
    seeds: list[int]
    results: list[JobResult]
    failed: dict[str, str]
    data: dict[str, dict[str, Any]]
    warnings: list[str]

    @property
    def figure(self) -> str:
        """The figure that is compared: mask AP where every job has it, else box AP."""
        masks = self.results and all("eval/mask/AP" in result.figures for result in self.results)
        return "eval/mask/AP" if masks else "eval/box/AP"

    @property
    def planned(self) -> int:
        """Number of jobs."""
        return len(self.starts) * len(self.fractions) * len(self.seeds)

    @property
    def val_images(self) -> int:
        """Number of images that AP is measured on."""
        return int(self.data["validation"]["num_images"])

    @property
    def beware(self) -> list[str]:
        """`warnings`, and which of the jobs done diverged."""
        diverged = [
            f"the loss of {result.start}, {100 * result.fraction:g} % of the labels, seed {result.seed} exploded on "
            "the way (see its log.jsonl)"
            for result in self.results
            if result.diverged
        ]
        return [*self.warnings, *diverged]

    @property
    def comparisons(self) -> int:
        """Number of intervals that hold together."""
        return comparisons_of(len(self.starts), len(self.fractions))

    def scores(self, fraction: float, figure: str | None = None) -> dict[str, dict[int, float]]:
        """A figure in percent: start -> seed -> value, of the jobs done."""
        name = figure or self.figure
        return {
            start: {
                result.seed: 100 * result.figures[name]
                for result in self.results
                if (result.start, result.fraction) == (start, fraction) and name in result.figures
            }
            for start in self.starts
        }

    def differences(self, fraction: float) -> list[Difference]:
        """All pairs of starts at a fraction, in points of AP."""
        return differences(self.scores(fraction), self.comparisons)


def sentence(comparison: Comparison) -> str:
    """Which start won, or that the data cannot tell: one sentence, with what was varied."""
    parts = [_of_fraction(comparison, fraction) for fraction in comparison.fractions]
    seeds = max([1, *(len(common_seeds(comparison.scores(fraction))) for fraction in comparison.fractions)])
    varied = "order, new weights"
    if any(fraction < 1 for fraction in comparison.fractions):
        varied += " and, below 100 %, the choice of labelled images"
    said = "; ".join(parts)
    return (
        f"{said[0].upper()}{said[1:]} ({_TITLES[comparison.figure]}, {seeds} {'seeds' if seeds > 1 else 'seed'}, which "
        f"{'vary' if seeds > 1 else 'fixes'} {varied}; the same {comparison.val_images} validation images throughout)."
    )


def _of_fraction(comparison: Comparison, fraction: float) -> str:
    where = f"with {100 * fraction:g} % of the labels"
    scores = comparison.scores(fraction)
    missing = [start for start in comparison.starts if not scores[start]]
    pairs = comparison.differences(fraction)
    if not pairs:
        return f"{where} there is nothing to compare yet"
    leader = pairs[0].better
    if max(max(of_seed.values()) for of_seed in scores.values() if of_seed) < NOTHING:
        return f"{where} no start has reached an AP of {NOTHING:g}: train for longer"
    against = [pair for pair in pairs if pair.better == leader]
    without = f" (nothing yet of {', '.join(missing)})" if missing else ""
    if pairs[0].seeds == 1:
        values = ", ".join(f"{pair.other} {_one(pair.mean)} behind" for pair in against)
        return f"{where} one seed cannot tell a difference from chance: {leader} is ahead, {values}{without}"
    level = [pair for pair in against if not pair.tells]
    beaten = [pair for pair in against if pair.tells]
    if not level:
        won = ", ".join(f"{_one(pair.mean)} ({_bounds(pair)}) above {pair.other}" for pair in beaten)
        return f"{where} {leader} won: {won}{without}"
    told = " and ".join(f"{pair.other} ({_one(pair.mean)} behind, {_bounds(pair)})" for pair in level)
    ahead = f", but {leader} beat {' and '.join(pair.other for pair in beaten)}" if beaten else ""
    return f"{where} the data cannot tell {leader} from {told}{ahead}{without}"


def to_markdown(comparison: Comparison) -> str:
    """The whole report."""
    done = len(comparison.results)
    lines = ["# Which start helps?", ""]
    if done < comparison.planned:
        lines += [f"**{done} of {comparison.planned} jobs are done; this will change.**", ""]
    lines += [sentence(comparison), ""]
    lines += [f"**Beware:** {warning}." for warning in comparison.beware]
    lines += [f"**Failed:** {job}: {reason}" for job, reason in comparison.failed.items()]
    lines += [""] if comparison.beware or comparison.failed else []
    lines += table(comparison)
    lines += [
        "",
        f"Difference in {_TITLES[comparison.figure]}, points, on the same seeds:",
        "",
        *_pair_table(comparison),
    ]
    lines += ["", *_data_table(comparison.data), "", *_notes(comparison)]
    return "\n".join(lines) + "\n"


def table(comparison: Comparison) -> list[str]:
    """Mean and spread of every start at every fraction, as a Markdown table."""
    names = [name for name in _TITLES if any(name in result.figures for result in comparison.results)]
    rows = [["labels", "start", "images", "steps", *(_TITLES[name] for name in names), "each seed", "seeds"]]
    for fraction in comparison.fractions:
        for start in comparison.starts:
            found = [r for r in comparison.results if (r.start, r.fraction) == (start, fraction)]
            found.sort(key=_seed)
            if not found:
                rows.append([f"{100 * fraction:g} %", start, *[""] * (3 + len(names)), "0"])
                continue
            cells = [_spread(list(comparison.scores(fraction, name)[start].values())) for name in names]
            each = " ".join(_one(100 * result.figures[comparison.figure]) for result in found)
            steps = sorted({result.steps for result in found})
            told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
            rows.append([f"{100 * fraction:g} %", start, f"{found[0].images:,}", told, *cells, each, str(len(found))])
    return _table(rows, 2)


def _pair_table(comparison: Comparison) -> list[str]:
    rows = [["labels", "higher", "lower", "difference", "interval", "told apart", "seeds that would tell"]]
    for fraction in comparison.fractions:
        for pair in comparison.differences(fraction):
            told = "-" if pair.low is None else "yes" if pair.tells else "no"
            rows.append(
                [f"{100 * fraction:g} %", pair.better, pair.other, _spread_of(pair), _bounds(pair) or "-", told,
                 _needed(pair, comparison.comparisons)]
            )  # fmt: skip
    return _table(rows, 3)


def _data_table(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was trained and measured on."""
    rows = [["data", "source", "split", "images", "objects", "digest of the annotations"]]
    for use, record in data.items():
        names = ", ".join(source["name"] for source in record["sources"])
        counts = [f"{record['num_images']:,}", f"{record['num_objects']:,}"]
        rows.append([use, names, record["split"], *counts, record["fingerprint"]])
    return _table(rows, 3)


def _notes(comparison: Comparison) -> list[str]:
    number = comparison.comparisons
    together = "the interval holds" if number == 1 else f"the {number} intervals hold together"
    return [
        f"AP in percent on {comparison.val_images:,} validation images, mean ± standard deviation over seeds. A seed "
        "gives every start the same training images in the same order, so starts are compared seed by seed (paired t "
        f"interval, widened by Bonferroni: {together} in {100 * (1 - ERROR):g} % of comparisons, if the differences of "
        "seeds are about normal). It covers what seeds change. It does not cover other validation images, another "
        "pre-training run of the same kind, or other options of fine-tuning; and it is too narrow where seeds were "
        "added until it told. Where runs end early, the AP is that of the best weights on these validation images.",
        "",
        "Seeds that would tell: how many a difference of this size and spread needs. The spread of few seeds is itself "
        "uncertain, so take it as an order of magnitude.",
    ]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything of `to_markdown` and each job's figures, as plain data; AP in [0, 1] by job, points in differences."""
    return {
        "sentence": sentence(comparison),
        "figure": comparison.figure,
        "starts": comparison.starts,
        "fractions": comparison.fractions,
        "seeds": comparison.seeds,
        "images": comparison.data["training"]["num_images"],
        "validation_images": comparison.val_images,
        "data": comparison.data,
        "jobs_planned": comparison.planned,
        "jobs_done": len(comparison.results),
        "failed": comparison.failed,
        "warnings": comparison.beware,
        "interval": {"kind": "paired t, Bonferroni", "confidence": 1 - ERROR, "together": comparison.comparisons},
        "means": [
            {"fraction": fraction, "start": start, "mean": mean, "sd": sd, "seeds": len(of_seed)}
            for fraction in comparison.fractions
            for start, of_seed in comparison.scores(fraction).items()
            if of_seed
            for mean, sd in [mean_and_sd(list(of_seed.values()))]
        ],
        "differences": [
            {"fraction": fraction, **asdict(pair), "tells": pair.tells, "on_seeds": common_seeds(scores)}
            for fraction in comparison.fractions
            for scores in [comparison.scores(fraction)]
            for pair in comparison.differences(fraction)
        ],
        "jobs": [asdict(result) for result in comparison.results],
    }


def short_names(starts: Sequence[str]) -> dict[str, str]:
    """The last part of a path instead of all of it, where that tells the starts apart."""
    short = {start: start.rstrip("/").rsplit("/", 1)[-1] for start in starts}
    return short if len(set(short.values())) == len(starts) else {start: start for start in starts}


def renamed(comparison: Comparison, names: Mapping[str, str]) -> Comparison:
    """The same with other names of starts, for reading."""
    results = [JobResult(**{**asdict(result), "start": names[result.start]}) for result in comparison.results]
    return Comparison(
        **{**vars(comparison), "starts": [names[start] for start in comparison.starts], "results": results}
    )


def _table(rows: list[list[str]], texts: int) -> list[str]:
    """Markdown; the first so many columns are texts, the others are set to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * texts + "---:|" * (len(rows[0]) - texts), *lines[1:]]


def _seed(result: JobResult) -> int:
    return result.seed


def _one(value: float) -> str:
    return f"{value:.1f}"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    return _one(mean) if sd is None else f"{_one(mean)} ± {_one(sd)}"


def _spread_of(pair: Difference) -> str:
    return f"{_one(pair.mean)}" if pair.sd is None else f"{_one(pair.mean)} ± {_one(pair.sd)}"


def _bounds(pair: Difference) -> str:
    return "" if pair.low is None or pair.high is None else f"{_one(pair.low)} to {_one(pair.high)}"


def _needed(pair: Difference, comparisons: int) -> str:
    if pair.sd is None:
        return "at least 2"
    if pair.tells:
        return f"{pair.seeds} did"
    needed = seeds_needed(pair.mean, pair.sd, comparisons)
    return "above 50" if needed is None else f"about {max(needed, pair.seeds + 1)}"
