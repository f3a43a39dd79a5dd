"""A detector over annotated images: decode, batch, detect, and give back boxes and masks in px of the originals.

Flow: detection_data -> **predict_data** -> results -> evaluate. Every detector that transformers can open goes the same
way: `processor(images)`, `model(**inputs)`, `processor.post_process_...`.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..annotations.detection_data import DetectionData, DetectionItem
from ..annotations.masks import encode_masks, mask_boxes
from ..data.decode import BrokenImage
from ..data.workers import batches_of, start_worker
from ..engine.arithmetic import chosen_precision
from ..engine.options import Precision
from ..errors import InputError
from ..models.collectives import rank, world_size
from ..models.mask_paste import paste_masks
from .results import ImageDetections

MOST_DETECTIONS = 100
"""Of an image, the best by score: COCO counts no more."""


def match_categories(id2label: dict[int, str], data: DetectionData) -> np.ndarray:
    """Model's class -> class index of the data, int64 `(classes of the model,)`, by name; -1: not among the data's.

    Names that say nothing (LABEL_0, LABEL_1, ...) are matched by number where there are as many of them.

    Raises:
        InputError: the model does not know a category of the data.
    """
    names = [id2label[index] for index in range(len(id2label))]
    if len(names) == data.num_labels and all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return np.arange(len(names))
    unknown = [name for name in data.category_names if name not in names]
    if unknown:
        raise InputError(
            f"the checkpoint knows the classes {_listed(names)}, but not {_listed(unknown)} of {data.source}: evaluate "
            "on data with its categories, or fine-tune for these"
        )
    return np.array([data.label2id.get(name, -1) for name in names], np.int64)


def inputs_of(processor: Any, images: Iterable[np.ndarray]) -> dict[str, torch.Tensor]:
    """A model's inputs of decoded images, uint8 `(height, width, 3)`. Processors are told so: of an image 1, 3 or 4 px
    high they would guess that its rows are the channels."""
    return dict(processor(list(images), input_data_format="channels_last", return_tensors="pt"))


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    processor: Any,
    items: Sequence[DetectionItem],
    *,
    classes: np.ndarray | None = None,
    inputs: dict[str, torch.Tensor] | None = None,
    precision: Precision = "fp32",
) -> list[ImageDetections]:
    """What a detector finds in some images, as one batch; the `MOST_DETECTIONS` best of each, best first.

    Args:
        model, processor: in eval mode, on its device; and its image processor.
        items: N images.
        classes: model's class -> class index of the data (`match_categories`); None: they are the same.
        inputs: of the model, as the processor makes them; None: decoded and made here.
        precision: arithmetic of the forward pass (autocast).

    Raises:
        BrokenImage: an image does not decode.
    """
    device = next(model.parameters()).device
    if inputs is None:
        inputs = inputs_of(processor, [item.decode() for item in items])
    arithmetic = chosen_precision(precision, device)
    autocast: Any = contextlib.nullcontext()
    if arithmetic != "fp32":
        autocast = torch.autocast(device.type, dtype=torch.bfloat16 if arithmetic == "bf16" else torch.float16)
    with autocast:
        outputs = model(**{name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()})
    sizes = [(item.height, item.width) for item in items]
    masks: list[Any] = [None] * len(items)
    if getattr(outputs, "masks_queries_logits", None) is not None:  # Mask2Former has no boxes
        found, masks = instances_of_queries(outputs, inputs, sizes)
    else:
        found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    if getattr(outputs, "pred_masks", None) is not None:
        instances = processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=sizes, return_binary_maps=True
        )
        masks = [image["segmentation"] for image in instances]  # (d, H, W) each, in the order of the boxes
    return [
        _image_detections(item, image, mask, classes) for item, image, mask in zip(items, found, masks, strict=True)
    ]


@dataclass
class Predicted:
    """Detections of this process's images, and what kept others from being looked at: index -> reason."""

    detections: list[ImageDetections] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)


