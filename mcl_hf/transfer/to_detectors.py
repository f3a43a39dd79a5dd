"""Weights for the detectors of torchvision, detectron2 and mmdet, and the settings that go with them.

Where it sits: checkpoint -> convert -> **to_detectors** (files) + detector_configs (settings) -> export.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import InputError
from ..models.timm_backbone import layer_arguments
from .checkpoint import Checkpoint
from .convert import Coverage, convert
from .detector_configs import RESNET_DEPTHS, config_files, has_heads, settings
from .detector_heads import head_table, head_values
from .keymaps import RESNET, TABLES, Table, to_theirs
from .targets import DETECTORS

_LAYERS = {"conv_norm": "batch_norm", "roi_aligned": True, "fixed_anchor_strides": True, "box_head_fcs": 1,
           "p6_of": "c5", "dense_norm": "none"}  # fmt: skip
_WITHOUT_A_KEY = {
    "detectron2": {"roi_canonical_size": 224, "rpn_score_thresh": 0},
    "mmdet": {"rpn_score_thresh": 0},
    "torchvision": {},
}
"""Settings that a framework has no option for -> what they are there."""


def write_detector(checkpoint: Checkpoint, detector: str | None, folder: Path, target: str) -> Coverage:
    """Weights under the names of a framework, and the settings that go with them.

    A fine-tuned detector goes over whole, with its heads and settings, to a detector of the same kind.

    * torchvision: `resnet.safetensors` for `torchvision.models`, `detector.safetensors` and `build_detector.py` that
      reads it;
    * detectron2: `model.pth` with full names, which it loads without its matching heuristics, and `config.yaml`;
    * mmdet: `model.pth` for `load_from`, and `mcl.py`, the fragment of a config that goes with it.

    Args:
        checkpoint: to be exported.
        detector: `mask_rcnn`, `faster_rcnn` or `retinanet`; None follows the checkpoint.
        folder: exists and is empty.
        target: `torchvision`, `detectron2` or `mmdet`.

    Raises:
        InputError: The backbone is none that these detectors have by such names, the box head has not the four
            convolutions that mmdet's has, or images have channels that mmdet does not take.
    """
    _check_layers(checkpoint)
    if detector is not None and detector not in DETECTORS:
        raise InputError(f"--detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    detector = detector or checkpoint.detector or "mask_rcnn"
    convs = sum(name.startswith("region_head.conv.") and name.endswith("conv.weight") for name in checkpoint.tensors)
    if not convs and checkpoint.detector in (None, "retinanet"):
        convs = 4  # what the target's box head is built with where nothing brings one
    if target == "mmdet" and detector != "retinanet" and convs != 4:
        raise InputError(f"mmdet's Shared4Conv1FCBBoxHead has 4 convolutions, {checkpoint.source} {convs}")
    _check_backbone(checkpoint, target)
    channels = checkpoint.config.num_channels
    if target == "mmdet" and channels not in (1, 3):
        raise InputError(
            f"{checkpoint.source} takes {channels} channels, and mmdet 1 or 3: --to detectron2, timm and onnx take them"
        )
    given = settings(checkpoint, detector)
    table: Table = TABLES[target, detector]
    tensors, more = checkpoint.tensors, 0
    if has_heads(checkpoint, detector):
        tensors, more = head_values(tensors, target, len(given["aspect_ratios"]))
        table = (*table, *head_table(target, detector, convs, given["rpn_conv_depth"]))
    tensors, coverage = convert(tensors, table, target, detector)
    if more:
        coverage.notes.append("P6 and P7: mmdet has batch norm there, which adds the bias and changes nothing else")
    if target == "torchvision":
        save_file(tensors, folder / "detector.safetensors", {"format": "pt"})
        resnet = {to_theirs(name, RESNET): tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file({name: t for name, t in resnet.items() if name is not None}, folder / "resnet.safetensors")
    else:
        content = {"model": tensors} if target == "detectron2" else {"state_dict": tensors, "meta": {}}
        torch.save(content, folder / "model.pth")
    for file, text in config_files(checkpoint, target, detector, convs).items():
        (folder / file).write_text(text, encoding="utf-8")
    if target == "detectron2" and channels not in (1, 3):
        coverage.notes.append(f"no INPUT.FORMAT reads {channels} channels: bring a mapper of your own that gives them")
    coverage.notes += [
        f"{name} {given[name]} has no option in {target}, where it is {value}"
        for name, value in _WITHOUT_A_KEY[target].items()
        if given.get(name, value) != value
    ]
    return coverage


def _check_layers(checkpoint: Checkpoint) -> None:
    """Refuse layers of torchvision's own detectors, which no export writes."""
    for name, known in _LAYERS.items():
        own = checkpoint.description.get(name, known)
        if own != known:
            raise InputError(
                f"{checkpoint.source} has {name} {own}, as torchvision's own detectors: this export knows {known}; "
                "--to timm takes the backbone"
            )


def _check_backbone(checkpoint: Checkpoint, target: str) -> None:
    """Only plain ResNets have a name and the same layers everywhere."""
    config = checkpoint.config
    layers = layer_arguments(config.backbone_kwargs)
    if config.backbone not in RESNET_DEPTHS or layers:
        changed = f" with {layers}" if layers else ""
        raise InputError(
            f"{target} has no names for the backbone {config.backbone}{changed}: this export knows "
            f"{', '.join(RESNET_DEPTHS)}; --to timm and --to onnx take any backbone"
        )
