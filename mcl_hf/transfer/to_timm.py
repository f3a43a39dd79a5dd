"""A folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)`, and transformers' TimmWrapper:
the backbone alone, under the names of timm's plain network (that of `features_only=False`), for any architecture.

Source: timm `models/_hub.py` (config.json, model.safetensors), transformers `models/timm_wrapper`.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..models.timm_backbone import build_timm_network, describe_backbone, timm_arguments
from .checkpoint import Checkpoint
from .convert import Coverage

_KEPT = ("pool_size", "first_conv", "classifier")  # what timm needs to put in a classifier or other input channels


def write_timm(checkpoint: Checkpoint, folder: Path) -> Coverage:
    """Write `model.safetensors` and `config.json`. Where timm's plain network ends in a layer that a feature extractor
    lacks (ConvNeXt, Swin), that layer is as timm initialises it.

    Raises:
        InputError: timm's plain network has no name for one of the backbone's tensors.
    """
    config = checkpoint.config
    names = plain_names(config)
    ours = {name.removeprefix("backbone."): t for name, t in checkpoint.tensors.items() if name.startswith("backbone.")}
    nameless = sorted(set(ours) - set(names.values()))
    if nameless:
        raise InputError(
            f"timm's plain {config.backbone} has no name for {len(nameless)} tensors such as {nameless[0]}"
        )
    new = [plain for plain, name in names.items() if name not in ours]
    fresh = _plain_network(config).state_dict() if new else {}
    tensors = {plain: ours[name] if name in ours else fresh[plain] for plain, name in names.items()}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    description = json.dumps(_description(checkpoint), indent=2)
    (folder / "config.json").write_text(description + "\n", encoding="utf-8")
    coverage = Coverage(f"timm {config.backbone}", {"backbone": (len(ours), len(ours))})
    if new:
        coverage.parts["final layer"] = (0, len(new))
    return coverage


def feature_options(backbone: str, num_channels: int = 3, backbone_kwargs: dict[str, Any] | None = None) -> str:
    """What `timm.create_model` is to be given, as code, to return C2..C5 alone."""
    wanted = describe_backbone(backbone, num_channels, backbone_kwargs).positions[-4:]
    return f"features_only=True, out_indices={wanted}"


def plain_names(config: MCLConfig) -> dict[str, str]:
    """Name in timm's plain network -> name in its feature extractor, which is the same up to dots; that of a tensor
    that the extractor lacks is empty."""
    with torch.device("meta"):
        plain = _plain_network(config).state_dict()
        extractor = build_timm_network(config.backbone, config.num_channels, config.backbone_kwargs).state_dict()
    flat = {name.removeprefix("model.").replace(".", "_"): name for name in extractor}
    return {name: flat.get(name.replace(".", "_"), "") for name in plain}


def _plain_network(config: MCLConfig) -> Any:
    return timm.create_model(config.backbone, num_classes=0, **_arguments(config))


def _arguments(config: MCLConfig) -> dict[str, Any]:
    channels = {} if config.num_channels == 3 else {"in_chans": config.num_channels}
    return timm_arguments(config.backbone, config.backbone_kwargs) | channels


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of timm's config.json. `num_classes` is not in `model_args`: TimmWrapper would be given it twice."""
    config = checkpoint.config
    published = timm.get_pretrained_cfg(config.backbone, allow_unregistered=False)
    kept = {name: getattr(published, name) for name in _KEPT} if published is not None else {}
    with torch.device("meta"):
        width = _plain_network(config).num_features
    return {
        "architecture": config.backbone,
        "num_classes": 0,
        "num_features": width,
        "model_args": _arguments(config),
        "pretrained_cfg": {
            "input_size": [config.num_channels, config.image_size, config.image_size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": checkpoint.statistics[0],
            "std": checkpoint.statistics[1],
            "num_classes": 0,
            **kept,
        },
    }
