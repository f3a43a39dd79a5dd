"""Between our checkpoints and everyone else's: export (checkpoint -> convert -> to_*), import, and coverage reports.

Tables of names are in `keymaps`; each target has one file.
"""

from mcl_hf.transfer.checkpoint import Checkpoint, open_checkpoint
from mcl_hf.transfer.convert import Coverage
from mcl_hf.transfer.export import TARGETS, export_checkpoint
from mcl_hf.transfer.import_ import import_checkpoint
from mcl_hf.transfer.remote_code import write_with_code

__all__ = [
    "TARGETS",
    "Checkpoint",
    "Coverage",
    "export_checkpoint",
    "import_checkpoint",
    "open_checkpoint",
    "write_with_code",
]
