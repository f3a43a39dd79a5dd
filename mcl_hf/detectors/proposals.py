"""Region proposal network: P2..P6 -> proposals, and its two losses. First stage of the R-CNNs.

torchvision's, with three changes: losses come whenever targets are given (also in eval mode), half-precision outputs
become float32 before boxes are made from them, and the random choice of anchors can come from a generator.
"""

import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from .anchors import FixedStrideAnchors, at_least_float32
from .configuration_detector import MCLDetectorConfig
from .heads import init_prediction_convs

PROPOSAL_STRIDES = (4, 8, 16, 32, 64)
"""Of P2..P6, px."""


class GeneratorSampler(BalancedPositiveNegativeSampler):
    """torchvision's choice of positives and negatives, from `generator` (a CPU generator) or the global state."""

    generator: torch.Generator | None = None

    def __call__(self, matched_idxs: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """For each image two uint8 masks `(n,)`: the chosen positives (> 0) and the chosen negatives (0)."""
        if self.generator is None:
            return super().__call__(matched_idxs)
        chosen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for matches in matched_idxs:
            room = self.batch_size_per_image
            for masks, candidates, limit in (
                (chosen[0], matches >= 1, int(room * self.positive_fraction)),
                (chosen[1], matches == 0, room),
            ):
                places = torch.where(candidates)[0]
                limit = min(len(places), limit, room)
                room -= limit
                order = torch.randperm(len(places), generator=self.generator)[:limit].to(places.device)
                mask = torch.zeros_like(matches, dtype=torch.uint8)
                mask[places[order]] = 1
                masks.append(mask)
        return chosen


class ProposalHead(RPNHead):
    """Objectness and box shifts of every anchor, in float32."""

    def reset_parameters(self) -> None:
        """Normal with standard deviation 0.01, bias 0."""
        init_prediction_convs(self)

    def forward(self, x: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        logits, shifts = super().forward(x)
        return [at_least_float32(level) for level in logits], [at_least_float32(level) for level in shifts]


class ProposalNetwork(RegionProposalNetwork):
    """Anchors, head, NMS and losses of the first stage."""

    def __init__(self, config: MCLDetectorConfig) -> None:
        anchors = FixedStrideAnchors(
            list(config.anchor_sizes or ()), config.aspect_ratios, PROPOSAL_STRIDES, config.fixed_anchor_strides
        )
        super().__init__(
            anchors,
            ProposalHead(config.fpn_channels, anchors.num_anchors_per_location()[0], config.rpn_conv_depth),
            fg_iou_thresh=config.rpn_fg_iou_thresh,
            bg_iou_thresh=config.rpn_bg_iou_thresh,
            batch_size_per_image=config.rpn_batch_size_per_image,
            positive_fraction=config.rpn_positive_fraction,
            pre_nms_top_n={"training": config.rpn_pre_nms_top_n_train, "testing": config.rpn_pre_nms_top_n_test},
            post_nms_top_n={"training": config.rpn_post_nms_top_n_train, "testing": config.rpn_post_nms_top_n_test},
            nms_thresh=config.rpn_nms_thresh,
            score_thresh=config.rpn_score_thresh,
        )
        self.fg_bg_sampler = GeneratorSampler(config.rpn_batch_size_per_image, config.rpn_positive_fraction)

    def forward(
        self, images: ImageList, features: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Proposals, and the losses where targets are given.

        Args:
            images: The padded batch `(N, C, H, W)` and the size of each image in it.
            features: P2..P6, each `(N, fpn_channels, H / stride, W / stride)`.
            targets: For each image `boxes` `(n, 4)` in px.

        Returns:
            For each image `(m, 4)` x0, y0, x1, y1 in px, best first; and `loss_objectness`, `loss_rpn_box_reg`.
        """
        objectness, shifts = self.head(features)
        anchors = self.anchor_generator(images, features)
        anchors_of_level = [level[0].numel() for level in objectness]
        objectness, shifts = concat_box_prediction_layers(objectness, shifts)  # (N sum HWA, 1), (N sum HWA, 4)
        boxes = self.box_coder.decode(shifts.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, objectness, images.image_sizes, anchors_of_level)
        if targets is None:
            return proposals, {}
        labels, matched_boxes = self.assign_targets_to_anchors(anchors, targets)
        loss_objectness, loss_boxes = self.compute_loss(
            objectness, shifts, labels, self.box_coder.encode(matched_boxes, anchors)
        )
        return proposals, {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_boxes}
