"""Intervals and what is said of them, on made-up numbers."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from mcl_hf.detection.compare_statistics import (
    common_seeds,
    comparisons_of,
    differences,
    mean_and_sd,
    seeds_needed,
    t_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30, 200])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.975, 0.9958, 0.99999])
def test_quantiles_are_those_of_scipy(degrees, probability):
    assert t_quantile(probability, degrees) == pytest.approx(t.ppf(probability, degrees), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("probability", "degrees"), [(0.4, 2), (1.0, 2), (0.9, 0)])
def test_no_quantile_outside_of_the_distribution(probability, degrees):
    with pytest.raises(ValueError, match="t_quantile needs"):
        t_quantile(probability, degrees)


def test_the_interval_is_the_paired_one_widened_for_the_number_of_comparisons():
    one, other = [30.1, 28.4, 31.0, 29.2], [29.0, 27.9, 29.5, 28.8]
    scores = {"b": dict(enumerate(other)), "a": dict(enumerate(one))}
    (pair,) = differences(scores, 1)
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (pair.better, pair.other, pair.seeds) == ("a", "b", 4)
    assert (pair.low, pair.high) == pytest.approx((expected.low, expected.high))
    (wider,) = differences(scores, 6)
    expected = ttest_rel(one, other).confidence_interval(1 - 0.05 / 6)
    assert (wider.low, wider.high) == pytest.approx((expected.low, expected.high))


def test_a_clear_win_and_a_tie():
    shared = [5.0, -4.0, 1.0]  # what the seed does to every start
    scores = {
        "random": {seed: 10 + shift for seed, shift in enumerate(shared)},
        "good": {seed: 20 + shift + 0.1 * seed for seed, shift in enumerate(shared)},
        "as good": {
            seed: 20 + shift + value for seed, (shift, value) in enumerate(zip(shared, (0.6, -0.3, 0.3), strict=True))
        },
    }
    told = {(pair.better, pair.other): pair.tells for pair in differences(scores, comparisons_of(3, 1))}
    assert told == {("as good", "good"): False, ("good", "random"): True, ("as good", "random"): True}


def test_pairing_is_what_tells():
    """The seeds' own spread is far larger than the difference, and cancels."""
    seeds = np.array([-6.0, 4.0, 1.0, 5.0])
    scores = {"a": dict(enumerate(seeds + 1 + np.array([0.0, 0.05, -0.05, 0.02]))), "b": dict(enumerate(seeds))}
    (pair,) = differences(scores, 1)
    assert pair.tells and mean_and_sd(list(scores["a"].values()))[1] > 2


def test_one_seed_gives_no_interval():
    (pair,) = differences({"a": {0: 12.0}, "b": {0: 10.0}}, 1)
    assert (pair.mean, pair.sd, pair.low, pair.high, pair.tells) == (2.0, None, None, None, False)


def test_only_seeds_that_all_have_count():
    scores = {"a": {0: 10.0, 1: 90.0}, "b": {0: 12.0}, "none yet": {}}
    assert common_seeds(scores) == [0]
    (pair,) = differences(scores, 1)
    assert (pair.better, pair.mean, pair.seeds) == ("b", 2.0, 1)
    assert differences({"a": {0: 1.0}, "b": {1: 1.0}}, 1) == [] and differences({"a": {}, "b": {}}, 1) == []


def test_equal_scores_are_no_win():
    (pair,) = differences({"a": {0: 50.0, 1: 40.0}, "b": {0: 50.0, 1: 40.0}}, 1)
    assert pair.better == "a" and pair.mean == 0 and not pair.tells


def test_a_table_of_equal_starts_seldom_names_a_winner():
    """3 starts x 2 fractions that are all alike: Bonferroni keeps false differences to 5 % of tables."""
    numbers = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        pairs = []
        for _ in range(2):
            scores = {name: dict(enumerate(numbers.normal(30, 1, 3))) for name in "abc"}
            pairs += differences(scores, comparisons_of(3, 2))
        wrong += any(pair.tells for pair in pairs)
    assert wrong / 400 < 0.07


def test_the_number_of_seeds_that_would_tell():
    needed = seeds_needed(1.0, 1.0, 6)

    def half(n):
        return t.ppf(1 - 0.05 / 12, n - 1) / math.sqrt(n)

    assert half(needed) < 1 <= half(needed - 1)
    assert seeds_needed(0.0, 1.0, 1) is None
