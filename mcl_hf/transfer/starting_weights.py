"""Weights to start from, with a report of how many of how many tensors each part got: nothing is loaded in silence, and
a part that was asked for and is incomplete is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import InputError
from ..models.configuration_mcl import IMAGENET_MEAN, IMAGENET_STD, MCLConfig
from ..models.modeling_mcl import MCLBackbone
from ..models.timm_backbone import describe_timm_weights
from ..models.weight_files import not_finite, read_json_object, read_safetensors, weights_in
from ..remote.checkpoints import MODEL_FILES, local_checkpoint
from ..retry import call_with_retries, is_transient, reason_of, without_secrets
from .torchvision_detectors import torchvision_description, torchvision_tensors

_PARTS = {
    "backbone.": "backbone",
    "fpn.": "FPN",
    "region_head.": "region head",
    "predictors.": "predictors",
    "target.": "target",
    "classifiers.": "classifiers",
}


@dataclass
class WeightReport:
    """How many of how many tensors of each part were loaded."""

    source: str
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> (loaded, all)
    copied: list[str] = field(default_factory=list)  # parts that the source lacks and that took another's values
    pixels: str = ""  # what is to be said of the pixels' statistics; nothing where they are ImageNet's

    def count(self, part: str, loaded: bool) -> None:
        """Count one tensor of a part."""
        before, total = self.parts.get(part, (0, 0))
        self.parts[part] = (before + loaded, total + 1)

    def __str__(self) -> str:
        counts = []
        for name, (loaded, total) in self.parts.items():
            new = " (copies the network)" if name in self.copied else "" if loaded else " (new)"
            counts.append(f"{name} {loaded}/{total}{new}")
        return f"weights from {self.source}: {', '.join(counts)}" + (f"; {self.pixels}" if self.pixels else "")


def read_checkpoint(source: str, config: MCLConfig) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, named as in `MCLForPreTraining` less the prefix `mcl.`.

    Args:
        source: `timm:NAME`, `torchvision:NAME` (a detector), a folder with `model.safetensors` of ours or of
            `timm.models.save_for_hf`, a `.safetensors` file, a file of a detector of torchvision, or a Hub repository
            `user/name[@revision]`.
        config: Of the model to be filled.

    Raises:
        ValueError: The source cannot be read as a checkpoint.
    """
    source = plain_source(source)
    if source.startswith("timm:"):
        return _timm_tensors(source.removeprefix("timm:"), config)
    if torchvision_description(source) is not None:
        return _finite(source, torchvision_tensors(source))
    path = local_checkpoint(source, MODEL_FILES, "timm:NAME, torchvision:NAME, ")
    if path.is_dir() and (path / "config.json").is_file():
        description = read_json_object(path / "config.json")
        if "architecture" in description and description.get("model_type") != MCLConfig.model_type:
            return _timm_tensors(f"local-dir:{path}", config)
    if path.is_file() and path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise ValueError(
            f"{source} is a pickled file that holds no detector of torchvision; it becomes a folder to start from by "
            f"mcl-hf import {source} FOLDER"
        )
    files = [file for file in ([path] if path.is_file() else weights_in(path)) if file.suffix == ".safetensors"]
    if not files:
        raise ValueError(f"no .safetensors weights in {source}")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= read_safetensors(file)
    tensors = {name.removeprefix("mcl."): tensor for name, tensor in _finite(source, tensors).items()}
    if not any(name.startswith(tuple(_PARTS)) for name in tensors):  # plain backbone names
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    return tensors


