"""Weights for the detectors of torchvision, detectron2 and mmdet, and the settings that go with them.

Where it sits: checkpoint -> convert -> **to_detectors** (files) + detector_configs (settings) -> export.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..errors import InputError
from ..files import fill_template
from ..models.timm_backbone import layer_arguments
from .checkpoint import Checkpoint
from .convert import Coverage, convert
from .detector_configs import ANCHORS_FILE, RESNET_DEPTHS, detectron2_yaml, mmdet_config, settings
from .detector_heads import head_table, head_values
from .keymaps import RESNET, TABLES, Table, to_theirs
from .targets import DETECTORS
from .torchvision_script import torchvision_script

_LAYERS = {"conv_norm": "batch_norm", "roi_aligned": True, "fixed_anchor_strides": True, "box_head_fcs": 1,
           "p6_of": "c5", "dense_norm": "none"}  # fmt: skip
_WITHOUT_A_KEY = {
    "detectron2": {"roi_canonical_size": 224, "rpn_score_thresh": 0},
    "mmdet": {"rpn_score_thresh": 0},
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
        InputError: The backbone is none that these detectors have by such names, or the box head has not the four
            convolutions that mmdet's has.
    """
    detector = detector_for(checkpoint, detector)
    convs = _built_convs(checkpoint)
    if target == "mmdet" and detector != "retinanet" and convs != 4:
        raise InputError(f"mmdet's Shared4Conv1FCBBoxHead has 4 convolutions, {checkpoint.source} {convs}")
    tensors, coverage = _converted(checkpoint, target, detector)
    if target == "torchvision":
        save_file(tensors, folder / "detector.safetensors", {"format": "pt"})
        resnet = {to_theirs(name, RESNET): tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file({name: t for name, t in resnet.items() if name is not None}, folder / "resnet.safetensors")
        script = torchvision_script(checkpoint, detector, convs)
        (folder / "build_detector.py").write_text(script, encoding="utf-8")
        return coverage
    if target == "detectron2":
        name, text = "config.yaml", detectron2_yaml(checkpoint, detector, convs)
        content: dict[str, Any] = {"model": tensors}
    else:
        name, text = "mcl.py", mmdet_config(checkpoint, detector)
        content = {"state_dict": tensors, "meta": {}}
    torch.save(content, folder / "model.pth")
    (folder / name).write_text(text, encoding="utf-8")
    if _has_heads_of(checkpoint, detector):  # their class of anchors, which the config names
        text = fill_template(Path(__file__).with_name(f"{ANCHORS_FILE}.jinja"), to=target)
        (folder / ANCHORS_FILE).write_text(text, encoding="utf-8")
    given = settings(checkpoint, detector)
    coverage.notes += [
        f"{name} {given[name]} has no option in {target}, where it is {value}"
        for name, value in _WITHOUT_A_KEY[target].items()
        if given.get(name, value) != value
    ]
    return coverage


def _converted(checkpoint: Checkpoint, target: str, detector: str) -> tuple[dict[str, torch.Tensor], Coverage]:
    """Tensors under the target's names: of a detector of the same kind its heads, too."""
    _check_backbone(checkpoint, target)
    table: Table = TABLES[target, detector]
    tensors, more = checkpoint.tensors, 0
    if _has_heads_of(checkpoint, detector):
        given = checkpoint.description
        tensors, more = head_values(tensors, target, len(given.get("aspect_ratios") or (0.5, 1.0, 2.0)))
        table = (*table, *head_table(target, detector, box_convs(checkpoint), given.get("rpn_conv_depth", 1)))
    converted, coverage = convert(tensors, table, target, detector)
    if more:
        coverage.notes.append("P6 and P7: mmdet has batch norm there, which adds the bias and changes nothing else")
    return converted, coverage


def _has_heads_of(checkpoint: Checkpoint, detector: str) -> bool:
    return checkpoint.detector is not None and (checkpoint.detector == "retinanet") == (detector == "retinanet")


def _built_convs(checkpoint: Checkpoint) -> int:
    """Convolutions of the box head that the target is built with: a fine-tuned R-CNN's own, or pre-training's, or 4."""
    own = checkpoint.detector is not None and checkpoint.detector != "retinanet"
    return box_convs(checkpoint) if own else box_convs(checkpoint) or 4


def detector_for(checkpoint: Checkpoint, detector: str | None) -> str:
    """The detector to export for: as asked, or the checkpoint's own kind, or Mask R-CNN.

    Raises:
        InputError: An unknown one, or the checkpoint has layers of torchvision's own that no export writes.
    """
    for name, known in _LAYERS.items():
        own = checkpoint.description.get(name, known)
        if own != known:
            raise InputError(
                f"{checkpoint.source} has {name} {own}, as torchvision's own detectors: this export knows {known}; "
                "--to timm takes the backbone"
            )
    if detector is not None and detector not in DETECTORS:
        raise InputError(f"--detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    return detector or checkpoint.detector or "mask_rcnn"


def box_convs(checkpoint: Checkpoint) -> int:
    """Convolutions of the region head, or of a detector's box head, that the checkpoint brings."""
    return sum(name.startswith("region_head.conv.") and name.endswith("conv.weight") for name in checkpoint.tensors)


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
