"""timm networks as sources of C2..C5: which map has which stride, and the quirks of single families.

First stage of the flow: images -> backbone -> C2..C5 (strides 4, 8, 16, 32). Everything that depends on timm lives
here.

Source: paper section 3 (a plain ResNet with its four stages); published code `openselfsup/models/backbones/resnet.py`.
timm's ResNet is the same network with the same tensor names (torchvision's), so weights move freely between the two.

Differs from the published code: where a ResNet starts from nothing. timm draws convolutions by fan-out and lets the
last batch norm of each residual branch start at scale 0; published are fan-in and scale 1. The recipe of the paper asks
for the latter (`backbone_kwargs={"zero_init_last": False}`); by how much a draw is scaled, the batch norm behind each
convolution takes away.
"""

import functools
import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.models import load_model_config_from_hf
from torch import nn

REQUIRED_STRIDES = (4, 8, 16, 32)
"""Strides of C2, C3, C4, C5 in pixels."""

_INITIAL_ONLY = ("zero_init_last",)

# timm builds these for one input side unless told otherwise; MCL feeds any side.
_FAMILY_KWARGS: dict[str, dict[str, Any]] = {"swin_transformer": {"strict_img_size": False}}


@dataclass(frozen=True)
class BackboneDescription:
    """Where a timm network's feature maps stand, found without allocating its weights.

    Attributes:
        stage_names: `("stem", "stage1", ..., "stage4")`; no `"stem"` where the network has no map of stride 2.
        channels: Channels of each named stage.
        positions: Index of each named stage in the list that timm's `features_only` network returns.
    """

    stage_names: tuple[str, ...]
    channels: tuple[int, ...]
    positions: tuple[int, ...]


def build_timm_network(name: str, num_channels: int = 3, backbone_kwargs: dict[str, Any] | None = None) -> nn.Module:
    """A timm network that returns its feature maps, initialised by timm.

    All stages are built even where few are read, so that a checkpoint always holds the whole network.

    Args:
        name: timm architecture name, for instance `"resnet50"`.
        num_channels: Input channels.
        backbone_kwargs: More arguments for `timm.create_model`.

    Raises:
        ValueError: The name is unknown to timm, or the network has no feature maps.
    """
    if not timm.is_model(name):
        raise ValueError(f"backbone {name!r} is not a timm architecture; {_near(name)}")
    kwargs = timm_arguments(name, backbone_kwargs)
    try:
        return timm.create_model(name, pretrained=False, features_only=True, in_chans=num_channels, **kwargs)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"backbone {name!r} cannot be built as a feature extractor by timm: {error}") from error


def _near(name: str) -> str:
    near = get_close_matches(name.split(".")[0], timm.list_models(), n=3)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists the names"


def timm_arguments(name: str, backbone_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of `timm.create_model` for an architecture: those that its family needs here, and the given ones."""
    family = timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    return {**_FAMILY_KWARGS.get(family, {}), **(backbone_kwargs or {})}


def layer_arguments(backbone_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Those of the arguments that decide on a network's layers; the others only on the weights that it starts from.

    Example:
        >>> layer_arguments({"zero_init_last": False, "stem_width": 8})
        {'stem_width': 8}
    """
    return {name: value for name, value in (backbone_kwargs or {}).items() if name not in _INITIAL_ONLY}


def describe_timm_weights(name: str) -> dict[str, Any]:
    """What timm knows of pre-trained weights: `architecture`, `model_args`, and `pretrained_cfg` with `mean`, `std` and
    `license`.

    Args:
        name: `NAME`, `NAME.TAG` or `hf-hub:USER/NAME`, whose description is fetched.

    Raises:
        RuntimeError: The name is unknown to timm, or it has no weights of it.
    """
    if name.startswith("hf-hub:"):
        described, architecture, arguments = load_model_config_from_hf(name.removeprefix("hf-hub:"))
        return {"architecture": architecture, "model_args": arguments or {}, "pretrained_cfg": described}
    if not timm.is_model(name):
        raise RuntimeError(f"no such architecture; {_near(name)}")
    found = timm.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise RuntimeError("it has no weights of this architecture")
    architecture = name.split(".")[0]  # after the dot: a tag
    return {"architecture": architecture, "model_args": {}, "pretrained_cfg": found.to_dict()}


def describe_backbone(
    name: str, num_channels: int = 3, backbone_kwargs: dict[str, Any] | None = None
) -> BackboneDescription:
    """Names, channels and positions of the maps of a timm network.

    Raises:
        ValueError: The name is unknown, or the network lacks a map at one of the strides 4, 8, 16, 32.
    """
    return _describe(name, num_channels, json.dumps(backbone_kwargs or {}, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _describe(name: str, num_channels: int, backbone_kwargs: str) -> BackboneDescription:
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        network = build_timm_network(name, num_channels, json.loads(backbone_kwargs))
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    position_of = {stride: position for position, stride in enumerate(strides)}  # the last map of a stride wins
    missing = [stride for stride in REQUIRED_STRIDES if stride not in position_of]
    if missing:
        raise ValueError(
            f"backbone {name!r} has feature maps at strides {strides}; MCL needs 4, 8, 16 and 32 "
            "(ResNet, ConvNeXt, Swin and RegNet have them)"
        )
    named = [("stem", 2)] if 2 in position_of else []
    named += [(f"stage{index + 1}", stride) for index, stride in enumerate(REQUIRED_STRIDES)]
    positions = tuple(position_of[stride] for _, stride in named)
    return BackboneDescription(
        stage_names=tuple(stage for stage, _ in named),
        channels=tuple(channels[position] for position in positions),
        positions=positions,
    )


def run_timm_network(network: nn.Module, name: str, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """All maps of a timm network in `(N, C, H, W)` order.

    Args:
        network: From `build_timm_network`.
        name: Its architecture name, for messages.
        pixel_values: `(N, num_channels, H, W)` float.

    Raises:
        ValueError: The network refuses this input size.
    """
    try:
        maps = network(pixel_values)
    except AssertionError as error:  # timm asserts the input size in fixed-size families
        size = tuple(pixel_values.shape[-2:])
        raise ValueError(f"backbone {name!r} refuses inputs of {size[0]} x {size[1]} px: {error}") from error
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):  # Swin
        maps = [feature.permute(0, 3, 1, 2) for feature in maps]  # (N, H, W, C) -> (N, C, H, W)
    return list(maps)
