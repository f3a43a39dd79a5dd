"""A training step on made-up images, in the variants that the benchmarks compare and profile."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_hf import MCLConfig, MCLForPreTraining
from mcl_hf.engine.optim import build_optimizer
from mcl_hf.models import recompute_activations
from mcl_hf.pretraining.pretrain import compile_parts

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Variant:
    """Settings of a step, as its name says them, such as "lean, channels last, bf16".

    First comes the scope: `published`, `lean`, or `supervised`, a plain timm classifier. Then "contiguous", which is
    also without TF32, or "channels last"; "bf16" or "fp16"; "queue of N" past keys kept as negatives; "compiled";
    "in turn", the two sides one after the other, with half the activations; and "recompute", norms and activations of
    the backbone made again in the backward pass.
    """

    def __init__(self, name: str) -> None:
        self.scope, *words = name.split(", ")
        self.supervised = self.scope == "supervised"
        self.layout = torch.channels_last if "channels last" in words else torch.contiguous_format
        self.tf32 = "contiguous" not in words
        self.precision = next((word for word in words if word in _DTYPES), "fp32")
        self.queue = int(next((word.split()[-1] for word in words if word.startswith("queue of ")), 0))
        self.compiled, self.in_turn, self.recompute = (word in words for word in ("compiled", "in turn", "recompute"))


class TrainingStep:
    """Forward, backward, optimizer and moving average (supervised: no average); to call it is to take one step.

    Args:
        variant: its settings.
        network: fields of `MCLConfig`; a supervised step takes the backbone and the size of the images of them.
        num_images: N.
        device: `cpu`, `cuda` or `meta`.
        optimizer: as of `mcl-hf pretrain`.
    """

    def __init__(
        self, variant: Variant, network: dict[str, Any], num_images: int, device: str, optimizer: str = "lars"
    ) -> None:
        self.variant, self.device = variant, device
        generator = torch.Generator().manual_seed(0)

        def noise(side: int) -> Tensor:
            images = torch.randn(num_images, 3, side, side, generator=generator)
            return images.to(device, memory_format=variant.layout)

        if variant.supervised:
            config = MCLConfig(**network)
            self.model: Any = timm.create_model(config.backbone, num_classes=1000)
            self.model.config = config  # the optimizer's groups go by it
            self.images = noise(config.image_size)
            self.labels = torch.randint(0, 1000, (num_images,), generator=generator).to(device)
        else:
            config = MCLConfig(**network, region_scope=variant.scope, queue_size=variant.queue)
            self.model = MCLForPreTraining(config)
            self.inputs: dict[str, list[Tensor]] = {}
            for side in "ab":
                self.inputs[f"views_{side}"] = [noise(config.image_size // ratio) for ratio in config.montage_ratios]
            for side in "ab":
                self.inputs[f"montage_{side}"] = self.model.draw_montages(num_images, generator)
        self.model = self.model.to(device, memory_format=variant.layout).train()
        self.optimizer = build_optimizer(self.model, optimizer, 0.1 if optimizer == "lars" else 1e-3, 1e-5)
        self.scaler = torch.amp.GradScaler(device, enabled=variant.precision == "fp16")
        if variant.recompute:
            recompute_activations(self.model.mcl.backbone)
        if variant.compiled:
            self.model.compile() if variant.supervised else compile_parts(self.model)

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass."""
        dtype = _DTYPES.get(self.variant.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype=dtype)

    def losses(self) -> Iterator[Tensor]:
        """The losses to back-propagate, one after the other."""
        if self.variant.supervised:
            yield F.cross_entropy(self.model(self.images), self.labels)
        elif self.variant.in_turn:
            keys = self.model.compute_keys(**self.inputs)
            for side in "ab":
                yield self.model(**self.inputs, keys=keys, sides=(side,)).loss
        else:
            yield self.model(**self.inputs).loss

    def __call__(self) -> None:
        remaining = self.losses()
        while True:
            with self.autocast():
                loss = next(remaining, None)
            if loss is None:
                break
            self.scaler.scale(loss).backward()
            del loss  # frees the side's activations before the next side
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.variant.supervised:
            self.model.update_target(0.99)
