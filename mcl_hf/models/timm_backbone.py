"""timm networks as sources of C2..C5 (strides 4, 8, 16, 32): first stage of the flow, and all that depends on timm.

Source: paper section 3; published code `openselfsup/models/backbones/resnet.py`. timm's ResNet is the same network with
the same tensor names.

Differs from the published code where a ResNet starts from nothing: timm draws convolutions by fan-out and lets the last
batch norm of each residual branch start at scale 0; published are fan-in and scale 1. The recipe of the paper asks for
the latter (`backbone_kwargs={"zero_init_last": False}`); how a draw is scaled, the batch norm behind it takes away.
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

_STRIDES = {"stem": 2, "stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}  # px; the stages are C2..C5
_INITIAL_ONLY = ("zero_init_last",)
# timm builds these for one input side unless told otherwise; MCL feeds any side.
_FAMILY_KWARGS: dict[str, dict[str, Any]] = {"swin_transformer": {"strict_img_size": False}}


@dataclass(frozen=True)
class BackboneDescription:
    """Where a timm network's feature maps stand, found without allocating its weights."""

    stage_names: tuple[str, ...]  # ("stem", "stage1", ..., "stage4"); no "stem" where no map has stride 2
    channels: tuple[int, ...]  # of each named stage
    positions: tuple[int, ...]  # of each in the list that timm's `features_only` network returns


def build_timm_network(name: str, num_channels: int = 3, backbone_kwargs: dict[str, Any] | None = None) -> nn.Module:
    """A timm network that returns its feature maps, initialised by timm; all stages, even where few are read, so that a
    checkpoint always holds the whole network. ValueError: timm does not know it, or it has no feature maps."""
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
    """Those of the arguments that decide on a network's layers; the others only on the weights that it starts from."""
    return {name: value for name, value in (backbone_kwargs or {}).items() if name not in _INITIAL_ONLY}


def describe_timm_weights(name: str) -> dict[str, Any]:
    """What timm knows of the weights of `NAME`, `NAME.TAG` or `hf-hub:USER/NAME`, whose description is fetched:
    `architecture`, `model_args`, and `pretrained_cfg` with `mean`, `std` and `license`. RuntimeError: it has none."""
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
    """The maps of a timm network. ValueError: timm does not know it, or a map at one of the four strides is lacking."""
    return _describe(name, num_channels, json.dumps(backbone_kwargs or {}, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _describe(name: str, num_channels: int, backbone_kwargs: str) -> BackboneDescription:
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        network = build_timm_network(name, num_channels, json.loads(backbone_kwargs))
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    position_of = {stride: position for position, stride in enumerate(strides)}  # the last map of a stride wins
    if not {4, 8, 16, 32} <= position_of.keys():
        raise ValueError(
            f"backbone {name!r} has feature maps at strides {strides}; MCL needs 4, 8, 16 and 32 "
            "(ResNet, ConvNeXt, Swin and RegNet have them)"
        )
    places = {name: position_of[stride] for name, stride in _STRIDES.items() if stride in position_of}
    widths = (channels[place] for place in places.values())
    return BackboneDescription(tuple(places), tuple(widths), tuple(places.values()))


def run_timm_network(network: nn.Module, name: str, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """All maps of a network from `build_timm_network`, in `(N, C, H, W)` order; `name` is for the ValueError that it
    refuses the size of `pixel_values`, `(N, num_channels, H, W)` float."""
    try:
        maps = network(pixel_values)
    except AssertionError as error:  # timm asserts the input size in fixed-size families
        size = tuple(pixel_values.shape[-2:])
        raise ValueError(f"backbone {name!r} refuses inputs of {size[0]} x {size[1]} px: {error}") from error
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):  # Swin
        maps = [feature.permute(0, 3, 1, 2) for feature in maps]  # (N, H, W, C) -> (N, C, H, W)
    return list(maps)
