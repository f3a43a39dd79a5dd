"""Labels in transformers' form -> targets in pixels, and detections in pixels -> transformers' form.

transformers' form is DETR's: `class_labels` from 0, `boxes` as centre x, centre y, width, height relative to the
image's own size (without padding). It survives any resizing; `post_process_object_detection` turns it into pixels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torchvision.ops import box_convert

LEAST_SIDE = 0.01
"""Of an object's box in px; detectors, torchvision's too, leave thinner boxes out of their detections."""


def relative_boxes(boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """`(n, 4)` x0, y0, x1, y1 in px of an image of (height, width) -> relative centre x, centre y, width, height."""
    height, width = image_size
    x, y, w, h = box_convert(boxes, "xyxy", "cxcywh").unbind(dim=1)
    return torch.stack([x / width, y / height, w / width, h / height], dim=1)


def pixel_boxes(boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """The inverse of `relative_boxes`. Sides are at least `LEAST_SIDE`: float32 may hold no thinner box at its place,
    and the loss of a box without width is infinite."""
    height, width = image_size
    x, y, w, h = boxes.unbind(dim=1)
    sides = [(w * width).clamp(min=LEAST_SIDE), (h * height).clamp(min=LEAST_SIDE)]
    return box_convert(torch.stack([x * width, y * height, *sides], dim=1), "cxcywh", "xyxy")


def make_targets(
    labels: Sequence[Mapping[str, torch.Tensor]],
    image_sizes: Sequence[tuple[int, int]],
    num_labels: int,
    first_class: int,
    with_masks: bool,
    device: torch.device,
) -> list[dict[str, torch.Tensor]]:
    """Labels as torchvision's losses read them.

    Args:
        labels: As of the detectors' `forward`; n may be 0.
        image_sizes: Height and width of each image without padding, px.
        num_labels: Classes.
        first_class: Number of class 0 in the losses: 1 where 0 is the background.
        with_masks: Masks (uint8) are needed.
        device: Where the losses are computed.

    Raises:
        ValueError: Something missing or of another shape; and, looked at on the CPU only, a class out of range or a box
            without area.
    """
    if len(labels) != len(image_sizes):
        raise ValueError(f"labels of {len(labels)} images for {len(image_sizes)} images")
    targets = []
    for index, (label, size) in enumerate(zip(labels, image_sizes, strict=True)):
        needed = ("class_labels", "boxes", "masks") if with_masks else ("class_labels", "boxes")
        missing = [name for name in needed if name not in label]
        if missing:
            raise ValueError(f"labels of image {index} lack {', '.join(missing)}")
        classes, boxes = label["class_labels"], label["boxes"]
        if classes.dim() != 1 or boxes.shape != (len(classes), 4):
            raise ValueError(
                f"labels of image {index} need class_labels (n,) and boxes (n, 4), got {tuple(classes.shape)} and "
                f"{tuple(boxes.shape)}"
            )
        if classes.device.type == "cpu" and len(classes):
            if int(classes.min()) < 0 or int(classes.max()) >= num_labels:
                raise ValueError(f"labels of image {index} have classes outside of 0 to {num_labels - 1}")
            if (boxes[:, 2:] <= 0).any():
                raise ValueError(f"labels of image {index} have a box without width or height")
        wide = torch.promote_types(boxes.dtype, torch.float32)
        target = {
            "boxes": pixel_boxes(boxes.to(device, wide), size),
            "labels": classes.to(device, torch.int64) + first_class,
        }
        if with_masks:
            masks = label["masks"]
            fit = masks.dim() == 3 and len(masks) == len(classes)
            if not fit or (len(masks) and (masks.shape[1] < size[0] or masks.shape[2] < size[1])):
                raise ValueError(
                    f"masks of image {index} need shape (n, height, width) of the image that the model gets, "
                    f"({len(classes)}, {size[0]}, {size[1]}), got {tuple(masks.shape)}"
                )
            target["masks"] = masks.to(device, torch.uint8)
        targets.append(target)
    return targets


def pack_detections(
    detections: Sequence[Mapping[str, torch.Tensor]], image_sizes: Sequence[tuple[int, int]], num_labels: int
) -> dict[str, torch.Tensor]:
    """Detections of a batch as rectangular tensors; images with fewer detections are filled up with empty rows.

    Args:
        detections: For each image `boxes` in px, `scores`, `labels` and maybe `masks`.
        image_sizes: Height and width of each image without padding, px.
        num_labels: Classes.

    Returns:
        Fields of `MCLDetectorOutput` from `logits` to `pred_masks`, by name.
    """
    lowest = torch.finfo(detections[0]["scores"].dtype).min
    columns: dict[str, list[torch.Tensor]] = {"logits": [], "pred_boxes": []}
    for image, size in zip(detections, image_sizes, strict=True):
        log_odds = image["scores"].logit().clamp(lowest, -lowest)
        logits = log_odds.new_full((len(log_odds), num_labels), lowest)
        columns["logits"].append(logits.scatter_(1, image["labels"][:, None], log_odds[:, None]))
        columns["pred_boxes"].append(relative_boxes(image["boxes"], size))
        for name in ("scores", "labels", "masks") if "masks" in image else ("scores", "labels"):
            columns.setdefault(f"pred_{name}", []).append(image[name])
    filling = {"logits": lowest, "pred_labels": -1}
    return {
        name: nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filling.get(name, 0))
        for name, rows in columns.items()
    }
