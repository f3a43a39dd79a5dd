"""Boxes and places in float32 where a detector of transformers runs in half precision.

Its own code makes boxes, anchors and the places that attention reads at in the dtype of the layer before them, which
autocast makes half: bfloat16 rounds a place at 700 px to 4 px. What makes them runs in float32 here, or gives float32;
all other layers stay half. Without autocast nothing changes.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

_HALF = (torch.float16, torch.bfloat16)
_BOX_LAYERS = re.compile(r"(bbox_embed|bbox_head|bbox_predictor)(\.\d+)?$|(^|\.)integral$")
_MAPS_READ_AT_PLACES = re.compile(r"input_proj\w*(\.\d+)?$")
_POSITIONS = re.compile(r"position_embedd(ing|er)$")


def keep_boxes_in_float32(model: nn.Module) -> None:
    """Change the layers that boxes and places come from, known by their names in transformers."""
    for name, module in model.named_modules():
        if _BOX_LAYERS.search(name) and not isinstance(module, nn.ModuleList):
            module.forward = partial(_without_autocast, module.forward)
        elif _MAPS_READ_AT_PLACES.search(name):
            module.register_forward_hook(lambda module, inputs, output: _wide(output))
        elif _POSITIONS.search(name):
            module.register_forward_pre_hook(_in_float32, with_kwargs=True)


def _without_autocast(forward: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    wide = tuple(map(_wide, inputs))
    with torch.autocast(inputs[0].device.type, enabled=False):
        return forward(*wide)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Half to float32 under autocast; a model whose weights are half stays half."""
    if tensor.dtype in _HALF and torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor


def _in_float32(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The dtype among the inputs, in which transformers' code computes positions."""
    devices = [one for one in (*inputs, *named.values()) if isinstance(one, torch.device)]
    if not any(torch.is_autocast_enabled(device.type) for device in devices):
        return inputs, named

    def wide(one: Any) -> Any:
        return torch.float32 if isinstance(one, torch.dtype) and one in _HALF else one

    return tuple(map(wide, inputs)), {name: wide(one) for name, one in named.items()}
