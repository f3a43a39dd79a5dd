"""Reader of checkpoints that the published code wrote (`.pth` of OpenSelfSup's runner), and its table of names.

A file holds `state_dict` (or is one): `encoder_q.{0,1,2}` online backbone, FPN and head, `encoder_k.{0,1,2}` the
momentum copy, `head.predictor.{level}`, and `backbone.*`, an alias of `encoder_q.0`. Read from GuoQiushan/MCL at
1912aa9.
"""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from .weight_files import read_pickled

# Published name -> ours; tried in order, the first match wins. Index 0 of FPN convolutions is the finest level in both.
NAME_TABLE: tuple[tuple[str, str], ...] = (
    (r"^encoder_q\.0\.(.+)$", r"mcl.backbone.\1"),
    (r"^encoder_q\.1\.lateral_convs\.(\d+)\.(.+)$", r"mcl.fpn.lateral.\1.\2"),
    (r"^encoder_q\.1\.fpn_convs\.(\d+)\.(.+)$", r"mcl.fpn.output.\1.\2"),
    (r"^encoder_q\.2\.cls_convs\.(\d+)\.(.+)$", r"mcl.region_head.conv.\1.\2"),
    (r"^encoder_q\.2\.mlp\.(\d+)\.(.+)$", r"mcl.region_head.mlp.\1.\2"),
    (r"^encoder_k\.0\.(.+)$", r"target.backbone.\1"),
    (r"^encoder_k\.1\.lateral_convs\.(\d+)\.(.+)$", r"target.fpn.lateral.\1.\2"),
    (r"^encoder_k\.1\.fpn_convs\.(\d+)\.(.+)$", r"target.fpn.output.\1.\2"),
    (r"^encoder_k\.2\.cls_convs\.(\d+)\.(.+)$", r"target.region_head.conv.\1.\2"),
    (r"^encoder_k\.2\.mlp\.(\d+)\.(.+)$", r"target.region_head.mlp.\1.\2"),
    (r"^head\.predictor\.(\d+)\.mlp\.(\d+)\.(.+)$", r"predictors.\1.mlp.\2.\3"),
)

# (blocks of each stage, has a third convolution) -> timm name
_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
_RATIOS, _FRACTIONS, _WEIGHTS = (1, 2, 4, 8), (1, 1 / 4, 1 / 16, 1 / 32), (1 / 2, 1 / 4, 1 / 8, 1 / 8)


def our_name(published: str) -> str | None:
    """Our name of a published tensor, or None for one that has no place here."""
    for pattern, replacement in NAME_TABLE:
        if re.match(pattern, published):
            return re.sub(pattern, replacement, published)
    return None


def resnet_name(names: Collection[str]) -> str | None:
    """timm's name of the ResNet whose tensors are called so (`layer1.0.conv1.weight`, ...); None for no known depth."""
    blocks = Counter(match[1] for name in names if (match := re.match(r"layer(\d)\.\d+\.conv1\.weight$", name)))
    return _RESNETS.get((tuple(blocks[str(stage)] for stage in range(1, 5)), "layer1.0.conv3.weight" in names))


def read_official_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Fields of `MCLConfig` inferred from the tensors of a published checkpoint, and the tensors under our names.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file cannot be read safely, or is not a whole MCL checkpoint.
    """
    content = read_pickled(path)
    published = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for name, tensor in published.items():
        name = str(name).removeprefix("module.")
        ours = our_name(name)
        if not isinstance(tensor, torch.Tensor) or (ours is None and not name.startswith("backbone.")):
            unknown.append(name)
        elif ours is None:
            aliases[f"mcl.{name}"] = tensor
        else:
            tensors[ours] = tensor
    if unknown:
        raise ValueError(f"{path} is not an MCL checkpoint: no place for {len(unknown)} entries such as {unknown[:3]}")
    different = [
        name for name, tensor in aliases.items() if name not in tensors or not torch.equal(tensor, tensors[name])
    ]
    if different:
        raise ValueError(
            f"{path} contradicts itself: backbone.* and encoder_q.0.* differ in {len(different)} tensors, "
            f"such as {different[0]}"
        )
    return _infer_fields(tensors, path), tensors


def _infer_fields(tensors: dict[str, torch.Tensor], path: str | Path) -> dict[str, Any]:
    """Sizes of the model from its tensors' shapes."""
    try:
        prefix = "mcl.backbone."
        backbone = resnet_name({name.removeprefix(prefix) for name in tensors if name.startswith(prefix)})
        if backbone is None:
            raise ValueError(f"{path}: no ResNet has its numbers of blocks")
        levels = len({name.split(".")[1] for name in tensors if name.startswith("predictors.")})
        weights = list(_WEIGHTS[:levels])
        weights[-1] = 1 - sum(weights[:-1])  # fewer levels: the last takes what is left of 1
        return {
            "backbone": backbone,
            "num_channels": tensors["mcl.backbone.conv1.weight"].shape[1],
            "fpn_channels": tensors["mcl.fpn.lateral.0.conv.weight"].shape[0],
            "region_convs": len({n.split(".")[3] for n in tensors if n.startswith("mcl.region_head.conv.")}),
            "hidden_dim": tensors["mcl.region_head.mlp.0.weight"].shape[0],
            "embedding_dim": tensors["mcl.region_head.mlp.3.weight"].shape[0],
            "montage_ratios": _RATIOS[:levels],
            "montage_fractions": _FRACTIONS[:levels],
            "level_weights": weights,
        }
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is not a whole MCL checkpoint: {error} is missing") from error
