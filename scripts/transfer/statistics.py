"""Do two arms differ, by enough, or are they equal? Paired differences over folds and seeds, and over groups.

Flow: results -> **statistics** -> report. Pure functions of numbers.

What is repeated is the fold: every fold asks for other groups, and with six of them every group is asked for once. Two
arms of one fold and seed see the same scenes in the same order and start their heads alike, so they are paired; seeds
of one fold are no new groups, and are averaged first. The interval is over the folds' differences, by Student's t with
the correction of Nadeau and Bengio ("Inference for the generalization error", Machine Learning 52, 2003; for
cross-validation Bouckaert and Frank, PAKDD 2004): folds share most of their training groups, so their mean varies more
than independent values would, and the variance of the mean is ``(1 / folds + test / train) s^2`` in place of ``s^2 /
folds``; with a sixth tested and four sixths trained on, ``test / train`` is 1/4. (No unbiased estimate of it exists:
Bengio and Grandvalet, JMLR 5, 2004.) With one fold there is no interval.

Beside it stands the cluster bootstrap of `group_scores`: groups of each class drawn again within every fold, both arms
alike. It says what other groups of objects would have changed with these trained networks, and nothing of training.
Where the two disagree, the wider one is to be believed.

A difference is *shown* where the lower bound of the 95 % interval is above 0, and *as large as aimed at* where its mean
reaches the margin. Equality is tested as such, by two one-sided tests (TOST; Schuirmann, J. Pharmacokinet. Biopharm.
15, 1987): two arms are *equal* where the 90 % interval lies within the margin. "No significant difference" is neither.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mcl_hf.detection.compare_statistics import mean_and_sd, t_quantile

TEST_TO_TRAIN = 1 / 4
"""Groups tested by groups trained on, in six folds of which one is tested and one validates."""

Scores = Mapping[tuple[int, int], float]
"""(fold, seed) -> score."""


@dataclass(frozen=True)
class Paired:
    """The difference of two arms' scores, in the scores' unit.

    Attributes:
        mean: over folds of the seeds' means.
        low, high: 95 % interval; None with one fold.
        low90, high90: 90 % interval, for the test of equality; None with one fold.
        folds: that both arms have.
        runs: pairs of fold and seed that both arms have.
    """

    mean: float
    low: float | None
    high: float | None
    low90: float | None
    high90: float | None
    folds: int
    runs: int


def paired_difference(one: Scores, other: Scores) -> Paired | None:
    """`one` less `other` on the folds and seeds that both have; None where there are none.

    Example:
        >>> found = paired_difference({(0, 0): 3.0, (1, 0): 5.0}, {(0, 0): 1.0, (1, 0): 2.0})
        >>> found.mean, found.folds, found.low < 0 < found.high
        (2.5, 2, True)
    """
    common = sorted(set(one) & set(other))
    if not common:
        return None
    of_fold: dict[int, list[float]] = {}
    for fold, seed in common:
        of_fold.setdefault(fold, []).append(one[fold, seed] - other[fold, seed])
    values = [float(np.mean(differences)) for differences in of_fold.values()]
    mean, sd = mean_and_sd(values)
    if sd is None:
        return Paired(mean, None, None, None, None, len(values), len(common))
    error = sd * math.sqrt(1 / len(values) + TEST_TO_TRAIN)
    half, half90 = (t_quantile(share, len(values) - 1) * error for share in (0.975, 0.95))
    return Paired(mean, mean - half, mean + half, mean - half90, mean + half90, len(values), len(common))


def bootstrap_interval(
    one: Mapping[tuple[int, int], Sequence[float]], other: Mapping[tuple[int, int], Sequence[float]]
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean difference when groups are drawn again; None without common runs.

    Args:
        one, other: (fold, seed) -> replicates of its score, the same draws in both.
    """
    common = sorted(set(one) & set(other))
    if not common:
        return None
    of_fold: dict[int, list[np.ndarray]] = {}
    for key in common:
        of_fold.setdefault(key[0], []).append(np.asarray(one[key]) - np.asarray(other[key]))
    means = np.mean([np.mean(draws, axis=0) for draws in of_fold.values()], axis=0)  # (B,)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def group_interval(one: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]]) -> Paired | None:
    """Difference of two arms' shares of objects that are right or found, with the group as the unit.

    Args:
        one, other: group -> (objects, share); each group counts once, whatever the number of its objects.
    """
    common = sorted(set(one) & set(other))
    values = [one[group][1] - other[group][1] for group in common]
    if not values:
        return None
    mean, sd = mean_and_sd(values)
    if sd is None:
        return Paired(mean, None, None, None, None, 1, 1)
    error = sd / math.sqrt(len(values))
    half, half90 = (t_quantile(share, len(values) - 1) * error for share in (0.975, 0.95))
    return Paired(mean, mean - half, mean + half, mean - half90, mean + half90, len(values), len(values))


def verdict(difference: Paired | None, kind: Literal["superiority", "equivalence"], margin: float) -> str:
    """What a claim that was written down beforehand comes to.

    Args:
        difference: of the two arms.
        kind: "superiority": above 0, and by the margin; "equivalence": within the margin either way.
        margin: above 0, in the scores' unit.

    Example:
        >>> verdict(Paired(2.5, 1.0, 4.0, 1.2, 3.8, 6, 6), "superiority", 2.0)
        'shown, and as large as aimed at'
        >>> verdict(Paired(0.2, -1.4, 1.8, -0.7, 0.9, 6, 6), "equivalence", 1.0)
        'equal within 1'
    """
    if difference is None:
        return "not run"
    if difference.low is None or difference.high is None or difference.low90 is None or difference.high90 is None:
        return "one fold: no interval"
    if kind == "equivalence":
        if -margin < difference.low90 and difference.high90 < margin:
            return f"equal within {margin:g}"
        if difference.low90 > margin or difference.high90 < -margin:
            return f"not equal: apart by more than {margin:g}"
        return f"undecided whether equal within {margin:g}"
    if difference.low > 0:
        return "shown, and as large as aimed at" if difference.mean >= margin else f"shown, but below {margin:g}"
    return "the opposite is shown" if difference.high < 0 else "not shown"
