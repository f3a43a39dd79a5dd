"""Second stage of the R-CNNs: proposals -> boxes with classes, and masks; and the losses of both.

torchvision's `RoIHeads`, split into `losses` and `detections` so that either can be had in any mode, on aligned
RoIAlign and heads with batch norm. Masks are learned as in detectron2: their targets are aligned, too.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from ..models.region_cut import cut_regions, to_rois
from .configuration_detector import MCLDetectorConfig
from .heads import BoxHead, BoxPredictor, MaskHead, MaskPredictor
from .proposals import GeneratorSampler


class PyramidRoIAlign(nn.Module):
    """RoIAlign from the pyramid level that fits each region, as detectron2's `ROIPooler` with `ROIAlignV2`.

    Differs from torchvision's `MultiScaleRoIAlign`: strides are given instead of guessed from the first image, and
    half-precision maps are read in float32.

    Args:
        output_size: R, cells.
        sampling_ratio: Samples a cell and side; 0 adapts it to the box.
        canonical_size: Side of a box that reads P4, px; each halving reads one level finer.
        aligned: Aligned by half a cell.
    """

    def __init__(
        self, output_size: int, sampling_ratio: int = 0, canonical_size: int = 224, aligned: bool = True
    ) -> None:
        super().__init__()
        self.cut = (output_size, sampling_ratio, aligned)
        self.level_of = LevelMapper(k_min=2, k_max=5, canonical_scale=canonical_size)

    def forward(self, pyramid: Sequence[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """P2..P5, each `(N, C, H, W)`, and for each image boxes `(n_i, 4)` in px -> `(sum n_i, C, R, R)`, image by
        image, in the maps' dtype."""
        return cut_regions(pyramid, to_rois(boxes, pyramid[0]), self.level_of(boxes), *self.cut)


class RegionHeads(RoIHeads):
    """Box head, and mask head where asked for. Everywhere, `pyramid` is P2..P5, each `(N, C, H, W)`, and `proposals`
    are `(m, 4)` in px for each image."""

    def __init__(self, config: MCLDetectorConfig, with_masks: bool) -> None:
        classes = config.num_labels + 1  # class 0 is the background
        channels, norm, masks = config.fpn_channels, config.conv_norm == "batch_norm", {}
        linear_widths = [channels * config.box_pool_size**2, *[config.box_fc_dim] * config.box_head_fcs]
        pooling = (config.roi_sampling_ratio, config.roi_canonical_size, config.roi_aligned)
        if with_masks:
            masks = {
                "mask_roi_pool": PyramidRoIAlign(config.mask_pool_size, *pooling),
                "mask_head": MaskHead(channels, config.mask_head_convs, norm),
                "mask_predictor": MaskPredictor(channels, classes),
            }
        super().__init__(
            PyramidRoIAlign(config.box_pool_size, *pooling),
            BoxHead(channels, config.box_head_convs, norm, linear_widths),
            BoxPredictor(config.box_fc_dim, classes),
            fg_iou_thresh=config.box_fg_iou_thresh,
            bg_iou_thresh=config.box_bg_iou_thresh,
            batch_size_per_image=config.box_batch_size_per_image,
            positive_fraction=config.box_positive_fraction,
            bbox_reg_weights=tuple(config.bbox_reg_weights),
            score_thresh=config.box_score_thresh,
            nms_thresh=config.box_nms_thresh,
            detections_per_img=config.box_detections_per_img,
            **masks,
        )
        self.fg_bg_sampler = GeneratorSampler(config.box_batch_size_per_image, config.box_positive_fraction)

    def losses(
        self, pyramid: list[torch.Tensor], proposals: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """`loss_classifier`, `loss_box_reg` and, with masks, `loss_mask`: scalars. Targets are `boxes` `(n, 4)` in px,
        `labels` `(n,)` from 1, and `masks` `(n, h, w)`."""
        # Of an image without proposals and objects the whole padded batch's area is a region of background: a loss over
        # no region is NaN, and every rank's gradients are waited for.
        height, width = (4 * side for side in pyramid[0].shape[-2:])
        proposals = [
            image if len(image) or len(target["boxes"]) else image.new_tensor([[0.0, 0.0, width, height]])
            for image, target in zip(proposals, targets, strict=True)
        ]
        proposals, matches, labels, shifts = self.select_training_samples(proposals, targets)
        logits, box_shifts = self.box_predictor(self.box_head(self.box_roi_pool(pyramid, proposals)))
        loss_classifier, loss_boxes = fastrcnn_loss(logits, box_shifts, labels, shifts)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_boxes}
        if not self.has_mask():
            return losses
        positives = [torch.where(image > 0)[0] for image in labels]
        regions = [image[chosen] for image, chosen in zip(proposals, positives, strict=True)]
        matched = [image[chosen] for image, chosen in zip(matches, positives, strict=True)]
        if not any(len(chosen) for chosen in positives):
            # Without any object the mask head sees one background region, unweighted: batch norm (over ranks, too) has
            # something to normalise, and every parameter a gradient, which is 0.
            first = next(index for index, image in enumerate(proposals) if len(image))
            regions[first] = proposals[first][:1]
            return losses | {"loss_mask": self._mask_logits(pyramid, regions).sum() * 0}
        logits = self._mask_logits(pyramid, regions)  # (K, classes, 2 R, 2 R)
        images = zip([target["masks"] for target in targets], regions, matched, strict=True)
        wanted = torch.cat([mask_targets(*image, logits.shape[-1]) for image in images])
        classes = torch.cat([image[chosen] for image, chosen in zip(labels, positives, strict=True)])
        own = logits[torch.arange(len(classes), device=classes.device), classes]  # (K, 2 R, 2 R)
        return losses | {"loss_mask": F.binary_cross_entropy_with_logits(own, wanted.to(own.dtype))}

    def detections(
        self, pyramid: list[torch.Tensor], proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor]]:
        """For each image of a size (height, width) without padding, best first: `boxes` `(d, 4)` in px, `scores`
        `(d,)`, `labels` `(d,)` from 0, and with masks `masks` `(d, 2 R, 2 R)`: probabilities within the box."""
        logits, box_shifts = self.box_predictor(self.box_head(self.box_roi_pool(pyramid, proposals)))
        boxes, scores, labels = self.postprocess_detections(logits, box_shifts, proposals, image_sizes)
        found = [
            {"boxes": one, "scores": score, "labels": label - 1}
            for one, score, label in zip(boxes, scores, labels, strict=True)
        ]
        if self.has_mask():
            masks = maskrcnn_inference(self._mask_logits(pyramid, boxes), labels)  # N x (d, 1, 2R, 2R)
            for image, image_masks in zip(found, masks, strict=True):
                image["masks"] = image_masks[:, 0]
        return found

    def _mask_logits(self, pyramid: list[torch.Tensor], regions: list[torch.Tensor]) -> torch.Tensor:
        """`(sum of regions, classes, 2 R, 2 R)`."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(pyramid, regions)))


def mask_targets(masks: torch.Tensor, regions: torch.Tensor, matches: torch.Tensor, side: int) -> torch.Tensor:
    """What the mask head is to say, bool `(k, side, side)`: of each region `(k, 4)` in px its object, whose number in
    `masks` `(n, h, w)` stands in `matches` `(k,)`, cut out by aligned RoIAlign, and 1 where half a cell or more is
    covered (detectron2's `BitMasks.crop_and_resize`; torchvision's are shifted by half a pixel, and soft)."""
    rois = torch.cat([matches[:, None].to(regions), regions], dim=1)
    return roi_align(masks[:, None].to(rois), rois, side, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
