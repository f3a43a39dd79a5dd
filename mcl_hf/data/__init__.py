"""From any source of images to batches of views: order -> sources -> decode -> augment + views -> loader."""

from typing import Any

from ..lazy import load_name

_HOME = {
    "BrokenImage": "decode",
    "ImageSource": "image_source",
    "PUBLISHED_A": "augment",
    "PUBLISHED_B": "augment",
    "RawSample": "image_source",
    "SampleOrder": "order",
    "StreamOrder": "stream_order",
    "ViewBatch": "loader",
    "ViewDraw": "augment",
    "ViewLoader": "loader",
    "ViewRecipe": "augment",
    "decode_image": "decode",
    "draw_views": "augment",
    "open_image": "decode",
    "open_source": "sources",
    "render_direct": "views",
    "render_published": "views",
    "render_views": "views",
    "side_recipes": "views",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, _HOME, name)
