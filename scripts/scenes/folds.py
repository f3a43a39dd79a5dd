"""Six folds of groups, the split that each fold gives, and the label fractions.

Flow: cutouts -> **folds** -> pool. Every group is in exactly one fold, so that over the six folds every group is tested
once, and a spread can be taken over groups. For fold k the test split is fold k, the validation split fold k + 1
(mod 6), the training split the other four. The assignment depends on the index alone, not on a run's seed.
"""

import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

NUM_FOLDS = 6
SPLITS = ("train", "val", "test")


def assign_folds(sizes: Mapping[str, int], name: str) -> dict[str, int]:
    """A fold for every group, such that the folds' numbers of groups differ by at most one.

    Groups are dealt out by falling size, there and back (0 1 2 3 4 5 5 4 3 2 1 0 ...), which keeps the numbers of
    cut-outs close, too; equal sizes are shuffled, and the deal starts at a fold that depends on the name, so that what
    is left over does not always fall to the same fold.

    Args:
        sizes: cut-outs of each group.
        name: what is being divided, such as the class; seeds the shuffle.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shuffled = [sorted(sizes)[number] for number in rng.permutation(len(sizes))]
    dealt = sorted(shuffled, key=lambda group: -sizes[group])  # a stable sort: equal sizes stay shuffled
    start = int(rng.integers(NUM_FOLDS))
    folds = {}
    for number, group in enumerate(dealt):
        lap, place = divmod(number, NUM_FOLDS)
        folds[group] = (start + (place if lap % 2 == 0 else NUM_FOLDS - 1 - place)) % NUM_FOLDS
    return folds


def folds_of(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> dict[str, int]:
    """Folds of the groups of an index' rows, divided within each combination of ``keys`` (such as label and kind)."""
    keys = tuple(keys)
    sizes: dict[tuple[Hashable, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sizes[tuple(row[key] for key in keys)][row["group"]] += 1
    folds: dict[str, int] = {}
    for part, groups in sorted(sizes.items()):
        folds |= assign_folds(groups, ":".join(map(str, part)))
    return folds


def split_of(group_fold: int, fold: int) -> str:
    """Which split the groups of a fold belong to when ``fold`` is tested."""
    if group_fold == fold:
        return "test"
    return "val" if group_fold == (fold + 1) % NUM_FOLDS else "train"


def fraction_of(groups: Iterable[str], percent: float, seed: int, name: str) -> list[str]:
    """``percent`` of the groups of a class, rounded, but at least one; a smaller fraction is part of a larger one."""
    ordered = sorted(groups)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shuffled = [ordered[number] for number in rng.permutation(len(ordered))]
    return shuffled[: max(1, round(len(shuffled) * percent / 100))]
