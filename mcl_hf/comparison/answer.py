"""What a comparison found: means, paired differences, label equivalents, and one sentence.

Flow: plan + results of the jobs -> **answer** (statistics) -> report. It is made of OUTPUT_DIR alone: the plan,
`comparison.json` and one JSON a job, so that anyone can make it again from what was published.
"""

import dataclasses
import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..finetuning.health import LEAST_AP
from .jobs import Job, Results, read_results
from .plan import ComparePlan, load_plan
from .statistics import Difference, holm, label_equivalent, mean_and_sd, paired_difference

PLAN, ABOUT, REPORT, PICTURE, SHOWN = "plan.yaml", "comparison.json", "report.md", "report.png", "detections.png"
Scores = dict[str, dict[int, float]]
"""start -> seed -> score in percent."""


@dataclass(frozen=True)
class Answer:
    """Results of a comparison, whole or in progress."""

    output_dir: Path
    plan: ComparePlan  # what was asked
    results: Results  # of the jobs that are done
    about: dict[str, Any]  # of `Setting.about`; `jobs`, all that are planned; `failed`, name -> why it has no result
    stopped_by: str | None = None  # "SIGTERM", "SIGINT" or "SIGHUP" where a signal ended the call early

    @property
    def starts(self) -> list[str]:
        """Names, in the plan's order."""
        return list(self.about["starts"])

    @property
    def kind(self) -> str:
        """`mask` where every detector has masks, else `box`."""
        tests = [result for job, result in self.results.items() if job.kind == "test" and result["figures"]]
        return "mask" if tests and all("mask/AP" in result["figures"] for result in tests) else "box"

    @property
    def figure(self) -> str:
        """The figure that differences are made of, such as `box/AP50`."""
        return f"{self.kind}/{self.plan.figure}"

    @property
    def title(self) -> str:
        """The same for reading, such as "box AP50"."""
        return self.figure.replace("/", " ")

    def main_steps(self, start: str, images: str) -> int:
        """Optimizer steps of a start's fine-tuning with so many labelled images."""
        return int(self.about["lengths"][f"{start} {images}"])

    def scores(
        self, images: str, figure: str | None = None, *, steps: int | None = None, scale: float | None = None
    ) -> Scores:
        """The mean over a seed's subsets; seeds that lack one are left out.

        Args:
            images: labelled images, as the plan has it.
            figure: such as `box/AP of short`; `self.figure` where left out.
            steps: of fine-tuning, for the curve over steps.
            scale: of the test images; then the first subset alone.
        """
        found: dict[str, dict[int, list[float]]] = {start: defaultdict(list) for start in self.starts}
        for job, result in self.results.items():
            if job.kind != "test" or job.images != images:
                continue
            figures = result["figures"] if scale is None else result.get("scales", {}).get(f"{scale:g}", {})
            value = figures.get(figure or self.figure)
            if value is not None and job.steps == (steps or self.main_steps(job.start, images)):
                found[job.start][job.seed].append(100 * value)
        need = 1 if scale is not None else self.plan.subsets
        return {start: _means(of_seed, need) for start, of_seed in found.items()}

    @functools.cached_property
    def rates(self) -> dict[tuple[str, str], dict[float, float]]:
        """(start, images) -> learning rate -> validation score in percent, the mean over subsets of which all are done;
        a run that diverged counts as 0."""
        found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for job, result in self.results.items():
            if job.kind == "tune":
                figure = f"{'mask' if 'mask/AP' in result['figures'] else 'box'}/{self.plan.figure}"
                found[job.start, job.images][job.rate or 0.0].append(100 * (result["figures"].get(figure) or 0))
        pairs = [(start, images) for images in self.plan.images for start in self.starts]
        means = {pair: _means(found[pair], self.plan.subsets) for pair in pairs}
        return {pair: rates for pair, rates in means.items() if rates}

    def chosen_rate(self, start: str, images: str) -> float | None:
        """The learning rate that validation chose; None where none was or is yet to be."""
        rates = self.rates.get((start, images), {})
        return max(rates, key=rates.__getitem__, default=None)

    @functools.cached_property
    def primary(self) -> list[Difference]:
        """The differences that the plan is for, as far as they can be made, with Holm's p."""
        found: list[Difference] = []
        for one, others, images in read_primary(self.plan.primary, self.starts, self.plan.images):
            # the best one on validation; the first where nothing was measured there
            tuned = [max(self.rates.get((name, images), {}).values(), default=-1.0) for name in others]
            made = paired_difference(one, others[int(np.argmax(tuned))], images, self.scores(images))
            found += [] if made is None else [made]
        values = [difference.p for difference in found if difference.p is not None]
        if len(values) < len(found):
            return found
        return [dataclasses.replace(one, holm=p) for one, p in zip(found, holm(values), strict=True)]

    def differences(self, images: str) -> list[Difference]:
        """Every start against the first one, and primary pairs besides, at so many labelled images."""
        primary = {(one.one, one.other): one for one in self.primary if one.images == images}
        pairs = dict.fromkeys([*primary, *((start, self.starts[0]) for start in self.starts[1:])])
        scores = self.scores(images)
        found = [primary.get(pair) or paired_difference(*pair, images, scores) for pair in pairs]
        return [difference for difference in found if difference is not None]

    def equivalents(self) -> dict[str, float | None]:
        """Start -> labelled images that the first start would need for its score at the fewest; None: more than there
        are. Empty without a curve over labels."""
        counts = [int(self.about["counts"][images]) for images in self.plan.images]
        curves = {
            start: [mean_and_sd(list(of[start].values()))[0] for of in map(self.scores, self.plan.images) if of[start]]
            for start in self.starts
        }
        first = curves[self.starts[0]]
        if len(counts) < 2 or len(first) < len(counts):
            return {}
        return {
            start: label_equivalent(counts, first, curve[0])
            for start, curve in curves.items()
            if curve and start != self.starts[0] and curve[0] > first[0]
        }

    @functools.cached_property
    def sentence(self) -> str:
        """Which start won by how much, or that the data cannot tell."""
        if not self.primary:
            return "There is nothing to compare yet."
        scores = self.scores(self.primary[0].images)
        if max(max(of.values(), default=0) for of in scores.values()) < 100 * LEAST_AP:
            return f"No start has reached a {self.title} of {100 * LEAST_AP:g} %: train for longer."
        parts, before = [], ""
        for one in self.primary:
            parts.append(_told(one) if one.images == before else f"with {one.images} {self.about['unit']} {_told(one)}")
            before = one.images
        seeds, text = self.primary[0].seeds, "; ".join(parts)
        subsets = f" of {self.plan.subsets} labelled subsets each" if self.plan.subsets > 1 else ""
        return (
            f"{text[0].upper()}{text[1:]} ({self.title}, {seeds} seed{'s' if seeds > 1 else ''}{subsets}, "
            f"{self.about['data']['test']['images']:,} test images)."
        )

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data: AP in percent, differences in points."""
        return {
            "sentence": self.sentence,
            "figure": self.figure,
            "jobs_done": len(self.results),
            "jobs_planned": len(self.about["jobs"]),
            "failed": self.about.get("failed", {}),
            "primary": [dataclasses.asdict(one) for one in self.primary],
            "differences": [dataclasses.asdict(one) for images in self.plan.images for one in self.differences(images)],
            "means": [
                {"start": start, "images": images, "figure": f"{self.kind}/{name}", "mean": mean, "sd": sd,
                 "seeds": sorted(of)}
                for images in self.plan.images for name in ("AP", "AP50", "AP75")
                for start, of in self.scores(images, f"{self.kind}/{name}").items() if of
                for mean, sd in [mean_and_sd(list(of.values()))]
            ],
            "equivalents": self.equivalents(),
            "learning_rates": {f"{start} {images}": rates for (start, images), rates in self.rates.items()},
        }  # fmt: skip


def _means(values: Mapping[Any, Sequence[float]], least: int) -> dict[Any, float]:
    """Of each key with so many values, ascending."""
    return {key: float(np.mean(of)) for key, of in sorted(values.items()) if len(of) >= least}


def read_primary(given: Any, starts: Sequence[str], images: Sequence[str]) -> list[tuple[str, list[str], str]]:
    """The plan's `primary`, checked, or what stands for it: (start, starts it is held against, labelled images)."""
    if given is None:
        return [(start, [starts[0]], images[0]) for start in starts[1:]]
    if not isinstance(given, list):
        raise InputError(f"primary must be a list of [start, other, images], got {given!r}")
    found: list[tuple[str, list[str], str]] = []
    for entry in given:
        whole = isinstance(entry, list) and len(entry) in (2, 3)
        one, others, *rest = entry if whole else (None, None)
        others = others if isinstance(others, list) else [others]
        count = str(rest[0]) if rest else images[0]
        unknown = [name for name in (one, *others) if name not in starts]
        if not whole or unknown or count not in images or one in others:
            raise InputError(
                f"primary {entry!r} must be [start, other, images] of the starts {', '.join(starts)} and the "
                f"numbers of images {', '.join(images)}"
            )
        found.append((str(one), others, count))
    return found


def read_answer(output_dir: str | Path) -> Answer:
    """The answer of a folder, made anew from its plan and results; an `InputError` where these are not whole."""
    folder = Path(output_dir)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        planned = [Job(**job) for job in about["jobs"]]
        about["starts"] = dict(about["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no comparison: {ABOUT} is not there, or is damaged") from error
    return Answer(folder, load_plan(str(folder / PLAN)), read_results(folder, planned), about)


def _told(difference: Difference) -> str:
    one, other = difference.one, difference.other
    if difference.low is None or difference.high is None:
        side = "ahead of" if difference.mean >= 0 else "behind"
        return f"one seed cannot tell {one}, {abs(difference.mean):.1f} {side} {other}"
    bounds = f"{difference.mean:+.1f}, 95 % {difference.low:+.1f} to {difference.high:+.1f}"
    if not difference.tells:
        return f"the data cannot tell {one} from {other} ({bounds})"
    side = "above" if difference.mean > 0 else "below"
    return f"{one} is {side} {other} ({bounds})"
