"""From any source of images to batches of views: order -> sources -> decode -> views -> loader."""

from ..lazy import names_of

_HOME = {
    "BrokenImage": "decode",
    "ImageSource": "sources.image_source",
    "PUBLISHED_A": "views.draw",
    "PUBLISHED_B": "views.draw",
    "RawSample": "sources.image_source",
    "SampleOrder": "order",
    "StreamOrder": "order",
    "ViewBatch": "loader",
    "ViewDraw": "views.draw",
    "ViewLoader": "loader",
    "ViewRecipe": "views.draw",
    "decode_image": "decode",
    "draw_views": "views.draw",
    "open_image": "decode",
    "open_source": "open",
    "render_direct": "views.render",
    "render_published": "views.render",
    "render_views": "views.render",
    "side_recipes": "views.render",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
