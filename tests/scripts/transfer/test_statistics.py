"""Intervals and verdicts on numbers whose answer is known."""

import math

import numpy as np
import pytest

from mcl_hf.detection.compare_statistics import t_quantile
from scripts.transfer.margins import margins_hash, read_claims
from scripts.transfer.statistics import Paired, bootstrap_interval, group_interval, paired_difference, verdict


def test_seeds_of_a_fold_are_averaged_and_the_interval_is_over_folds():
    one = {(fold, seed): fold + 1.0 + seed for fold in range(6) for seed in range(2)}
    other = {(fold, seed): float(seed) for fold in range(6) for seed in range(2)}
    other[9, 0] = 50.0  # a fold that only one has
    found = paired_difference(one, other)
    assert found.mean == 3.5 and found.folds == 6 and found.runs == 12
    half = t_quantile(0.975, 5) * np.std(range(6), ddof=1) * math.sqrt(1 / 6 + 1 / 4)
    assert found.high - found.mean == pytest.approx(half) and found.mean - found.low == pytest.approx(half)
    assert found.low < found.low90 < found.high90 < found.high


def test_one_fold_gives_no_interval_and_nothing_in_common_no_difference():
    assert paired_difference({(0, 0): 1.0, (0, 1): 2.0}, {(0, 0): 0.0, (0, 1): 0.0}).low is None
    assert paired_difference({(0, 0): 1.0}, {(1, 0): 1.0}) is None


def test_the_interval_covers_the_true_difference_at_least_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        values = random.normal(2.0, 1.0, 6)
        found = paired_difference(
            {(k, 0): v for k, v in enumerate(values)}, dict.fromkeys([(k, 0) for k in range(6)], 0.0)
        )
        hits += found.low <= 2.0 <= found.high
    assert hits / 400 > 0.95


def test_the_bootstrap_is_paired_by_draw():
    random = np.random.default_rng(0)
    draws = {(fold, 0): random.normal(30, 5, 200) for fold in range(6)}
    shifted = {key: values + 1.0 for key, values in draws.items()}
    assert bootstrap_interval(shifted, draws) == pytest.approx((1.0, 1.0))
    assert bootstrap_interval(draws, {}) is None


def test_every_group_counts_once():
    one = {"a": (100.0, 1.0), "b": (1.0, 0.0)}
    other = {"a": (100.0, 0.0), "b": (1.0, 0.0)}
    assert group_interval(one, other).mean == 0.5


@pytest.mark.parametrize(
    ("bounds", "kind", "expected"),
    [
        ((0.5, 3.5), "superiority", "shown, and as large as aimed at"),
        ((0.5, 1.5), "superiority", "shown, but below 2"),
        ((-0.5, 4.5), "superiority", "not shown"),
        ((-4.0, -1.0), "superiority", "the opposite is shown"),
        ((-1.0, 1.0), "equivalence", "equal within 2"),
        ((-3.0, 1.0), "equivalence", "undecided whether equal within 2"),
        ((2.5, 6.0), "equivalence", "not equal: apart by more than 2"),
    ],
)
def test_verdicts(bounds, kind, expected):
    low, high = bounds
    assert verdict(Paired((low + high) / 2, low, high, low, high, 6, 6), kind, 2.0) == expected
    assert verdict(None, kind, 2.0) == "not run"
    assert verdict(Paired(5.0, None, None, None, None, 1, 1), kind, 2.0) == "one fold: no interval"


def test_claims_are_about_arms_that_exist():
    from scripts.transfer.arms import ARMS

    claims = read_claims()
    assert {claim.arm for claim in claims} | {claim.against for claim in claims} <= set(ARMS)
    assert ("mcl", "image", "superiority", 2.0) in [(c.arm, c.against, c.kind, c.margin) for c in claims]
    assert len(margins_hash()) == 16
