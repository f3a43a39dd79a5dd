"""What people give to commands and Python calls, as plain values.

Every package may import this file.
"""

from pathlib import Path


def from_home(path: str) -> str:
    """A path whose `~` is the home folder: shells leave it as it is in `--out=~/a.png`, and so do YAML and Python."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path
