"""A finished detector and its image processor, from wherever it lies: ours, torchvision's, any of transformers.

Where it sits: checkpoint -> **open_detector** -> evaluation, prediction, comparison, the page.
"""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForInstanceSegmentation,
    AutoModelForObjectDetection,
    AutoModelForUniversalSegmentation,
)

from ..errors import InputError
from ..models import MCLImageProcessor
from ..remote.checkpoints import MODEL_FILES, local_checkpoint
from ..transfer.torchvision_detectors import torchvision_description
from .float32_boxes import keep_boxes_in_float32
from .start_detector import start_detector


def open_detector(checkpoint: str) -> tuple[torch.nn.Module, Any]:
    """A detector in eval mode, and its image processor, from a folder or the Hub; or one of torchvision by its name,
    `torchvision:NAME`, or as a file.

    Raises:
        InputError: nothing there, something other than a detector, or one of neither 1 nor 3 channels.
    """
    try:
        of_torchvision = torchvision_description(checkpoint)
        if of_torchvision is not None:
            detector, _ = start_detector(checkpoint, detector=of_torchvision["detector"], verbose=False)
            return detector.eval(), MCLImageProcessor.from_config(detector.config)
        folder = local_checkpoint(checkpoint, MODEL_FILES)
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever an odd description leads it to
        raise InputError(f"{checkpoint} cannot be opened as a checkpoint: {_first_line(error)}") from error
    if config.model_type == "mcl_dense":
        raise InputError(f"{checkpoint} is a pre-training checkpoint, which detects nothing yet: fine-tune it first")
    if getattr(config, "num_channels", 3) not in (1, 3):
        raise InputError(f"{checkpoint} takes {config.num_channels} channels; pictures are read in colour or in gray")
    opener: Any
    boxes_only = getattr(config, "detector", "") in ("faster_rcnn", "retinanet")
    if type(config) in AutoModelForInstanceSegmentation._model_mapping and not boxes_only:
        opener = AutoModelForInstanceSegmentation
    elif type(config) in AutoModelForObjectDetection._model_mapping:
        opener = AutoModelForObjectDetection
    elif config.model_type == "mask2former":
        opener = AutoModelForUniversalSegmentation
    else:
        raise InputError(f"{checkpoint} is a model of type {config.model_type}, not a detector")
    try:
        model = opener.from_pretrained(folder, dtype=torch.float32).eval()  # it may have been saved in half precision
        processor = AutoImageProcessor.from_pretrained(folder)
    except Exception as error:  # or an odd file
        raise InputError(f"{checkpoint} cannot be opened as a detector: {_first_line(error)}") from error
    keep_boxes_in_float32(model)
    return model, processor


def _first_line(error: BaseException) -> str:
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
