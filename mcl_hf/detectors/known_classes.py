"""Rows of class predictors that a detector takes from another one: those of classes that both know by name.

Under `start_detector` and `transformers_detectors`.
"""

import re
from collections.abc import Mapping, Sequence

import torch

TITLE = "classes known by name"
"""In a report of weights."""


def known_classes(new: Mapping[int, str], old: Mapping[int, str]) -> list[tuple[int, int]]:
    """(index in `new`, index in `old`) of each class of `new` that `old` has under the same name, case aside.

    Names that say nothing (LABEL_0, LABEL_1, ...) are matched by number where there are as many of them.

    Example:
        >>> known_classes({0: "cup", 1: "Person"}, {0: "person", 1: "dog"})
        [(1, 0)]
    """
    alike = [*new.values()] == [*old.values()]  # a name may stand there twice, such as COCO's "N/A"
    if alike or (len(new) == len(old) and all(_says_nothing(name) for name in old.values())):
        return [(index, index) for index in range(len(new))]
    place = {name.casefold(): index for index, name in reversed([*old.items()])}
    known = [(index, name.casefold()) for index, name in new.items() if not _says_nothing(name)]
    return [(index, place[name]) for index, name in known if name in place]


def _says_nothing(name: str) -> bool:
    return re.fullmatch(r"LABEL_\d+", name) is not None


def copy_rows(
    tensor: torch.Tensor, given: torch.Tensor, rows: Sequence[tuple[int, int]], counts: tuple[int, int], groups: int = 1
) -> bool:
    """Copy the rows of some classes in place.

    Args:
        tensor: `(groups * classes * n, ...)`.
        given: of another number of classes.
        rows: (row of `tensor`, row of `given`), counted in classes.
        counts: classes of `tensor` and of `given`, with a background where there is one.
        groups: how often all classes are repeated, as for each anchor.

    Returns:
        Whether all other sizes are the same; nothing is copied where they are not.
    """
    if tensor.shape[1:] != given.shape[1:] or len(tensor) * counts[1] != len(given) * counts[0]:
        return False
    own, other = tensor.view(groups, counts[0], -1), given.reshape(groups, counts[1], -1)
    for row, old_row in rows:
        own[:, row] = other[:, old_row]
    return True
