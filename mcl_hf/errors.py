"""The one exception type that the commands turn into a single line and exit code 2. Every package but `models` may
import it; `models` raises `ValueError` so that it stays free of the rest of the library."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what is wrong, where, and what to do."""


def nearest(name: object, known: Iterable[str]) -> str:
    """A question after the nearest name that is known; empty where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def check_known(names: Iterable[object], known: Sequence[str], told: str) -> None:
    """Refuse a name that is not among those known; `told` begins the message."""
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise InputError(f"{told} {name!r}" + (f": {hint}" if hint else ""))
