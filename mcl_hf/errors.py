"""The one exception type that the commands turn into a single line and exit code 2.

Every package but `models` may import this file; `models` raises `ValueError` so that it stays free of the rest of
the library.
"""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what to do about it.
    """
