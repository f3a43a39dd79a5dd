"""Weights for the detectors of torchvision, detectron2 and mmdet, and the settings that go with them.

Where it sits: checkpoint -> convert -> **to_detectors** (files) + companions (settings) -> export.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from mcl_hf.errors import InputError
from mcl_hf.models.timm_backbone import layer_arguments
from mcl_hf.transfer.checkpoint import Checkpoint
from mcl_hf.transfer.companions import RESNET_DEPTHS, detectron2_yaml, mmdet_config, torchvision_script
from mcl_hf.transfer.convert import Coverage, convert
from mcl_hf.transfer.keymaps import DETECTORS, RESNET, TABLES, Table, to_theirs, torchvision_heads


def write_torchvision(checkpoint: Checkpoint, detector: str | None, folder: Path) -> Coverage:
    """`resnet.safetensors` for `torchvision.models`, `detector.safetensors` and `build_detector.py` that reads it.

    A fine-tuned detector of the same kind goes over whole, heads included.

    Args:
        checkpoint: to be exported.
        detector: `mask_rcnn` or `retinanet`; None follows the checkpoint.
        folder: exists and is empty.

    Raises:
        InputError: The backbone is none that torchvision's detectors have by these names.
    """
    detector = detector_for(checkpoint, detector)
    _check_backbone(checkpoint, "torchvision")
    table: Table = TABLES["torchvision", detector]
    if checkpoint.detector is not None and _kind(checkpoint.detector) == detector:
        table = (*table, *torchvision_heads(box_convs(checkpoint)))
    tensors, coverage = convert(checkpoint.tensors, table, "torchvision", detector)
    save_file(tensors, folder / "detector.safetensors", {"format": "pt"})
    resnet = {to_theirs(name, RESNET): tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file({name: t for name, t in resnet.items() if name is not None}, folder / "resnet.safetensors")
    script = torchvision_script(checkpoint, detector, box_convs(checkpoint))
    (folder / "build_detector.py").write_text(script, encoding="utf-8")
    return coverage


def write_detectron2(checkpoint: Checkpoint, detector: str | None, folder: Path) -> Coverage:
    """`model.pth` with full names, which detectron2 loads without its matching heuristics, and `config.yaml`.

    Args, Raises: as of `write_torchvision`.
    """
    detector = detector_for(checkpoint, detector)
    _check_backbone(checkpoint, "detectron2")
    tensors, coverage = convert(checkpoint.tensors, TABLES["detectron2", detector], "detectron2", detector)
    torch.save({"model": tensors}, folder / "model.pth")
    (folder / "config.yaml").write_text(detectron2_yaml(checkpoint, detector, box_convs(checkpoint)), encoding="utf-8")
    return coverage


def write_mmdet(checkpoint: Checkpoint, detector: str | None, folder: Path) -> Coverage:
    """`model.pth` for `load_from`, and `mcl.py`, the fragment of a config that goes with it.

    Args, Raises: as of `write_torchvision`; also where the box head has not the four convolutions that mmdet's has.
    """
    detector = detector_for(checkpoint, detector)
    _check_backbone(checkpoint, "mmdet")
    if detector == "mask_rcnn" and box_convs(checkpoint) not in (0, 4):
        raise InputError(
            f"mmdet's Shared4Conv1FCBBoxHead has 4 convolutions, {checkpoint.source} {box_convs(checkpoint)}"
        )
    tensors, coverage = convert(checkpoint.tensors, TABLES["mmdet", detector], "mmdet", detector)
    torch.save({"state_dict": tensors, "meta": {}}, folder / "model.pth")
    (folder / "mcl.py").write_text(mmdet_config(checkpoint, detector), encoding="utf-8")
    return coverage


def detector_for(checkpoint: Checkpoint, detector: str | None) -> str:
    """The detector to export for: as asked, or the checkpoint's own kind, or Mask R-CNN."""
    if detector is not None and detector not in DETECTORS:
        raise InputError(f"--detector must be one of {', '.join(DETECTORS)}, got {detector!r}")
    return detector or _kind(checkpoint.detector or "mask_rcnn")


def box_convs(checkpoint: Checkpoint) -> int:
    """Convolutions of the region head, or of a detector's box head, that the checkpoint brings."""
    return sum(name.startswith("region_head.conv.") and name.endswith("conv.weight") for name in checkpoint.tensors)


def _kind(detector: str) -> str:
    return "mask_rcnn" if detector == "faster_rcnn" else detector  # the same parts, less the mask head


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
