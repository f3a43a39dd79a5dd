"""Texts from outside as Markdown that means just them: names, tables, numbers.

Under all files of the card. Whatever a user, a file or a data set is called, it ends neither a table's cell nor a code
span nor the line.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Undefined

from ..plain_text import plain_text

ABSENT = "not recorded"
_SPECIAL = re.compile(r"([\\`*_\[\]<>~&$#@]|:(?=//)|(?<=\bwww)\.)", re.IGNORECASE)


def one_line(value: Any) -> str:
    """The text with line breaks and control characters as blanks."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def plain(value: Any) -> str:
    """A text in running Markdown, with nothing in it that Markdown reads."""
    return _SPECIAL.sub(r"\\\1", one_line(value))


def code(value: Any) -> str:
    """A code span around a text that may hold backticks itself."""
    text = one_line(value)
    fence, pad = _fence(text, 1), " " if "`" in text or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(text: str, language: str) -> str:
    """A block of code, which no line of the text ends; other control characters than line breaks are written out."""
    text = text.strip("\n")
    fence = _fence(text, 3)
    return f"{fence}{language}\n{plain_text(text, keep=chr(10))}\n{fence}\n"


def _fence(text: str, least: int) -> str:
    """More backticks than stand together anywhere in the text, and at least so many."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall(r"`+", text))])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of cells that are Markdown already; pipes in them are escaped. The first `texts` columns are texts, the
    others are set to the right."""
    marks = ["---" if place < texts else "---:" for place in range(len(titles))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in [titles, marks, *rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values without titles."""
    return table(["", ""], rows, texts=2).replace("|  |  |", "| | |", 1)


def bullets(lines: Sequence[str]) -> str:
    """A list, one line each."""
    return "\n".join(f"* {line}" for line in lines)


def is_number(value: Any) -> bool:
    """Whether it is a number that means something: no NaN, no infinity, no bool."""
    if isinstance(value, Undefined):
        str(value)  # raises: a record lacks what it must have
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    """A number of a record, or that there is none: `31,200`, `0.1235`, `not recorded`."""
    if not is_number(value):
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def count(value: Any, one: str, many: str | None = None) -> str:
    """A number of things: `1 step`, `2,000 processes`."""
    return f"{number(value)} {one if value == 1 else many or f'{one}s'}"


def percent(value: Any) -> str:
    """A share in [0, 1] in percent, or that it was not measured."""
    return f"{100 * value:.1f}" if is_number(value) else "not measured"


def enumerated(parts: Sequence[str]) -> str:
    """One after the other, as a sentence names them: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
