"""Pictures: the montages a model saw, training curves, similarity maps, detections and their precision.

Imports `models` only, and matplotlib (extra `viz`) inside the functions that draw with it.
"""

from mcl_hf.viz.curves import curves_picture, read_log, summarise
from mcl_hf.viz.detections import DrawnImage, DrawnObjects, detections_picture
from mcl_hf.viz.montage_grid import montage_picture
from mcl_hf.viz.precision_recall import precision_recall_picture
from mcl_hf.viz.similarity import draw_similarity, similarity_map, similarity_picture, to_pixel_values

__all__ = [
    "DrawnImage",
    "DrawnObjects",
    "curves_picture",
    "detections_picture",
    "draw_similarity",
    "montage_picture",
    "precision_recall_picture",
    "read_log",
    "similarity_map",
    "similarity_picture",
    "summarise",
    "to_pixel_values",
]
