"""Box head and mask head with batch norm, and the predictors on top of them.

RoIAligned regions -> class scores and box shifts, or masks. The box head's convolutions are MCL's region head: same
blocks, same tensors. Architecture and initialisation are detectron2's `FastRCNNConvFCHead` (4 conv, 1 fc),
`FastRCNNOutputLayers` and `MaskRCNNConvUpsampleHead` with `NORM = "BN"`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from ..models.fpn import ConvNorm
from ..models.weight_init import init_linear


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision to float32; boxes and scores need it. Other types stay."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def init_prediction_convs(head: nn.Module) -> None:
    """Every convolution of a dense head: normal with standard deviation 0.01, bias 0 (detectron2); norms 1 and 0."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class MaskHead(nn.Module):
    """3x3 convolutions with ReLU, `(K, C, R, R)` -> `(K, C, R, R)`; with batch norm, or biases without `norm`."""

    def __init__(self, channels: int, num_convs: int, norm: bool, linear_widths: Sequence[int] = ()) -> None:
        super().__init__()
        self.conv = nn.ModuleList(ConvNorm(channels, channels, 3, norm) for _ in range(num_convs))
        for number, widths in enumerate(itertools.pairwise(linear_widths), 1):
            self.add_module(f"fc{number}", nn.Linear(*widths))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal fan-out, norms 1 and 0, biases 0."""
        block: Any
        for block in self.conv:
            nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
            block.init_norm()

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        for block in self.conv:
            regions = torch.relu_(block(regions))
        return regions


class BoxHead(MaskHead):
    """The same convolutions, and linear layers `fc1`, `fc2`, ... with ReLU: `(K, C, R, R)` -> `(K, last width)`."""

    def _linear_layers(self) -> list[Any]:
        return [layer for name, layer in self.named_children() if name != "conv"]

    def reset_parameters(self) -> None:
        """Convolutions as in the mask head, linear layers kaiming uniform with a = 1 ("caffe2 Xavier")."""
        super().reset_parameters()
        for linear in self._linear_layers():
            nn.init.kaiming_uniform_(linear.weight, a=1)
            nn.init.zeros_(linear.bias)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        features = super().forward(regions).flatten(start_dim=1)
        for linear in self._linear_layers():
            features = torch.relu_(linear(features))
        return features


class BoxPredictor(FastRCNNPredictor):
    """Class logits `(K, classes)` and box shifts `(K, 4 classes)`, in float32; class 0 is the background."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with standard deviation 0.01 (classes) and 0.001 (boxes)."""
        init_linear(self.cls_score, std=0.01)
        init_linear(self.bbox_pred, std=0.001)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, shifts = super().forward(x)
        return at_least_float32(logits), at_least_float32(shifts)


class MaskPredictor(MaskRCNNPredictor):
    """Mask logits of every class, `(K, C, R, R)` -> `(K, classes, 2 R, 2 R)`, in float32."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Up-convolution kaiming normal fan-out, the last convolution normal with standard deviation 0.001."""
        nn.init.kaiming_normal_(self.conv5_mask.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        nn.init.zeros_(self.conv5_mask.bias)
        nn.init.zeros_(self.mask_fcn_logits.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return at_least_float32(super().forward(input))
