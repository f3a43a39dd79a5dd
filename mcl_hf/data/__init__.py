"""From any source of images to batches of views: order -> sources -> decode -> augment + views -> loader."""

from mcl_hf.data.augment import PUBLISHED_A, PUBLISHED_B, ViewDraw, ViewRecipe, draw_views
from mcl_hf.data.decode import BrokenImage, decode_image, open_image
from mcl_hf.data.image_source import ImageSource, RawSample
from mcl_hf.data.loader import ViewBatch, ViewLoader
from mcl_hf.data.order import SampleOrder
from mcl_hf.data.sources import open_source
from mcl_hf.data.stream_order import StreamOrder
from mcl_hf.data.views import render_direct, render_published, render_views, side_recipes

__all__ = [
    "PUBLISHED_A",
    "PUBLISHED_B",
    "BrokenImage",
    "ImageSource",
    "RawSample",
    "SampleOrder",
    "StreamOrder",
    "ViewBatch",
    "ViewDraw",
    "ViewLoader",
    "ViewRecipe",
    "decode_image",
    "draw_views",
    "open_image",
    "open_source",
    "render_direct",
    "render_published",
    "render_views",
    "side_recipes",
]
