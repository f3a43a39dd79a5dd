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
    if arguments.detector in TRANSFORMERS_DETECTORS:
        if checkpoint is not None:
            return open_transformers_detector(checkpoint, arguments.detector, data.id2label, **fields)
        assert arguments.init is not None, "checked before"
        if arguments.init_parts not in ([], ["backbone"]):
            raise InputError(f"init_parts of {arguments.detector} is backbone, got {', '.join(arguments.init_parts)}")
        torch.manual_seed(arguments.seed)
        network, report = start_transformers_detector(
            arguments.init, arguments.detector, data.id2label, arguments.backbone, **fields
        )
        lines.append(str(report))
        return network
    if checkpoint is None:
        assert arguments.init is not None, "checked before"
        torch.manual_seed(arguments.seed)
        if arguments.backbone is not None:
            fields["backbone"] = arguments.backbone
        network, report = start_detector(
            arguments.init,
            detector=arguments.detector or "mask_rcnn",
            id2label=data.id2label,
            parts=arguments.init_parts or None,
            verbose=False,  # the run prints it once
            **fields,
        )
        if network.config.num_channels not in (1, 3):
            raise InputError(
                f"the detector from {arguments.init} takes {network.config.num_channels} channels: annotated images "
                "are read in colour, or in gray for a detector of one channel"
            )
        lines.append(str(report))
        return network
    saved = MCLDetectorConfig.from_pretrained(checkpoint)
    wanted = {**fields, "detector": arguments.detector, "id2label": data.id2label}
    check_detector(checkpoint, {name: getattr(saved, name) for name in wanted}, wanted)
    kind: Any = MCLForInstanceSegmentation if saved.detector == "mask_rcnn" else MCLForObjectDetection
    return kind.from_pretrained(checkpoint, dtype=torch.float32)
