"""Files that are whole or absent, whatever ends the process that writes them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside the file, bring it to the disk, and put it into place."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(content, indent=1) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)
