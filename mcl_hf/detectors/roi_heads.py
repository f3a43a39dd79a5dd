"""Second stage of the R-CNNs: proposals -> boxes with classes, and masks; and the losses of both.

torchvision's `RoIHeads`, split into `losses` and `detections` so that either can be had in any mode, on aligned
RoIAlign and heads with batch norm. Masks are learned as in detectron2: their targets are aligned, too.
"""

import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.ops import roi_align

from .configuration_detector import MCLDetectorConfig
from .heads import BoxHead, BoxPredictor, MaskHead, MaskPredictor
from .proposals import GeneratorSampler
from .roi_align import PyramidRoIAlign


class RegionHeads(RoIHeads):
    """Box head, and mask head where asked for.

    Args:
        config: Of the detector.
        with_masks: Also the mask head.
    """

    def __init__(self, config: MCLDetectorConfig, with_masks: bool) -> None:
        classes = config.num_labels + 1  # class 0 is the background
        norm, masks = config.conv_norm == "batch_norm", {}
        pooling = (config.roi_sampling_ratio, config.roi_canonical_size, config.roi_aligned)
        if with_masks:
            masks = {
                "mask_roi_pool": PyramidRoIAlign(config.mask_pool_size, *pooling),
                "mask_head": MaskHead(config.fpn_channels, config.mask_head_convs, norm),
                "mask_predictor": MaskPredictor(config.fpn_channels, classes),
            }
        super().__init__(
            PyramidRoIAlign(config.box_pool_size, *pooling),
            BoxHead(
                config.fpn_channels,
                config.box_pool_size,
                config.box_head_convs,
                config.box_fc_dim,
                config.box_head_fcs,
                norm,
            ),
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
        """`loss_classifier`, `loss_box_reg` and, with masks, `loss_mask`: scalars.

        Args:
            pyramid: P2..P5, each `(N, C, H, W)`.
            proposals: For each image `(m, 4)` in px.
            targets: For each image `boxes` `(n, 4)` in px, `labels` `(n,)` from 1, and `masks` `(n, h, w)`.
        """
        # Of an image without proposals and objects the whole padded batch's area is a region of background: a loss over
        # no region is NaN, and every rank's gradients are waited for.
        height, width = (4 * side for side in pyramid[0].shape[-2:])
        nothing = [
            not len(image) and not len(target["boxes"]) for image, target in zip(proposals, targets, strict=True)
        ]
        whole = [0.0, 0.0, float(width), float(height)]
        proposals = [
            image.new_tensor([whole]) if empty else image for image, empty in zip(proposals, nothing, strict=True)
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
            losses["loss_mask"] = self._mask_logits(pyramid, regions).sum() * 0
            return losses
        logits = self._mask_logits(pyramid, regions)  # (K, classes, 2 R, 2 R)
        masks = [target["masks"] for target in targets]
        wanted = torch.cat(
            [mask_targets(*image, logits.shape[-1]) for image in zip(masks, regions, matched, strict=True)]
        )
        classes = torch.cat([image[chosen] for image, chosen in zip(labels, positives, strict=True)])
        own = logits[torch.arange(len(classes), device=classes.device), classes]  # (K, 2 R, 2 R)
        losses["loss_mask"] = F.binary_cross_entropy_with_logits(own, wanted.to(own.dtype))
        return losses

    def detections(
        self, pyramid: list[torch.Tensor], proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor]]:
        """Boxes with classes, and masks.

        Args:
            pyramid: P2..P5, each `(N, C, H, W)`.
            proposals: For each image `(m, 4)` in px.
            image_sizes: Height and width of each image without padding, px.

        Returns:
            For each image, best first: `boxes` `(d, 4)` in px, `scores` `(d,)`, `labels` `(d,)` from 0, and with masks
            `masks` `(d, 2 R, 2 R)`: probabilities within the box.
        """
        logits, box_shifts = self.box_predictor(self.box_head(self.box_roi_pool(pyramid, proposals)))
        boxes, scores, labels = self.postprocess_detections(logits, box_shifts, proposals, image_sizes)
        found = [
            {"boxes": image_boxes, "scores": image_scores, "labels": image_labels - 1}
            for image_boxes, image_scores, image_labels in zip(boxes, scores, labels, strict=True)
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
    """What the mask head is to say: each region's object, cut out by aligned RoIAlign, and 1 where half a cell or more
    is covered (detectron2's `BitMasks.crop_and_resize`; torchvision's are shifted by half a pixel, and soft).

    Args:
        masks: `(n, h, w)` uint8 of an image's objects.
        regions: `(k, 4)` x0, y0, x1, y1 in px.
        matches: `(k,)` int64, the object of each.
        side: Cells along a target's side.

    Returns:
        `(k, side, side)` bool.
    """
    rois = torch.cat([matches[:, None].to(regions), regions], dim=1)
    return roi_align(masks[:, None].to(rois), rois, side, sampling_ratio=0, aligned=True)[:, 0] >= 0.5


__all__ = ["RegionHeads", "mask_targets"]
