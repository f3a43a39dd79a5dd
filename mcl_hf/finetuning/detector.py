"""The detector of a run: from its start, or from the checkpoint that it continues.

Where it sits: arguments, classes of the data -> **detector** -> finetune; a comparison opens its starts with it, too.
"""

from pathlib import Path
from typing import Any

import torch

from ..annotations.detection_data import DetectionData
from ..detectors.configuration_detector import MCLDetectorConfig
from ..detectors.modeling_detector import MCLForInstanceSegmentation, MCLForObjectDetection
from ..detectors.start_detector import start_detector
from ..detectors.transformers_detectors import (
    TRANSFORMERS_DETECTORS,
    open_transformers_detector,
    start_transformers_detector,
)
from ..engine.resume import check_detector
from ..errors import InputError
from .arguments import FinetuneArguments


def build_detector(arguments: FinetuneArguments, data: DetectionData, checkpoint: Path | None, lines: list[str]) -> Any:
    """The detector: from `init`, whose coverage report is added to `lines`, or from a checkpoint of this run.

    Raises:
        InputError: the start cannot be read, has another width or reads other images than annotated ones, or the
            checkpoint is of another detector.
    """
    fields = arguments.config_fields()
    of_transformers = arguments.detector in TRANSFORMERS_DETECTORS
    if checkpoint is not None and of_transformers:
        return open_transformers_detector(checkpoint, str(arguments.detector), data.id2label, **fields)
    if checkpoint is not None:
        saved = MCLDetectorConfig.from_pretrained(checkpoint)
        wanted = {**fields, "detector": arguments.detector, "id2label": data.id2label}
        check_detector(checkpoint, {name: getattr(saved, name) for name in wanted}, wanted)
        kind: Any = MCLForInstanceSegmentation if saved.detector == "mask_rcnn" else MCLForObjectDetection
        return kind.from_pretrained(checkpoint, dtype=torch.float32)
    init, detector = str(arguments.init), arguments.detector or "mask_rcnn"
    torch.manual_seed(arguments.seed)
    network: Any
    if of_transformers:
        if arguments.init_parts not in ([], ["backbone"]):
            raise InputError(f"init_parts of {arguments.detector} is backbone, got {', '.join(arguments.init_parts)}")
        network, report = start_transformers_detector(init, detector, data.id2label, arguments.backbone, **fields)
    else:
        fields |= {} if arguments.backbone is None else {"backbone": arguments.backbone}
        parts = arguments.init_parts or None
        network, report = start_detector(
            init, detector=detector, id2label=data.id2label, parts=parts, verbose=False, **fields
        )
        if network.config.num_channels not in (1, 3):
            raise InputError(
                f"the detector from {init} takes {network.config.num_channels} channels: annotated images are read in "
                "colour, or in gray for a detector of one channel"
            )
    lines.append(str(report))
    return network
