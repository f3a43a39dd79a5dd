"""Detection: pre-training checkpoint -> detector -> fine-tuning -> detections -> COCO AP.

Names are loaded on first use, so that importing this package brings in neither datasets nor pycocotools.
"""

import importlib
from typing import Any

_HOME = {
    "MCLDetectorConfig": "configuration_detector",
    "MCLDetectorOutput": "modeling_detector",
    "MCLForInstanceSegmentation": "modeling_detector",
    "MCLForObjectDetection": "modeling_detector",
    "pixel_boxes": "targets",
    "relative_boxes": "targets",
    "start_detector": "from_pretraining",
}
"""Public name -> the file that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