def _finite(source: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    broken = not_finite(tensors)
    if broken:
        raise ValueError(f"{source} holds NaN or infinite numbers in {len(broken)} tensors, such as {broken[0]}")
    return tensors


def _timm_tensors(name: str, config: MCLConfig) -> dict[str, torch.Tensor]:
    """Backbone tensors of a pre-trained timm network."""
    options = {"pretrained": True, "features_only": True, "in_chans": config.num_channels}
    network = _ask_timm(timm.create_model, name, **options, **(config.backbone_kwargs or {}))
    return {f"backbone.{key}": tensor for key, tensor in network.state_dict().items()}


def _ask_timm(function: Callable[..., Any], name: str, **kwargs: Any) -> Any:
    """`function(name)` of timm, which may fetch; its many kinds of errors become one line."""
    try:
        return call_with_retries(function, name, what=f"fetching timm:{name}", **kwargs)
    except Exception as error:  # unknown name, no pre-trained weights, no connection: timm raises many types
        reason = reason_of(error) if is_transient(error) else without_secrets(f"{error}\n".splitlines()[0])
        raise ValueError(f"timm cannot give weights for {name!r}: {reason}") from error


def plain_source(source: str) -> str:
    """timm's way of naming a folder, `timm:local-dir:FOLDER`, as the folder that it is; all else as it is."""
    return source.removeprefix("timm:local-dir:")


def starting_description(source: str) -> dict[str, Any]:
    """What a source (of `read_checkpoint`, or `random`) says of its weights, as its `config.json` has it, or timm would
    write it, or a detector of ours in place of torchvision's; empty where it says nothing. ValueError: it cannot be
    found, or its description is damaged."""
    source = plain_source(source)
    if source == "random":
        return {}
    if source.startswith("timm:"):
        return _ask_timm(describe_timm_weights, source.removeprefix("timm:"))
    of_torchvision = torchvision_description(source)
    if of_torchvision is not None:
        return of_torchvision
    path = local_checkpoint(source, ["config.json"], "random, timm:NAME, torchvision:NAME, ")
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json_object(file) if file.is_file() else {}


def check_start(source: str, what: str = "--init") -> None:
    """InputError where a source of weights is not there or does not say what it is, in a line that begins with `what`
    and the source: before anything else is opened. Weights are not read."""
    try:
        starting_description(source)
    except ValueError as error:
        raise InputError(f"{what} {source}: {' '.join(str(error).split())}") from error


def starting_backbone(description: Mapping[str, Any]) -> dict[str, Any]:
    """`backbone` and, where it has some, `backbone_kwargs` of a `starting_description`; empty where it names none."""
    if not description.get("architecture"):  # timm's own files have one, ours and transformers' have not
        kwargs = description.get("backbone_kwargs")
        named = isinstance(description.get("backbone"), str)
        return {"backbone": description["backbone"]} | ({"backbone_kwargs": kwargs} if kwargs else {}) if named else {}
    left_out = ("num_classes", "in_chans", "global_pool", "features_only", "out_indices")
    arguments = {k: v for k, v in (description.get("model_args") or {}).items() if k not in left_out}
    return {"backbone": description["architecture"]} | ({"backbone_kwargs": arguments} if arguments else {})


def starting_statistics(
    source: str | Mapping[str, Any], num_channels: int = 3
) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation per channel of the pixels, in [0, 1], that weights were trained with.

    Args:
        source: As of `starting_description`, or such a description.
        num_channels: Of the model that starts from them. Weights of three channels serve one, too, with their means.

    Returns:
        (mean, std), or None where the source does not say, or speaks of other channels.
    """
    description = starting_description(source) if isinstance(source, str) else source
    of_timm = description.get("pretrained_cfg") or description  # timm writes them flat in older files
    mean = description.get("image_mean") or of_timm.get("mean")
    std = description.get("image_std") or of_timm.get("std")
    if not mean or not std:
        return None
    if num_channels == 1 and len(mean) == len(std) == 3:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    if len(mean) != num_channels or len(std) != num_channels:
        return None
    return [float(value) for value in mean], [float(value) for value in std]


def pixels_line(of_start: tuple[list[float], list[float]] | None, mean: Sequence[float], std: Sequence[float]) -> str:
    """What is to be said of a model's `mean` and `std` beside the `starting_statistics` of its start; empty where all
    are ImageNet's."""

    def rounded(values: Sequence[float]) -> list[float]:
        return [round(value, 4) for value in values]

    def close(one: Sequence[float], other: Sequence[float]) -> bool:  # as timm and we round them
        return len(one) == len(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))

    own = f"mean {rounded(mean)} and std {rounded(std)}"
    if of_start is not None and not (close(of_start[0], mean) and close(of_start[1], std)):
        had = f"mean {rounded(of_start[0])} and std {rounded(of_start[1])}"
        return f"warning: its pixels had {had}, this model's have {own}"
    if of_start is None or (close(mean, IMAGENET_MEAN) and close(std, IMAGENET_STD)):
        return ""
    return f"pixels with its {own}, which are not ImageNet's"


