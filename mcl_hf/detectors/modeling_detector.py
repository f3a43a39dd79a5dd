"""`MCLForInstanceSegmentation` (Mask R-CNN) and `MCLForObjectDetection` (Faster R-CNN, RetinaNet).

images -> backbone -> C2..C5 -> FPN -> P2..P5 (the parts of `MCLModel`, same tensors) -> torchvision's detector stages
-> losses, or boxes, classes and masks. Images come resized, normalised and padded (`MCLImageProcessor`), so that a
training loop chooses their sizes.

Source: paper section 4 (transfer to COCO), torchvision `models/detection`, detectron2 `Base-RCNN-FPN`.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.image_list import ImageList
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..models.fpn import FeaturePyramid
from ..models.modeling_mcl import MCLPreTrainedModel
from ..models.timm_backbone import describe_backbone
from .configuration_detector import MCLDetectorConfig
from .heads import BoxHead, BoxPredictor, MaskHead, MaskPredictor
from .proposals import ProposalHead, ProposalNetwork
from .retinanet import DenseDetector, DenseHead, ExtraLevels
from .roi_heads import RegionHeads
from .targets import make_targets, pack_detections

_SELF_INITIALISING = (BoxHead, BoxPredictor, MaskHead, MaskPredictor, ProposalHead, DenseHead, ExtraLevels)
_Labels = Sequence[Mapping[str, torch.Tensor]]


@dataclass
class MCLDetectorOutput(ModelOutput):
    """Output of the detectors; D is the largest number of detections of an image in the batch.

    Attributes:
        loss: Scalar, sum of `loss_dict`; where labels were given.
        loss_dict: Name -> scalar: `loss_classifier`, `loss_box_reg`, in the R-CNNs `loss_objectness` and
            `loss_rpn_box_reg`, in Mask R-CNN `loss_mask`.
        logits: `(N, D, num_labels)` log-odds of each detection's score at its class; the lowest finite number
            elsewhere.
        pred_boxes: `(N, D, 4)` centre x, centre y, width, height relative to the image without padding.
        pred_scores: `(N, D)` the detector's scores, descending; 0 in empty rows.
        pred_labels: `(N, D)` classes from 0; -1 in empty rows.
        pred_masks: `(N, D, 28, 28)` mask probabilities within each box (Mask R-CNN).
        hidden_states: The backbone's maps of all stages, where asked for; in eval mode zero beyond each image's own
            padded size.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    pred_scores: torch.Tensor | None = None
    pred_labels: torch.Tensor | None = None
    pred_masks: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class MCLDetectorPreTrainedModel(MCLPreTrainedModel):
    """What both detector classes share: backbone, pyramid, one of the two kinds of head, and `forward`."""

    config: MCLDetectorConfig

    def __init__(self, config: MCLDetectorConfig) -> None:
        super().__init__(config)
        self._add_timm_network(config)
        description = describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)
        self._positions = description.positions
        self.is_dense = config.is_dense
        channels, norm = description.channels[-4:], config.conv_norm == "batch_norm"
        self.fpn = FeaturePyramid(channels[1:] if self.is_dense else channels, config.fpn_channels, norm)
        if self.is_dense:
            self.extra_levels = ExtraLevels(channels[-1], config.fpn_channels, config.p6_of == "p5")
            self.retinanet = DenseDetector(config)
        else:
            self.rpn = ProposalNetwork(config)
            self.roi_heads = RegionHeads(config, with_masks=config.detector == "mask_rcnn")
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if self._built_on_meta and isinstance(module, _SELF_INITIALISING):
            module.reset_parameters()

    @classmethod
    def from_pretraining(cls, source: str, **kwargs: Any) -> "MCLDetectorPreTrainedModel":
        """A detector that starts from `source`, such as a pre-training checkpoint, with the coverage report printed.
        `num_labels` or `id2label`, `detector`, `parts` and fields of the configuration are those of
        `mcl_hf.detection.start_detector`, in which `source` is `init`, and so are errors."""
        from .start_detector import start_detector  # it builds these classes

        kwargs.setdefault("detector", "mask_rcnn" if cls is MCLForInstanceSegmentation else "faster_rcnn")
        model, _ = start_detector(str(source), model_class=cls, **kwargs)
        return model

    def backbone_maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """`(N, num_channels, H, W)` -> C2..C5."""
        return self._run_backbone(pixel_values)[-4:]

    def pyramid(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """`(N, num_channels, H, W)` -> P2..P6 (R-CNN: P6 is every other cell of P5) or P3..P7 (RetinaNet)."""
        return self._pyramid_of(self.backbone_maps(pixel_values))

    def _pyramid_of(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.is_dense:
            levels, _ = self.extra_levels(self.fpn(maps[1:]), [maps[-1]], [""] * 3)
            return levels
        levels = self.fpn(maps)
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: _Labels | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        generator: torch.Generator | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> MCLDetectorOutput:
        """Losses in training mode, detections in eval mode; both in eval mode with labels.

        In eval mode every image is computed at its own size padded to a multiple of `size_divisible`, images of equal
        padded size together, so that detections do not depend on the other images of the batch.

        Args:
            pixel_values: `(N, num_channels, H, W)` float, normalised, each image in the upper left corner.
            pixel_mask: `(N, H, W)`, 1 on the image and 0 on padding; None: no padding.
            labels: For each image `class_labels` `(n,)` int64 from 0 to `num_labels` - 1, `boxes` `(n, 4)` centre x,
                centre y, width, height relative to the image without padding, and for Mask R-CNN `masks` `(n, h, w)` of
                the image's size in this batch. An image may have no objects (n = 0).
            image_sizes: (height, width) of each image without padding, px, in place of `pixel_mask`; saves a wait for
                the device.
            generator: CPU generator for the sampling of anchors and proposals; None: torch's global state in training
                mode, always the same choice in eval mode.
            output_hidden_states: Also return the backbone's maps of all stages.

        Raises:
            ValueError: No labels in training mode, or inputs that do not fit each other.
        """
        if self.training and labels is None:
            raise ValueError("a detector in training mode needs labels; call eval() to detect")
        sizes = _image_sizes(pixel_values, pixel_mask, image_sizes)
        targets = None
        if labels is not None:
            first_class, with_masks = (0, False) if self.is_dense else (1, self.roi_heads.has_mask())
            targets = make_targets(labels, sizes, self.config.num_labels, first_class, with_masks, pixel_values.device)
        if not self.is_dense:
            if generator is None and not self.training and targets is not None:
                generator = torch.Generator().manual_seed(0)
            self.rpn.fg_bg_sampler.generator = self.roi_heads.fg_bg_sampler.generator = generator
        stages: list[list[torch.Tensor]] | None = [] if self._wants_hidden_states(output_hidden_states) else None
        found: dict[str, torch.Tensor] = {}
        if self.training:
            _, losses = self._run(pixel_values, sizes, targets, False, stages)
        else:
            detections, losses = self._run_by_size(pixel_values, sizes, targets, stages)
            found = pack_detections(detections, sizes, self.config.num_labels)
        return MCLDetectorOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            loss_dict=losses or None,
            **found,
            hidden_states=tuple(stages[0]) if stages else None,
        )

    def detections(
        self, pixel_values: torch.Tensor, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """What torchvision's detectors return: a dictionary for each image, in pixels of `pixel_values`.

        Args:
            pixel_values: `(N, num_channels, H, W)` float, normalised.
            image_sizes: (height, width) of each image without padding, px; None: no padding.

        Returns:
            For each image `boxes` `(d, 4)` x0, y0, x1, y1, `scores` and `labels` `(d,)`, best first; with Mask R-CNN
            `masks` `(d, 28, 28)`, probabilities within the box.

        Raises:
            ValueError: In training mode.
        """
        if self.training:
            raise ValueError("detections need eval mode: call eval() first")
        return self._run_by_size(pixel_values, _image_sizes(pixel_values, None, image_sizes), None)[0]

    def _run_by_size(
        self,
        pixel_values: torch.Tensor,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]] | None,
        stages: list[list[torch.Tensor]] | None = None,
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """`_run` on the images of each padded size; losses are means over the images, `stages` gets maps of all."""
        unit = self.config.size_divisible
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (height, width) in enumerate(sizes):
            groups.setdefault((math.ceil(height / unit) * unit, math.ceil(width / unit) * unit), []).append(index)
        detections: list[dict[str, torch.Tensor]] = [{} for _ in sizes]
        losses: dict[str, torch.Tensor] = {}
        for (height, width), members in groups.items():
            pixels = (pixel_values if len(groups) == 1 else pixel_values[members])[..., :height, :width]
            own_targets = None if targets is None else [targets[index] for index in members]
            found, group_losses = self._run(pixels, [sizes[index] for index in members], own_targets, True, stages)
            for index, image in zip(members, found, strict=True):
                detections[index] = image
            for name, loss in group_losses.items():
                losses[name] = losses.get(name, 0) + loss * (len(members) / len(sizes))
        if stages and len(groups) > 1:
            stages[:] = [_join_maps(stages, list(groups.values()))]
        return detections, losses

    def _run(
        self,
        pixel_values: torch.Tensor,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]] | None,
        with_detections: bool,
        stages: list[list[torch.Tensor]] | None,
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        """Detections and, where targets are given, losses of one padded batch; its maps are appended to `stages`."""
        unit = self.config.size_divisible
        bottom, right = -pixel_values.shape[-2] % unit, -pixel_values.shape[-1] % unit
        if bottom or right:
            pixel_values = F.pad(pixel_values, (0, right, 0, bottom))
        maps = self._run_backbone(pixel_values)
        if stages is not None:
            stages.append(maps)
        levels = self._pyramid_of(maps[-4:])
        images = ImageList(pixel_values, sizes)
        if self.is_dense:
            return self.retinanet(images, levels, targets, with_detections)
        proposals, losses = self.rpn(images, levels, targets)
        proposals = [image.detach() for image in proposals]
        if targets is not None:
            losses |= self.roi_heads.losses(levels[:4], proposals, targets)
        detections = self.roi_heads.detections(levels[:4], proposals, sizes) if with_detections else []
        return detections, losses


