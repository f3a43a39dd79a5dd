"""Pictures: the montages a model saw, training curves, similarity maps.

Imports `models` only, and matplotlib (extra `viz`) inside the functions that draw with it.
"""

from mcl_hf.viz.curves import curves_picture, read_log, summarise
from mcl_hf.viz.montage_grid import montage_picture
from mcl_hf.viz.similarity import draw_similarity, similarity_map, similarity_picture, to_pixel_values

__all__ = [
    "curves_picture",
    "draw_similarity",
    "montage_picture",
    "read_log",
    "similarity_map",
    "similarity_picture",
    "summarise",
    "to_pixel_values",
]
