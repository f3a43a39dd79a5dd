"""Tags of releases: which names there may be, and which comes next.

Where it sits: under `publish.py`, `repository.py` and `background.py`.

Source: git `check-ref-format`, whose rules the Hub applies to a tag only after the commit.
"""

import re
from collections.abc import Mapping

from mcl_hf.errors import InputError

_NUMBERED = re.compile(r"v(\d+)")
# What git forbids -> how to say it, in the order in which a name is looked through.
_FORBIDDEN = {
    r"^$": "be empty",
    r"[\x00-\x20\x7f]": "hold spaces or control characters",
    r"[~^:?*\[\\]": "hold any of ~ ^ : ? * [ \\",
    r"\.\.": "hold two dots in a row",
    r"@\{": "hold @{",
    r"^@$": "be @ alone",
    r"^HEAD$": "be HEAD",
    r"^-": "begin with -",
    r"^/|/$|//": "begin or end with /, or hold two in a row",
    r"(^|/)\.": "have a part that begins with a dot",
    r"\.$": "end with a dot",
    r"\.lock(/|$)": "have a part that ends with .lock",
}


def check_tag(tag: str) -> None:
    """Refuse what git does not take as the name of a tag.

    Raises:
        InputError: naming the rule.

    Example:
        >>> check_tag("release/v1.0")
    """
    for pattern, told in _FORBIDDEN.items():
        if re.search(pattern, tag):
            raise InputError(f"--tag {tag!r} cannot be a tag: its name may not {told}; write one such as v1")


def next_tag(tags: Mapping[str, str]) -> str:
    """The release after the highest `v1`, `v2`, ... there is.

    Example:
        >>> next_tag({}), next_tag({"v1": "", "v10": "", "v2.5": "", "old": ""})
        ('v1', 'v11')
    """
    numbers = [int(found[1]) for tag in tags if (found := _NUMBERED.fullmatch(tag))]
    return f"v{max(numbers, default=0) + 1}"


def tag_is_taken(repository: str, tag: str) -> str:
    """What to do about it, in one line."""
    return f"tag {tag} of {repository} is taken by an earlier release: choose another --tag, or leave it out"


__all__ = ["check_tag", "next_tag", "tag_is_taken"]
