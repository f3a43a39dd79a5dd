"""Anchors, and the region proposal network on them: P2..P6 -> proposals, and its two losses. First stage of the R-CNNs.

torchvision's, with four changes: anchors stand at given strides, losses come whenever targets are given (also in eval
mode), half-precision outputs become float32 before boxes are made from them, and the random choice of anchors can come
from a generator.
"""

from collections.abc import Sequence

import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from .configuration_detector import MCLDetectorConfig
from .heads import at_least_float32, init_prediction_convs

PROPOSAL_STRIDES = (4, 8, 16, 32, 64)
"""Of P2..P6, px."""


class FixedStrideAnchors(AnchorGenerator):
    """torchvision's anchors, in float32, with one given stride a level, as in detectron2.

    torchvision derives a level's stride from the padded image's size, so that the anchors of P6 and P7 move with the
    padding (800 px: every 61 px instead of 64), and builds anchors in the maps' precision, where bf16 is coarser than
    4 px. On images whose sides are multiples of the coarsest stride both give the same numbers.

    Args:
        sizes: For each level the sides of its square anchors, px.
        aspect_ratios: Height by width, the same on all levels.
        strides: Of each level, px.
        fixed: False keeps torchvision's strides, for detectors that were trained with them.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        fixed: bool = True,
    ) -> None:
        super().__init__(tuple(tuple(level) for level in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.strides, self.fixed = strides, fixed

    def forward(self, image_list: ImageList, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """For each image `(sum of H W A, 4)` x0, y0, x1, y1 in px, level by level, row by row, anchor by anchor."""
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.set_cell_anchors(dtype, feature_maps[0].device)
        sizes = [list(level.shape[-2:]) for level in feature_maps]
        strides = [[stride, stride] for stride in self.strides]
        if not self.fixed:
            height, width = image_list.tensors.shape[-2:]
            strides = [[height // rows, width // columns] for rows, columns in sizes]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors] * len(image_list.image_sizes)


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
        return list(map(at_least_float32, logits)), list(map(at_least_float32, shifts))


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
        """P2..P6, each `(N, fpn_channels, H / stride, W / stride)` -> for each image proposals `(m, 4)` x0, y0, x1, y1
        in px, best first; and `loss_objectness` and `loss_rpn_box_reg` where targets with `boxes` in px are given."""
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