def predict_data(
    model: torch.nn.Module,
    processor: Any,
    data: DetectionData,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    precision: Precision = "fp32",
    skip_broken: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Predicted:
    """`predict` on every image that is this process's: with W processes, every W-th from its rank on.

    Args:
        model, processor, precision: as in `predict`.
        data: the images; its categories must be known to the model.
        batch_size: images at a time.
        num_workers: processes that decode and resize; 0: this one.
        skip_broken: go on without images that do not decode, and name them.
        progress: called with the number of images after each batch.

    Raises:
        InputError: a category that the model does not know, or an image that does not decode.
    """
    config: Any = model.config
    classes = match_categories(dict(config.id2label), data)
    shard: Any = range(rank(), len(data), world_size())
    loader: DataLoader = DataLoader(
        shard,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=partial(_batch, data, processor),
        worker_init_fn=start_worker,
        pin_memory=next(model.parameters()).device.type == "cuda",
    )
    predicted = Predicted()
    given: Any = {"classes": classes, "precision": precision}
    for indices, inputs, broken in batches_of(loader):
        if broken and not skip_broken:
            index, reason = next(iter(broken.items()))
            raise InputError(f"{data.names[index]}: {reason}: mend the data, or leave it out with --skip-broken")
        predicted.broken |= broken
        if indices:
            predicted.detections += predict(model, processor, [data[n] for n in indices], inputs=inputs, **given)
        if progress is not None:
            progress(len(indices) + len(broken))
    return predicted


def _batch(
    data: DetectionData, processor: Any, indices: Sequence[int]
) -> tuple[list[int], dict[str, torch.Tensor], dict[int, str]]:
    """Of some images: the indices of those that decode, the model's inputs, and index -> reason of the broken ones."""
    pixels: dict[int, np.ndarray] = {}
    broken: dict[int, str] = {}
    for index in indices:
        try:
            pixels[index] = data[index].decode()
        except BrokenImage as error:
            broken[index] = str(error)
    return list(pixels), inputs_of(processor, pixels.values()) if pixels else {}, broken


def instances_of_queries(
    outputs: Any, inputs: dict[str, torch.Tensor], sizes: Sequence[tuple[int, int]]
) -> tuple[list[dict[str, torch.Tensor]], list[torch.Tensor]]:
    """Mask2Former's scores and labels `(d,)`, and masks bool `(d, height, width)`, of each image, px of its `sizes`.

    As in detectron2: logits are interpolated, and what is above 0 belongs to a mask. transformers' own processor scales
    masks of 384 px to the picture by nearest neighbours, padding included, and asks the device four times a mask.

    Args:
        outputs: `class_queries_logits` `(N, Q, classes + 1)` and `masks_queries_logits` `(N, Q, h, w)`.
        inputs: that they are of, on the host: `pixel_values` and maybe `pixel_mask`.
        sizes: (height, width) of each picture.
    """
    padded_height, padded_width = inputs["pixel_values"].shape[-2:]
    found, masks = [], []
    for index, (height, width) in enumerate(sizes):
        probabilities = outputs.class_queries_logits[index].float().softmax(-1)[:, :-1]  # (Q, classes)
        best, places = probabilities.flatten().topk(min(MOST_DETECTIONS, probabilities.numel()))
        logits = outputs.masks_queries_logits[index][places // probabilities.shape[1]].float()  # (d, h, w)
        inside = (logits > 0).float()
        certainty = (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        found.append({"scores": best * certainty, "labels": places % probabilities.shape[1]})
        rows, columns = padded_height, padded_width
        if "pixel_mask" in inputs:
            rows, columns = (int(inputs["pixel_mask"][index].any(axis).sum()) for axis in (1, 0))
        whole = logits.new_tensor([0, 0, width * padded_width / columns, height * padded_height / rows])
        masks.append(paste_masks(logits, whole.expand(len(logits), 4), (height, width), threshold=0.0))
    return found, masks


def _image_detections(
    item: DetectionItem, found: dict[str, torch.Tensor], masks: torch.Tensor | None, classes: np.ndarray | None
) -> ImageDetections:
    """Boxes of a detector that has none are those around its masks, and empty masks are no detections."""
    scores = found["scores"].float().cpu().numpy()
    labels = found["labels"].cpu().numpy().astype(np.int64)
    if classes is not None:
        labels = np.where(labels < len(classes), classes[np.minimum(labels, len(classes) - 1)], -1)
    pixels = None if masks is None else masks.cpu().numpy()  # one copy of all
    wanted = labels >= 0
    if "boxes" not in found and pixels is not None:
        wanted &= pixels.any(axis=(1, 2))
    order = np.argsort(-scores, kind="stable")
    order = order[wanted[order]][:MOST_DETECTIONS]
    rles = None if pixels is None else encode_masks(pixels[row] for row in order)
    if "boxes" in found:
        boxes = found["boxes"].float().cpu().numpy()[order]
    else:
        boxes = mask_boxes(rles or [])
        boxes[:, 2:] += boxes[:, :2]
    return ImageDetections(item.image_id, boxes, scores[order], labels[order], rles)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
