"""From any source of images to batches of views: order -> sources -> decode -> views -> loader."""

from ..lazy import names_of

_HOME = {
    **dict.fromkeys(("BrokenImage", "decode_image", "open_image"), "decode"),
    **dict.fromkeys(("ViewBatch", "ViewLoader"), "loader"),
    "open_source": "open",
    **dict.fromkeys(("SampleOrder", "StreamOrder"), "order"),
    **dict.fromkeys(("ImageSource", "RawSample"), "sources.image_source"),
    **dict.fromkeys(("PUBLISHED_A", "PUBLISHED_B", "ViewDraw", "ViewRecipe", "draw_views"), "views.draw"),
    **dict.fromkeys(("render_direct", "render_published", "render_views", "side_recipes"), "views.render"),
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
