"""Detection: pre-training checkpoint -> detector -> fine-tuning -> detections -> COCO AP.

Names are loaded on first use, so that importing this package brings in neither datasets nor pycocotools.
"""

from typing import Any

from ..lazy import load_name

_HOME = {
    "DetectionData": "detection_data",
    "DetectionItem": "detection_data",
    "DetectionMetrics": "evaluate",
    "ImageDetections": "results",
    "MCLDetectorConfig": "configuration_detector",
    "MCLDetectorOutput": "modeling_detector",
    "MCLForInstanceSegmentation": "modeling_detector",
    "MCLForObjectDetection": "modeling_detector",
    "evaluate_detections": "evaluate",
    "gather_results": "results",
    "ground_truth_results": "results",
    "list_splits": "datasets",
    "match_categories": "predict",
    "open_detection_data": "datasets",
    "open_detector": "predict",
    "pixel_boxes": "targets",
    "predict_data": "predict",
    "read_results": "results",
    "relative_boxes": "targets",
    "start_detector": "from_pretraining",
    "to_results": "results",
    "write_results": "results",
    "write_yolo": "yolo",
}
"""Public name -> the file that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, _HOME, name)
