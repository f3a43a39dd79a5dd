import numpy as np
from scenes.folds import NUM_FOLDS, assign_folds, folds_of, fraction_of, split_of


def test_every_group_is_in_one_fold_and_the_folds_are_even() -> None:
    for count in (5, 12, 15, 35):
        sizes = {f"g{number}": 1 + number % 4 for number in range(count)}
        folds = assign_folds(sizes, "bird")
        assert set(folds) == set(sizes)
        groups = np.bincount(list(folds.values()), minlength=NUM_FOLDS)
        assert groups.max() - groups.min() <= 1
    sizes = {f"g{number}": number for number in range(1, 25)}
    pictures = np.zeros(NUM_FOLDS)
    for group, fold in assign_folds(sizes, "person").items():
        pictures[fold] += sizes[group]
    assert (pictures == 50).all(), "there and back evens the sizes out"


def test_over_the_six_folds_every_group_is_tested_once_and_validated_once() -> None:
    for group_fold in range(NUM_FOLDS):
        splits = [split_of(group_fold, fold) for fold in range(NUM_FOLDS)]
        assert splits.count("test") == 1 and splits.count("val") == 1 and splits.count("train") == 4
        assert splits.index("test") == group_fold
        assert split_of(group_fold, (group_fold - 1) % NUM_FOLDS) == "val"


def test_folds_depend_on_the_groups_alone() -> None:
    rows = [{"group": f"g{number}", "label": "ab"[number % 2]} for number in range(24)]
    assert folds_of(rows, ("label",)) == folds_of(rows[::-1], ("label",))
    alone = folds_of([row for row in rows if row["label"] == "a"], ("label",))
    assert alone.items() <= folds_of(rows, ("label",)).items()


def test_a_smaller_fraction_is_part_of_a_larger_one_and_never_empty() -> None:
    groups = [f"g{number}" for number in range(23)]
    five, twenty = (fraction_of(groups, percent, 3, "bird") for percent in (5, 20))
    assert len(five) == 1 and len(twenty) == 5 and set(five) < set(twenty)
    assert set(fraction_of(groups, 100, 3, "bird")) == set(groups)
    assert len(fraction_of(groups[:8], 5, 3, "bird")) == 1
    assert fraction_of(groups[::-1], 20, 3, "bird") == twenty
    drawn = {tuple(fraction_of(groups, 5, seed, "bird")) for seed in range(10)}
    assert len(drawn) > 3, "another seed is to keep other groups"
