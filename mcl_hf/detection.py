"""Public names around detection: pre-training checkpoint -> detector -> fine-tuning -> detections -> COCO AP.

Loaded on first use, so that importing this file brings in neither datasets nor pycocotools.
"""

from .lazy import names_of

_HOME = {
    "DetectionData": "annotations.detection_data",
    "DetectionItem": "annotations.detection_data",
    "DetectionMetrics": "evaluation.evaluate",
    "ImageDetections": "evaluation.results",
    "MCLDetectorConfig": "detectors.configuration_detector",
    "MCLDetectorOutput": "detectors.modeling_detector",
    "MCLForInstanceSegmentation": "detectors.modeling_detector",
    "MCLForObjectDetection": "detectors.modeling_detector",
    "evaluate_detections": "evaluation.evaluate",
    "gather_results": "evaluation.results",
    "ground_truth_results": "evaluation.results",
    "list_splits": "annotations.open_data",
    "match_categories": "evaluation.predict_data",
    "open_detection_data": "annotations.open_data",
    "open_detector": "detectors.open_detector",
    "pixel_boxes": "detectors.targets",
    "predict_data": "evaluation.predict_data",
    "read_results": "evaluation.results",
    "relative_boxes": "detectors.targets",
    "start_detector": "detectors.start_detector",
    "to_results": "evaluation.results",
    "write_results": "evaluation.results",
    "write_yolo": "annotations.yolo",
}
"""Public name -> the file that defines it."""

__all__ = sorted(_HOME)
__getattr__ = names_of("mcl_hf", _HOME)
