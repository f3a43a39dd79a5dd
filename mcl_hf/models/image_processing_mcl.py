"""`MCLImageProcessor`: images to the normalised tensors that every MCL model takes, and detections back to pixels.

Arguments and results of the post-processing are transformers' own (DETR, Mask2Former), so that `transformers.pipeline`
works.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torchvision.ops import box_convert, clip_boxes_to_image
from torchvision.transforms.v2 import functional as tvF
from transformers import PreTrainedConfig
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature, SizeDict
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs

from .mask_paste import paste_masks
from .pixels import orientation_of, scale_to_8_bit, to_pixels, turn_of


class MCLImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]  # a TypedDict without types
    """transformers' own, and `size_divisor`: with `do_pad`, sides are padded to a multiple of this, px."""

    size_divisor: int | None


class MCLImageProcessor(TorchvisionBackend):
    """Resize the shorter side, cut out the centre, scale to [0, 1] and normalise.

    The models take any height and width: switch `do_resize` or `do_center_crop` off to keep the whole picture. For a
    detector (`from_config` of its configuration) the longer side is bounded, nothing is cut off, and the images of a
    batch are padded with zeros at the right and the bottom: `pixel_mask` is 1 on the image.

    Pictures of any kind (16 bit, float, palette, CMYK, transparent, turned by EXIF) become what the decoder of training
    makes of them (`pixels`), upright, in as many channels as `image_mean` has values: `target_sizes` of the
    post-processing are then those of the upright picture. Arrays and tensors are taken as they lie; with `do_rescale`
    their numbers are scaled by the same rule, so that uint16 and floats in 0-1 give what uint8 gives.

    Example:
        >>> import numpy as np
        >>> from mcl_hf import MCLConfig, MCLImageProcessor
        >>> processor = MCLImageProcessor.from_config(MCLConfig(region_size=2))
        >>> image = np.zeros((80, 120, 3), dtype=np.uint8)
        >>> tuple(processor(image, return_tensors="pt").pixel_values.shape)
        (1, 3, 64, 64)
    """

    valid_kwargs = MCLImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 224}
    crop_size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = False
    size_divisor = 32

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **overrides: Any) -> "MCLImageProcessor":
        """The processor that fits an `MCLConfig` (the side it was pre-trained at) or `MCLDetectorConfig` (`min_size`,
        `max_size`, padding to `size_divisible`); `overrides` are other arguments of the processor."""
        fields: dict[str, Any] = {
            "image_mean": list(config.image_mean),
            "image_std": list(config.image_std),
            "do_convert_rgb": config.num_channels == 3,
        }
        if hasattr(config, "min_size"):  # a detector
            fields |= {
                "size": {"shortest_edge": config.min_size, "longest_edge": config.max_size},
                "do_center_crop": False,
                "do_pad": True,
                "size_divisor": config.size_divisible,
            }
        else:
            side = config.image_size
            fields |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        return cls(**{**fields, **overrides})

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """One picture, array or tensor as `(C, H, W)` in the channels of the model; see the class for odd kinds.
        ValueError: the picture has other channels than the model, and neither side has 1 or 3."""
        channels = 3 if do_convert_rgb else len(self.image_mean or ())
        if isinstance(image, Image.Image):
            if do_convert_rgb or channels != 3:
                pixels = to_pixels(image, channels, turn_of(image, orientation_of(image)))
                image, input_data_format = torch.from_numpy(pixels).permute(2, 0, 1), "channels_first"
        elif input_data_format is None and image.ndim == 3 and channels not in (1, 3, 4):
            input_data_format = infer_channel_dimension_format(image, num_channels=channels)
        image = super().process_image(image, do_convert_rgb, input_data_format, device, **kwargs)
        if channels == 1 and len(image) in (3, 4):
            image = tvF.rgb_to_grayscale(self.convert_to_rgb(image, "channels_first"))
        return image

    def convert_to_rgb(self, image: torch.Tensor, input_data_format: Any = None) -> torch.Tensor:
        """transformers' own, which with transparency takes uint8 and floats in 0-1 alone."""
        if len(image) == 4 and not (image.is_floating_point() and image.max() <= 1):
            image = _to_8_bit(image)
        return super().convert_to_rgb(image, input_data_format)

    def resize(self, image: torch.Tensor, size: SizeDict, **kwargs: Any) -> torch.Tensor:
        """transformers' own; no side of a strip becomes 0 px, as in training."""
        if size.shortest_edge and size.longest_edge:
            sides = get_size_with_aspect_ratio(image.shape[-2:], size.shortest_edge, size.longest_edge)
            size = SizeDict(height=max(1, sides[0]), width=max(1, sides[1]))
        return super().resize(image, size, **kwargs)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        *,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_pad: bool | None = None,
        size_divisor: int | None = None,
        pad_size: SizeDict | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """transformers' steps on 8-bit pixels; with `do_pad` also padding to a multiple of `size_divisor`, and
        `pixel_mask`."""
        if do_rescale and rescale_factor == 1 / 255:
            images = [_to_8_bit(image) for image in images]
        kwargs |= {"do_rescale": do_rescale, "rescale_factor": rescale_factor}
        if not do_pad:
            return super()._preprocess(images, do_pad=False, pad_size=None, return_tensors=return_tensors, **kwargs)
        unpadded = super()._preprocess(images, do_pad=False, pad_size=None, return_tensors=None, **kwargs)
        unit = size_divisor or 1
        if pad_size is None:
            height, width = (max(image.shape[axis] for image in unpadded["pixel_values"]) for axis in (-2, -1))
            pad_size = SizeDict(height=height + -height % unit, width=width + -width % unit)
        pixel_values, pixel_mask = self.pad(unpadded["pixel_values"], pad_size=pad_size, return_mask=True)
        return BatchFeature({"pixel_values": pixel_values, "pixel_mask": pixel_mask}, tensor_type=return_tensors)

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """A detector's output as boxes of each image.

        Args:
            outputs: Of a detector: `pred_boxes` with `pred_scores` and `pred_labels`, or with `logits` alone.
            threshold: Detections at or below this score are left out, as the detector's `box_score_thresh` has before.
            target_sizes: (height, width) of each original image, px; of fewer or more it is a ValueError. None: boxes
                stay relative, 0 to 1.

        Returns:
            For each image `scores` `(d,)`, `labels` `(d,)` from 0, `boxes` `(d, 4)` x0, y0, x1, y1; best first.
        """
        return [
            {"scores": scores[kept], "labels": labels[kept], "boxes": _in_pixels(boxes[kept], size)}
            for kept, scores, labels, boxes, size in _kept(outputs, threshold, target_sizes)
        ]

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
    ) -> list[dict[str, Any]]:
        """A Mask R-CNN's output as instances of each image.

        Args:
            outputs: Of `MCLForInstanceSegmentation`; without masks it is a ValueError.
            threshold: Detections at or below this score are left out.
            mask_threshold: Pixels above this probability belong to the mask.
            overlap_mask_area_threshold: Share of its own area that an instance needs visible in a map of segments.
            target_sizes: (height, width) of each original image, px, or a ValueError.
            return_coco_annotation: `segmentation` is a list of run lengths, one a segment.
            return_binary_maps: `segmentation` is `(d, height, width)` bool, one mask a detection, which may overlap.

        Returns:
            For each image `segmentation`: `(height, width)` int32, the id of the segment a pixel belongs to and -1
            elsewhere; and `segments_info`: `id`, `label_id` and `score` of each.
        """
        if getattr(outputs, "pred_masks", None) is None:
            raise ValueError("these outputs have no pred_masks: use MCLForInstanceSegmentation")
        if target_sizes is None:
            raise ValueError("masks need target_sizes: (height, width) of each original image")
        results = []
        for index, (kept, scores, labels, boxes, size) in enumerate(_kept(outputs, threshold, target_sizes)):
            probabilities = outputs.pred_masks[index][kept].float()  # (d, R, R)
            masks = paste_masks(
                probabilities, _in_pixels(boxes[kept], size), size, mask_threshold
            )  # (d, height, width)
            segments = [
                {"id": number, "label_id": label, "score": score}
                for number, (label, score) in enumerate(zip(labels[kept].tolist(), scores[kept].tolist(), strict=True))
            ]
            segmentation: Any = masks
            if not return_binary_maps:
                segmentation, visible = _flatten(masks, overlap_mask_area_threshold)
                segments = [segments[number] for number in visible]
            if return_coco_annotation:
                from transformers.models.detr.image_processing_detr import binary_mask_to_rle

                maps = masks if return_binary_maps else [segmentation == segment["id"] for segment in segments]
                segmentation = [binary_mask_to_rle(mask.to(torch.uint8).cpu()) for mask in maps]
            results.append({"segmentation": segmentation, "segments_info": segments})
        return results