def _join_maps(parts: list[list[torch.Tensor]], members: list[list[int]]) -> list[torch.Tensor]:
    """Maps of parts of a batch, each of its own size, as maps of the whole one: `(N, C, largest H, largest W)`."""
    joined = []
    for maps in zip(*parts, strict=True):
        height, width = max(part.shape[2] for part in maps), max(part.shape[3] for part in maps)
        whole = maps[0].new_zeros(sum(map(len, members)), maps[0].shape[1], height, width)
        for images, part in zip(members, maps, strict=True):
            whole[images, :, : part.shape[2], : part.shape[3]] = part
        joined.append(whole)
    return joined


def _image_sizes(
    pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None, image_sizes: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """(height, width) of each image without padding."""
    batch, _, height, width = pixel_values.shape
    if image_sizes is not None:
        sizes = [(int(h), int(w)) for h, w in image_sizes]
    elif pixel_mask is not None:
        if pixel_mask.shape != (batch, height, width):
            raise ValueError(
                f"pixel_mask must have shape {(batch, height, width)} as pixel_values, got {tuple(pixel_mask.shape)}"
            )
        present = torch.stack([pixel_mask.bool().any(dim=2).sum(dim=1), pixel_mask.bool().any(dim=1).sum(dim=1)], dim=1)
        sizes = [(h, w) for h, w in present.tolist()]  # (N, 2)
    else:
        sizes = [(height, width)] * batch
    if len(sizes) != batch or any(not 0 < h <= height or not 0 < w <= width for h, w in sizes):
        raise ValueError(f"image sizes {sizes} do not fit pixel_values of shape {tuple(pixel_values.shape)}")
    return sizes


class MCLForInstanceSegmentation(MCLDetectorPreTrainedModel):
    """Mask R-CNN with FPN, batch norm in every head, and a box head that starts from MCL's region head.

    Example:
        >>> import torch
        >>> from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation
        >>> config = MCLDetectorConfig(backbone="resnet18", fpn_channels=16, box_fc_dim=32, num_labels=3)
        >>> model = MCLForInstanceSegmentation(config).train()
        >>> labels = {"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.6]])}
        >>> output = model(torch.rand(1, 3, 64, 96), labels=[{**labels, "masks": torch.ones(1, 64, 96)}])
        >>> sorted(output.loss_dict)
        ['loss_box_reg', 'loss_classifier', 'loss_mask', 'loss_objectness', 'loss_rpn_box_reg']
    """

    def __init__(self, config: MCLDetectorConfig) -> None:
        if config.detector != "mask_rcnn":
            raise ValueError(f"{config.detector} has no masks: use MCLForObjectDetection")
        super().__init__(config)


class MCLForObjectDetection(MCLDetectorPreTrainedModel):
    """Faster R-CNN or RetinaNet; a Mask R-CNN's folder opens as Faster R-CNN, without its mask head.

    Example:
        >>> import torch
        >>> from mcl_hf import MCLDetectorConfig, MCLForObjectDetection
        >>> config = MCLDetectorConfig(detector="retinanet", backbone="resnet18", fpn_channels=16, num_labels=3)
        >>> model = MCLForObjectDetection(config).eval()
        >>> output = model(torch.rand(1, 3, 64, 96))
        >>> output.logits.shape[-1], output.pred_boxes.shape[-1]
        (3, 4)
    """

    _keys_to_ignore_on_load_unexpected = [r"^roi_heads\.mask_(head|predictor)\."]

    def __init__(self, config: MCLDetectorConfig) -> None:
        if config.detector == "mask_rcnn":
            config = copy.deepcopy(config)
            config.detector = "faster_rcnn"
        super().__init__(config)
