"""Pictures: the montages a model saw, training curves, similarity maps, detections and their precision.

Imports `models` only, and matplotlib (extra `viz`) inside the functions that draw with it.
"""

import importlib
from typing import Any

_HOME = {
    "DrawnImage": "detections",
    "DrawnObjects": "detections",
    "curves_picture": "curves",
    "detections_picture": "detections",
    "draw_similarity": "similarity",
    "montage_picture": "montage_grid",
    "precision_recall_picture": "precision_recall",
    "read_log": "curves",
    "similarity_map": "similarity",
    "similarity_picture": "similarity",
    "summarise": "curves",
    "to_pixel_values": "similarity",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
