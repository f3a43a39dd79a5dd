"""Files that are whole or absent, whatever ends the process that writes them, and texts made of templates."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OUR_READMES = ("`mcl-hf card FOLDER`", "This card was rendered by mcl_hf")


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
    network disks bring none.

    Raises:
        OSError: the file could not be brought there.
    """
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


def is_somebodys(readme: Path) -> bool:
    """Whether there is a README.md that neither a run nor a card wrote."""
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else _OUR_READMES[0]
    return not any(sign in text for sign in _OUR_READMES)
