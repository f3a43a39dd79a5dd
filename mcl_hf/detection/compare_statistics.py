"""Do starts differ? Paired differences over seeds, their intervals, and what may be said of them.

Flow: compare.py (scores by start and seed) -> **compare_statistics** -> compare_report. Pure functions of numbers.

Two starts of one seed see the same images in the same order, so what the seed does to both cancels in their difference;
the differences over seeds are what the interval is made of (Student, "The probable error of a mean", Biometrika 6,
1908). A table that compares many pairs would sooner or later show a difference where there is none, so intervals are
widened until all of them hold together in 95 % of all comparisons (Bonferroni; Dunn, "Multiple comparisons among
means", JASA 56, 1961). Why seeds at all: Bouthillier et al., "Accounting for variance in machine learning benchmarks",
arXiv 2103.03098. A bootstrap is no way out with three seeds: it can only reshuffle three numbers.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ERROR = 0.05
"""Share of comparisons in which one of the intervals may miss."""


@dataclass(frozen=True)
class Difference:
    """Two starts at one label fraction; scores of `better` less those of `other`.

    Attributes:
        better: the one with the higher mean, or the same.
        other: the one compared with it.
        mean: of the paired differences, in the unit of the scores; at least 0.
        sd: their standard deviation over seeds; None with one seed.
        low, high: bounds of the interval of the mean; None with one seed.
        seeds: number of pairs.
    """

    better: str
    other: str
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def tells(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.low > 0


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n - 1 in the denominator (None for one value).

    Example:
        >>> mean_and_sd([1.0, 2.0, 3.0]), mean_and_sd([1.0])
        ((2.0, 1.0), (1.0, None))
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def common_seeds(scores: Mapping[str, Mapping[int, float]]) -> list[int]:
    """Seeds that every start with any score has, ascending."""
    seeds = [set(of_seed) for of_seed in scores.values() if of_seed]
    return sorted(set.intersection(*seeds)) if seeds else []


def differences(scores: Mapping[str, Mapping[int, float]], comparisons: int) -> list[Difference]:
    """All pairs of starts, best start first, on the seeds that all of them have.

    Args:
        scores: start -> seed -> score; starts without any score are left out.
        comparisons: how many intervals must hold together; see `comparisons_of`.
    """
    seeds = common_seeds(scores)
    values = {start: np.array([of_seed[seed] for seed in seeds]) for start, of_seed in scores.items() if of_seed}
    if not seeds:
        return []
    means = {start: float(array.mean()) for start, array in values.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=True)  # stable: the order given where they are equal
    return [
        _difference(one, other, values[one] - values[other], comparisons)
        for one, other in itertools.combinations(ranked, 2)
    ]


def comparisons_of(starts: int, fractions: int) -> int:
    """How many pairs a comparison looks at.

    Example:
        >>> comparisons_of(3, 2)
        6
    """
    return starts * (starts - 1) // 2 * fractions


def _difference(better: str, other: str, pairs: np.ndarray, comparisons: int) -> Difference:
    mean, sd = mean_and_sd(pairs.tolist())
    half = None if sd is None else t_quantile(1 - ERROR / comparisons / 2, len(pairs) - 1) * sd / math.sqrt(len(pairs))
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Difference(better, other, mean, sd, low, high, len(pairs))


def seeds_needed(mean: float, sd: float, comparisons: int, most: int = 50) -> int | None:
    """The smallest number of seeds with which a difference of this mean and spread would be told; None above `most`.

    Only as good as the spread is known, which is badly from few seeds.

    Example:
        >>> seeds_needed(1.0, 1.0, 1), seeds_needed(0.01, 1.0, 1)
        (7, None)
    """
    for seeds in range(2, most + 1):
        if t_quantile(1 - ERROR / comparisons / 2, seeds - 1) * sd / math.sqrt(seeds) < mean:
            return seeds
    return None


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for probabilities from 0.5 up.

    By bisection of the finite sums that the distribution function has for whole degrees of freedom (Abramowitz and
    Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4).

    Example:
        >>> round(t_quantile(0.975, 2), 3), round(t_quantile(0.975, 10), 3)
        (4.303, 2.228)
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"t_quantile needs 0.5 <= probability < 1 and degrees >= 1, got {probability}, {degrees}")
    inside = 2 * probability - 1
    low, high = 0.0, 1.0
    while _t_inside(high, degrees) < inside:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, degrees) < inside else (low, middle)
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
