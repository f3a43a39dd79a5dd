"""The one exception type that the commands turn into a single line and exit code 2.

Every package but `models` may import this file; `models` raises `ValueError` so that it stays free of the rest of
the library.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what to do about it.
    """


def nearest(name: object, known: Iterable[str]) -> str:
    """A question after the nearest name that is known; empty where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