def _to_8_bit(image: torch.Tensor) -> torch.Tensor:
    """Numbers of any kind as uint8, by the rule for pictures; on the image's device."""
    if image.dtype == torch.uint8:
        return image
    stored = image.double().cpu().numpy() if image.is_floating_point() else image.cpu().numpy()
    return torch.from_numpy(scale_to_8_bit(stored, image.dtype == torch.uint16)).to(image.device)


def _kept(outputs: Any, threshold: float, target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None) -> Any:
    """For each image: numbers of the rows above the threshold, scores, labels, relative boxes, its (height, width)."""
    batch = len(outputs.pred_boxes)
    sizes: list[tuple[int, int] | None] = [None] * batch
    if target_sizes is not None:
        if len(target_sizes) != batch:
            raise ValueError(f"target_sizes of {len(target_sizes)} images for outputs of {batch}")
        sizes = [(int(height), int(width)) for height, width in target_sizes]
    scores, labels = getattr(outputs, "pred_scores", None), getattr(outputs, "pred_labels", None)
    if scores is None or labels is None:  # transformers' Trainer keeps logits and boxes only
        scores, labels = outputs.logits.sigmoid().max(dim=-1)  # (N, D)
    kept = (scores > threshold) & (labels >= 0) & (scores > 0)
    rows = [image.nonzero()[:, 0] for image in kept]  # the host waits once an image, where a mask would at each use
    return zip(rows, scores, labels, outputs.pred_boxes, sizes, strict=True)


def _in_pixels(boxes: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """`(d, 4)` relative centre x, centre y, width, height -> x0, y0, x1, y1 in px, within the image."""
    boxes = box_convert(boxes, "cxcywh", "xyxy")
    if size is None:
        return boxes
    height, width = size
    scaled = torch.stack([side * length for side, length in zip(boxes.unbind(1), (width, height) * 2, strict=True)], 1)
    return clip_boxes_to_image(scaled, size)


def _flatten(masks: torch.Tensor, visible_share: float) -> tuple[torch.Tensor, list[int]]:
    """`(d, height, width)` masks, best first -> map of their numbers (-1: none), and the numbers that are on it."""
    segmentation = torch.full(masks.shape[1:], -1, dtype=torch.int32, device=masks.device)
    visible = []
    for number, mask in enumerate(masks):
        free = mask & (segmentation < 0)
        if free.any() and free.sum() > visible_share * mask.sum():
            segmentation[free] = number
            visible.append(number)
    return segmentation, visible
