"""Do starts differ? Paired differences over seeds with t intervals, and Holm's correction over what a plan is for.

Flow: answer (scores by start and seed) -> **statistics** -> answer, report. Pure functions of numbers.

Two starts of one seed learn from the same images in the same order, which cancels in their difference; the differences
over seeds are what the interval is made of (Student, "The probable error of a mean", Biometrika 6, 1908). What is
repeated within a seed is averaged first. Differences that a plan is for share one error rate (Holm, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979).
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Of intervals; 1 - LEVEL is the error rate that primary differences share."""
MOST_SEEDS = 50
"""Beyond these nobody would go to tell two starts apart."""


@dataclass(frozen=True)
class Difference:
    """Scores of the start `one` less those of `other`, seed by seed, in the scores' unit."""

    one: str
    other: str
    images: str  # labelled ones, as the plan has it
    mean: float  # over seeds
    sd: float | None  # over seeds; with one seed None, as are the next three
    low: float | None  # bound of the 95 % interval of this difference alone
    high: float | None
    p: float | None  # two-sided, of its t test
    seeds: int  # number of pairs
    holm: float | None = None  # p adjusted over the primary differences; None for others

    @property
    def tells(self) -> bool:
        """Whether the two are told apart: by Holm's p among primary differences, else by the interval."""
        p = self.p if self.holm is None else self.holm
        return p is not None and p < 1 - LEVEL


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n - 1 in the denominator (None for one value).

    Example:
        >>> mean_and_sd([1.0, 2.0, 3.0]), mean_and_sd([1.0])
        ((2.0, 1.0), (1.0, None))
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(
    one: str, other: str, images: str, scores: Mapping[str, Mapping[int, float]]
) -> Difference | None:
    """The difference of two starts on the seeds that both have (start -> seed -> score); None where there are none."""
    seeds = sorted(set(scores[one]) & set(scores[other]))
    if not seeds:
        return None
    pairs = [scores[one][seed] - scores[other][seed] for seed in seeds]
    mean, sd = mean_and_sd(pairs)
    if sd is None:
        return Difference(one, other, images, mean, None, None, None, None, 1)
    error = sd / math.sqrt(len(pairs))
    half = t_bound(len(pairs) - 1) * error
    p = 1 - _t_inside(abs(mean) / error, len(pairs) - 1) if error else (0.0 if mean else 1.0)
    return Difference(one, other, images, mean, sd, mean - half, mean + half, p, len(pairs))


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted so that all of them together err no more often than one alone.

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.arange(len(values), 0, -1) * np.array(values)[order])
    return np.minimum(adjusted, 1.0).tolist()


def seeds_needed(mean: float, sd: float) -> int | None:
    """The fewest seeds with which a difference of this mean and spread would be told; None above `MOST_SEEDS`. Only as
    good as the spread is known, which is badly from few seeds.

    Example:
        >>> seeds_needed(1.0, 1.0), seeds_needed(0.01, 1.0)
        (7, None)
    """
    numbers = range(2, MOST_SEEDS + 1)
    return next((seeds for seeds in numbers if t_bound(seeds - 1) * sd / math.sqrt(seeds) < abs(mean)), None)


def label_equivalent(images: Sequence[int], scores: Sequence[float], score: float) -> float | None:
    """The fewest labelled images that a start needs for a score, by its own curve of scores over ascending numbers of
    images, linear in their logarithm; None where the curve ends below.

    Example:
        >>> round(label_equivalent([25, 100], [40.0, 60.0], 50.0), 6)
        50.0
    """
    if scores[0] >= score:
        return float(images[0])
    for (few, low), (many, high) in itertools.pairwise(zip(images, scores, strict=True)):
        if low < score <= high:
            return float(few * (many / few) ** ((score - low) / (high - low)))
    return None


@functools.cache
def t_bound(degrees: int) -> float:
    """Standard errors between the mean and a bound of the 95 % interval: the 97.5 % quantile of Student's t, by
    bisection of the finite sums that its distribution function has for whole degrees of freedom (Abramowitz and Stegun,
    "Handbook of Mathematical Functions", 26.7.3 and 26.7.4).

    Example:
        >>> round(t_bound(2), 3), round(t_bound(10), 3)
        (4.303, 2.228)
    """
    low, high = 0.0, 64.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, degrees) < LEVEL else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, degrees: int) -> float:
    """Probability that |T| is at most t."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):  # term k follows from the one before: cos^2 times (k - 1) / k
        term *= cosine**2 * (k - 1) / k
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
