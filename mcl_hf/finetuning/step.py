"""One optimizer step of fine-tuning.

Where it sits: the loop of `mcl_hf.engine` calls `finetune_step`, as it calls pre-training's `train_step`. Which
anchors and proposals the losses sample comes from counters (seed, position, rank), so a resumed run samples what the
uninterrupted one would have sampled.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale
from transformers.loss import loss_for_object_detection
from transformers.loss.loss_deimv2 import Deimv2Loss
from transformers.models.mask2former import modeling_mask2former

from ..detectors.modeling_detector import MCLDetectorPreTrainedModel
from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.arithmetic import copy_to_device
from ..engine.loop import optimizer_step
from ..engine.optim import step_learning_rate
from ..engine.run import Run
from ..pretraining.step import counter_seed
from . import ema
from .arguments import FinetuneArguments
from .train_loader import DetectionBatch

WARMUP_FACTOR = 1e-3
"""Share of the learning rate that the first step runs at (detectron2)."""
_OF_ONE_LAYER = re.compile(r"_aux_|_dn_|_enc|_\d+$")  # of a decoder: dozens of losses, which do not go to the log


@dataclass(kw_only=True)
class FinetuneRun(Run):
    """A fine-tuning run; its `batch` is a `DetectionBatch` on the device."""

    arguments: FinetuneArguments
    mean: Tensor  # of uint8 pixels on the device, (C, 1, 1)
    scale: Tensor  # likewise: normalised = (pixel - mean) / scale
    milestones: Sequence[int]  # steps from which the learning rate is a tenth of what it was


def finetune_step(run: FinetuneRun, batches: Iterator[DetectionBatch], step: int, broken: list[str]) -> dict[str, Any]:
    """One optimizer step, 0-based `step`: losses of its last forward pass, tensors still on the device, learning rate
    and gradient norm. Names of unreadable images are appended to `broken`."""
    lr = step_learning_rate(
        step, run.peak_lr, run.milestones, warmup_steps=run.warmup_steps, warmup_factor=WARMUP_FACTOR
    )
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    outputs = optimizer_step(run, batches, step, broken, functools.partial(forward_backward, run, step))
    if run.arguments.ema:
        ema.update(run, step)
    return {**outputs, "learning_rate": lr}


def forward_backward(
    run: FinetuneRun, step: int, batch: DetectionBatch, position: int, gradients_meet: Callable[[bool], Any]
) -> dict[str, Any]:
    """Forward and backward pass of one batch; see `optimizer_step` for the arguments."""
    run.batch = batch.map(functools.partial(copy_to_device, device=run.accelerator.device))
    with gradients_meet(True):
        output = forward(run, run.model, run.batch, position)
        loss = run.guard.watch(_of_all_objects(run, output.loss), step)
        run.accelerator.backward(loss / run.arguments.gradient_accumulation_steps)
    parts = output.get("loss_dict") or {}
    return {"loss": output.loss} | {name: part for name, part in parts.items() if not _OF_ONE_LAYER.search(name)}


def _of_all_objects(run: FinetuneRun, loss: Tensor) -> Tensor:
    """A loss per object of this process's images, weighted so that the mean over processes is that of all objects.

    transformers' newer losses divide by the objects of their own process. Parameters that nothing of a batch has
    reached get a gradient of zero, which DDP waits for.
    """
    kind = TRANSFORMERS_DETECTORS.get(run.arguments.detector or "")
    if kind is None or run.accelerator.num_processes == 1:
        return loss
    unreached = sum(parameter.sum() for parameter in run.network.parameters() if parameter.requires_grad) * 0.0
    if kind.square and not kind.masks:
        own = torch.tensor(float(sum(len(label["boxes"]) for label in run.batch.labels)), device=loss.device)
        mean = run.accelerator.reduce(own, "mean")
        loss = loss * own.clamp(min=1) / mean.clamp(min=1)
    return loss + unreached


def forward(run: FinetuneRun, model: Any, batch: DetectionBatch, position: int) -> Any:
    """The output of the detector, wrapped or bare, on a batch that lies on the device; `position` counts forward passes
    and decides, with seed and rank, which anchors and regions are sampled."""
    seeds = (run.arguments.seed, position, run.accelerator.process_index)
    torch.manual_seed(counter_seed("dropout", *seeds))
    generator = torch.Generator().manual_seed(counter_seed("regions", *seeds))
    with _divided_over_processes(run.accelerator):
        return model(pixel_values=normalise(run, batch), **other_inputs(run.network, batch, generator))


@contextlib.contextmanager
def _divided_over_processes(accelerator: Accelerator) -> Iterator[None]:
    """Losses of transformers divided by what an average process has.

    Those of DETR, Deformable DETR and Mask2Former add the objects up by accelerate's `reduce`, which takes the mean if
    not told otherwise, and then divide by the number of processes: losses of boxes and masks would be so many times too
    large. DEIMv2's losses of boxes count the matches of all layers together, which do not go with the objects; what
    `_of_all_objects` weights them by as well is taken off here.
    """
    if accelerator.num_processes == 1:
        yield
        return
    match, part = Deimv2Loss._get_dense_o2o_indices, Deimv2Loss.get_loss
    union: dict[str, Any] = {"pairs": None}

    def counted(self: Any, last: Any, others: Any) -> Any:
        union["pairs"] = match(self, last, others)
        counts = [float(sum(len(rows) for rows, _ in pairs)) for pairs in (last, union["pairs"])]
        own = torch.tensor(counts, device=accelerator.device)
        objects, matches = accelerator.reduce(own, "mean").clamp(min=1).tolist()
        union["count"] = matches * max(counts[0], 1.0) / objects
        return union["pairs"]

    def weighted(self: Any, loss: str, outputs: Any, targets: Any, pairs: Any, count: float) -> Any:
        return part(self, loss, outputs, targets, pairs, union["count"] if pairs is union["pairs"] else count)

    def summed(tensor: Tensor, *_: object, **__: object) -> Any:
        return reduce(tensor, "sum")

    with contextlib.ExitStack() as changed:
        for owner, name, ours in (
            (loss_for_object_detection, "reduce", summed),
            (modeling_mask2former, "reduce", summed),
            (Deimv2Loss, "_get_dense_o2o_indices", counted),
            (Deimv2Loss, "get_loss", weighted),
        ):
            changed.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, ours)
        yield


def other_inputs(network: Any, batch: DetectionBatch, generator: torch.Generator) -> dict[str, Any]:
    """What a detector takes beside the pixels. The noise of denoising queries comes from torch's global state."""
    if isinstance(network, MCLDetectorPreTrainedModel):
        return {"labels": batch.labels, "image_sizes": batch.image_sizes, "generator": generator}
    if TRANSFORMERS_DETECTORS[network.config.model_type].masks:
        masks = [label["masks"].float() for label in batch.labels]
        return {"mask_labels": masks, "class_labels": [label["class_labels"] for label in batch.labels]}
    labels = [{name: label[name] for name in ("class_labels", "boxes")} for label in batch.labels]
    mask = torch.zeros(batch.pixels[:, 0].shape, dtype=torch.int64, device=batch.pixels.device)  # (N, H, W)
    for index, (height, width) in enumerate(batch.image_sizes):
        mask[index, :height, :width] = 1
    return {"labels": labels, "pixel_mask": mask}


def normalise(run: FinetuneRun, batch: DetectionBatch) -> Tensor:
    """uint8 `(N, 3, H, W)` on the device -> float, `(x - 255 mean) / (255 std)` by channel, and 0 on the padding; a
    detector of one channel is given gray, as by its image processor."""
    pixels = batch.pixels if len(run.mean) == 3 else rgb_to_grayscale(batch.pixels)
    pixels = (pixels - run.mean) / run.scale
    for index, (height, width) in enumerate(batch.image_sizes):
        pixels[index, :, height:] = 0
        pixels[index, :, :, width:] = 0
    layout = torch.channels_last if run.arguments.channels_last else torch.contiguous_format
    return pixels.contiguous(memory_format=layout)
