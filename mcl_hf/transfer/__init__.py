"""Between our checkpoints and everyone else's: export (checkpoint -> convert -> to_*), import, and coverage reports.

Tables of names are in `keymaps`; each target has one file.
"""

from ..lazy import names_of

_HOME = {
    "Checkpoint": "checkpoint",
    "Coverage": "convert",
    "TARGETS": "export",
    "export_checkpoint": "export",
    "import_checkpoint": "import_",
    "open_checkpoint": "checkpoint",
    "write_with_code": "remote_code",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