def load_starting_weights(model: Any, source: str | Path) -> WeightReport:
    """Fill an MCL model from a checkpoint.

    Parts that the source lacks stay as they are, the backbone is asked for and must be whole. A target network that the
    source lacks becomes a copy of the online network. Of a detector of ours, the box head's convolutions become the
    region head's, whose projection stays new.

    Args:
        model: `MCLBackbone`, `MCLModel`, `MCLForPreTraining` or `MCLForSupervisedPreTraining`, changed in place.
        source: See `read_checkpoint`.

    Raises:
        ValueError: The source cannot be read, has no whole backbone, or a part of it has other shapes.
    """
    source = str(source)
    report = _fill(model, source)
    loaded, total = report.parts["backbone"]
    if loaded < total:
        raise ValueError(
            f"{source} does not hold the whole backbone {model.config.backbone!r}: {loaded}/{total} tensors"
        )
    if "target" in report.parts and report.parts["target"][0] < report.parts["target"][1]:
        model.reset_target()
        report.copied.append("target")
    return report


def rename_from_detector(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names in a detector (`mcl_hf.detection`) -> names in `MCLModel`; all others stay.

    The convolutions of an R-CNN's box head are the region head's. A RetinaNet's pyramid begins at P3: level i becomes
    i + 1, and P2's tensors are absent.
    """
    is_dense = any(name.startswith("retinanet.") for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^roi_heads\.box_head\.conv\.", "region_head.conv.", name)
        level = re.fullmatch(r"(fpn\.(?:lateral|output)\.)(\d+)(\..*)", name)
        if is_dense and level:
            name = f"{level[1]}{int(level[2]) + 1}{level[3]}"
        renamed[name] = tensor
    return renamed


@torch.no_grad()
def _fill(model: Any, source: str) -> WeightReport:
    """Copy a checkpoint's tensors by name; a tensor of another shape is an error, an absent one is counted."""
    config, report = model.config, WeightReport(source)
    tensors = rename_from_detector(read_checkpoint(source, config))
    shapes: list[str] = []
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("mcl.")
        part = next((title for prefix, title in _PARTS.items() if plain.startswith(prefix)), None)
        if part is None:
            continue  # the queue of past keys starts empty
        given = tensors.get(plain)
        if given is not None and given.shape != tensor.shape:
            shapes.append(f"{plain} {tuple(given.shape)} for {tuple(tensor.shape)}")
        elif given is not None:
            tensor.copy_(given)
        report.count(part, given is not None)
    if shapes:
        raise ValueError(f"{source} has other shapes than the model in {len(shapes)} tensors, such as {shapes[0]}")
    report.pixels = pixels_line(starting_statistics(source, config.num_channels), config.image_mean, config.image_std)
    return report


def load_backbone_weights(model: nn.Module, source: str | Path, verbose: bool = True) -> WeightReport:
    """Put a checkpoint's backbone into a transformers model built with an `MCLConfig` as `backbone_config`.

    transformers builds the backbone of DETR, Mask2Former, UperNet and others from a configuration alone, with random
    weights; this fills it, also where the model has replaced batch norm by a frozen one.

    Args:
        model: Holds at least one `MCLBackbone`; changed in place.
        source: See `read_checkpoint`.
        verbose: Whether the report is printed.

    Raises:
        ValueError: No `MCLBackbone` inside, the source cannot be read, or it lacks tensors of the backbone.

    Example:
        ```python
        config = DetrConfig(use_timm_backbone=False, backbone_config=AutoConfig.from_pretrained("my-run"), ...)
        model = DetrForObjectDetection(config)
        load_backbone_weights(model, "my-run")  # weights from my-run: backbone 265/265
        ```
    """
    backbones = [module for module in model.modules() if isinstance(module, MCLBackbone)]
    if not backbones:
        raise ValueError(f"{type(model).__name__} holds no MCLBackbone: build it with backbone_config=MCLConfig(...)")
    for backbone in backbones:
        report = _fill(backbone, str(source))
        loaded, total = report.parts["backbone"]
        if loaded < total:
            raise ValueError(f"{source} holds {loaded}/{total} tensors of the backbone {backbone.config.backbone!r}")
    if verbose:
        print(report)
    return report
