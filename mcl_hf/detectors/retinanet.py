"""RetinaNet's dense head on P3..P7: classes and boxes of every anchor, focal loss, and detections.

torchvision's head, losses and post-processing on anchors of fixed stride; P6 and P7 come from C5 by convolutions, as in
detectron2, or from P5. Every class has its own sigmoid: there is no background class.
"""

import math
from functools import partial

import torch
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from .configuration_detector import MCLDetectorConfig
from .heads import at_least_float32, init_prediction_convs
from .proposals import FixedStrideAnchors

DENSE_STRIDES = (8, 16, 32, 64, 128)
"""Of P3..P7, px."""
_GROUPS = 32  # of torchvision's group norm
_PRIOR = 0.01  # of an object at an anchor, at the start: keeps the first steps' focal loss small


class ExtraLevels(LastLevelP6P7):
    """P6 and P7: 3x3 convolutions of stride 2 on C5 (`in_channels`) or on P5 (`channels`)."""

    def __init__(self, in_channels: int, channels: int, of_p5: bool = False) -> None:
        super().__init__(channels if of_p5 else in_channels, channels)
        self.use_P5 = of_p5

    def reset_parameters(self) -> None:
        """Kaiming uniform with a = 1, bias 0."""
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)


class DenseHead(RetinaNetHead):
    """Class logits `(N, anchors, num_labels)` and box shifts `(N, anchors, 4)`, in float32."""

    def reset_parameters(self) -> None:
        """Normal with standard deviation 0.01; the class bias so that every anchor starts at 1 % probability."""
        init_prediction_convs(self)
        nn.init.constant_(self.classification_head.cls_logits.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: at_least_float32(values) for name, values in super().forward(x).items()}


class DenseDetector(RetinaNet):
    """Head, anchors, losses and post-processing; backbone, pyramid and image transforms live outside of it."""

    def __init__(self, config: MCLDetectorConfig) -> None:
        nn.Module.__init__(self)  # torchvision's constructor would also build what lives outside
        self.anchor_generator = FixedStrideAnchors(
            list(config.anchor_sizes or ()), config.aspect_ratios, DENSE_STRIDES, config.fixed_anchor_strides
        )
        self.anchors_per_cell = self.anchor_generator.num_anchors_per_location()[0]
        norm = partial(nn.GroupNorm, _GROUPS) if config.dense_norm == "group_norm" else None
        self.head = DenseHead(config.fpn_channels, self.anchors_per_cell, config.num_labels, norm)
        self.head.regression_head._loss_type = config.dense_box_loss
        thresholds = (config.box_fg_iou_thresh, config.box_bg_iou_thresh)
        self.proposal_matcher = Matcher(*thresholds, allow_low_quality_matches=True)
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.score_thresh, self.nms_thresh = config.box_score_thresh, config.box_nms_thresh
        self.detections_per_img, self.topk_candidates = config.box_detections_per_img, config.topk_candidates

    def forward(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        targets: list[dict[str, torch.Tensor]] | None = None,
        with_detections: bool = True,
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """P3..P7, each `(N, fpn_channels, H / stride, W / stride)` -> for each image `boxes` `(d, 4)` in px, `scores`
        and `labels` `(d,)` from 0, best first; and `loss_classifier` and `loss_box_reg` where targets with such `boxes`
        and `labels` are given."""
        outputs = self.head(features)
        anchors = self.anchor_generator(images, features)
        losses = {}
        if targets is not None:
            found = self.compute_loss(targets, outputs, anchors)
            losses = {"loss_classifier": found["classification"], "loss_box_reg": found["bbox_regression"]}
        if not with_detections:
            return [], losses
        counts = [level[0, 0].numel() * self.anchors_per_cell for level in features]
        split = {name: list(values.split(counts, dim=1)) for name, values in outputs.items()}
        detections = self.postprocess_detections(
            split, [list(image.split(counts)) for image in anchors], images.image_sizes
        )
        return detections, losses
