"""Detection: pre-training checkpoint -> detector -> fine-tuning -> detections -> COCO AP.

Names are loaded on first use, so that importing this package brings in neither datasets nor pycocotools.
"""

from typing import Any

from ..lazy import load_name

_HOME = {
    "DetectionData": "data.detection_data",
    "DetectionItem": "data.detection_data",
    "DetectionMetrics": "evaluation.evaluate",
    "ImageDetections": "evaluation.results",
    "MCLDetectorConfig": "models.configuration_detector",
    "MCLDetectorOutput": "models.modeling_detector",
    "MCLForInstanceSegmentation": "models.modeling_detector",
    "MCLForObjectDetection": "models.modeling_detector",
    "evaluate_detections": "evaluation.evaluate",
    "gather_results": "evaluation.results",
    "ground_truth_results": "evaluation.results",
    "list_splits": "data.open_data",
    "match_categories": "evaluation.predict_data",
    "open_detection_data": "data.open_data",
    "open_detector": "evaluation.predict_data",
    "pixel_boxes": "models.targets",
    "predict_data": "evaluation.predict_data",
    "read_results": "evaluation.results",
    "relative_boxes": "models.targets",
    "start_detector": "models.from_pretraining",
    "to_results": "evaluation.results",
    "write_results": "evaluation.results",
    "write_yolo": "data.yolo",
}
"""Public name -> the file that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, _HOME, name)
