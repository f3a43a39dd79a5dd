"""Files that are whole or absent, whatever ends the process that writes them, and texts made of templates."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OUR_READMES = ("`mcl-hf card FOLDER`", "This card was rendered by mcl_hf")
_SEAL = re.compile(r"<!-- as written by mcl_hf, ([0-9a-f]{16}): once changed, it stays -->")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside the file, bring it to the disk, and put it into place."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(content, indent=1) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; folders where that can be done: Windows opens none, and some
    network disks bring none."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not path.is_dir():
            raise


def fill_template(file: Path, /, **values: Any) -> str:
    """A file of Jinja's with every one of its places filled."""
    from jinja2 import StrictUndefined, Template

    text = file.read_text(encoding="utf-8")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return str(Template(text, undefined=StrictUndefined, **options).render(**values))


def sealed(text: str) -> str:
    """A text of a README.md with a comment, which nobody sees, that tells whether it was changed since."""
    return f"{text.rstrip()}\n\n<!-- as written by mcl_hf, {_digest(text)}: once changed, it stays -->\n"


def was_changed(text: str) -> bool | None:
    """Whether a sealed text says something else than it did; None where it is not sealed."""
    seal = _SEAL.search(text)
    return None if seal is None else _digest(text.replace(seal[0], "")) != seal[1]


def _digest(text: str) -> str:
    """Of the words: editors and the Hub may end lines as they like."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def is_somebodys(readme: Path) -> bool:
    """Whether there is a README.md that neither a run nor a card wrote, or that was changed since."""
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else _OUR_READMES[0]
    return bool(was_changed(text)) or not any(sign in text for sign in _OUR_READMES)
