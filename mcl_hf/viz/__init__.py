"""Pictures: the montages a model saw, training curves, similarity maps, detections and their precision.

Imports `models` only, and matplotlib (extra `viz`) inside the functions that draw with it.
"""

from ..lazy import names_of

_HOME = {
    "DrawnImage": "detections",
    "DrawnObjects": "detections",
    "curves_picture": "curves",
    "detections_picture": "detections",
    "draw_similarity": "similarity",
    "level_maps": "similarity",
    "levels_picture": "similarity",
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
__getattr__ = names_of(__name__, _HOME)
