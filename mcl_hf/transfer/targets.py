"""Names that an export can be asked for. Nothing is imported here, so that the command's options are read at once."""

TARGETS = {
    "timm": "the backbone, for timm and transformers' TimmWrapper",
    "torchvision": "ResNet, and Mask R-CNN, Faster R-CNN or RetinaNet with a script that builds it",
    "detectron2": "weights and yaml of Mask R-CNN, Faster R-CNN or RetinaNet",
    "mmdet": "weights and config fragment of Mask R-CNN, Faster R-CNN or RetinaNet",
    "onnx": "graphs of the backbone and of backbone and FPN, any input size",
    "pt2": "the same as programs of torch.export",
    "transformers": "our own format, without training state; with_code adds the code",
}
"""Framework -> what it gets."""
NETWORKS = ("online", "target")
DETECTORS = {"mask_rcnn": "Mask R-CNN", "faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet"}
