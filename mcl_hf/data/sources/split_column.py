"""Tables whose rows tell their split in a column, as `split` with `train`, `val` and `test`.

Flow: local_tables | folders -> **split_column** -> columns -> sources -> decode -> views -> loader; annotations read
their tables by it, too. Without it test images would be trained on in silence.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...plain_text import plain_text
from .local_tables import SPLIT_OF, LocalTable, canonical_split, split_note

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_COLUMNS = ("split", "subset", "partition", "set")
"""What such a column is called; it is one only where its values are (`is_split_column`)."""


def split_meant(word: str) -> str:
    """The usual name of the split that a word tells: validation for val2017."""
    return canonical_split(re.sub(r"\d+$", "", word))


def split_cell(value: object) -> str:
    """What a cell says; empty where it says nothing."""
    return "" if value is None else str(value).strip()


def is_split_column(cells: Iterable[object]) -> bool:
    """Whether one of the values is a split's usual name; fold numbers are none."""
    return any(split_meant(word.lower()) in SPLIT_OF for word in set(map(split_cell, cells)))


def find_split_column(names: Iterable[str], cells_of: Callable[[str], list[Any]]) -> tuple[str | None, list[Any]]:
    """The column of splits among a table's columns, and its cells; None and none where there is none."""
    for name in names:
        if str(name).strip().lower() in SPLIT_COLUMNS and is_split_column(cells := cells_of(name)):
            return name, cells
    return None, []


def splits_of_column(cells: Iterable[object], where: str) -> list[str]:
    """The different values of a column of splits, in their order; none of any other column."""
    words = list(dict.fromkeys(map(split_cell, cells)))
    if not is_split_column(words):
        return []
    if "" in words:
        raise InputError(
            f"{where}: its column of splits has {_listed(words)}, and is empty for some rows: fill these in"
        )
    return words


def split_cells(table: "Dataset") -> list[object]:
    """The column of splits of a table, `(num_rows,)`; empty where it has none."""

    def cells_of(name: str) -> list[object]:
        cells = table.select_columns([name])[:][name]
        names = getattr(table.features[name], "names", None)  # of a ClassLabel
        return [names[cell] if names and isinstance(cell, int) and cell >= 0 else cell for cell in cells]

    return find_split_column(table.column_names, cells_of)[1]


def rows_of_word(table: "Dataset", word: str) -> "Dataset":
    """The rows whose column of splits has this very word."""
    return table.select([row for row, cell in enumerate(split_cells(table)) if split_cell(cell) == word])


def rows_of_split(opened: LocalTable, split: str, data: str) -> LocalTable:
    """The rows of a split, where a column tells splits; else all of them."""
    words = splits_of_column(split_cells(opened.table), data)
    if not words:
        return opened
    meant = [word for word in words if split_meant(word) == canonical_split(split)]
    found = [split] if split in words else meant
    if len(found) != 1:
        which = f"{_listed(found)} could all be split '{split}'" if found else f"has no split '{split}'"
        raise InputError(f"{data}: {which}: its column of splits has {_listed(words)}")
    kind = f"{opened.kind.replace(split_note(split), '')}, rows of split {plain_text(found[0])}"
    return replace(opened, table=rows_of_word(opened.table, found[0]), kind=kind, listed=len(opened.table))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{plain_text(word)}'" for word in words if word)
