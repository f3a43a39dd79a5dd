"""Step time of detectors here against plain models of torchvision or transformers, interleaved.

    python scripts/benchmark_detector.py                                # Mask R-CNN, ResNet-50: minutes, several GB
    python scripts/benchmark_detector.py --detector d_fine
    python scripts/benchmark_detector.py --backbone resnet18 --fpn-channels 32 --side 128 --rois 32   # seconds

Both models hold the same weights and get the same images, labels and seeds, and take turns. Those of torchvision are
built of its own classes by the script that an export brings; a training step is forward, backward and SGD, an inference
is forward and post-processing, masks pasted into the image. Those of transformers are its own class on its own timm
backbone in a bare loop (forward, backward, clipping, AdamW; forward, post-processing), against the step of `finetune`
and the `predict` of evaluation. At most 1.05 times the other's time is the project's bound.
"""

import argparse
import contextlib
import copy
import itertools
import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from measuring import machine, take_turns
from torch import nn
from transformers import TimmBackboneConfig

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection, MCLImageProcessor
from mcl_hf.detectors.transformers_detectors import (
    TRANSFORMERS_DETECTORS,
    pixel_statistics,
    start_transformers_detector,
)
from mcl_hf.engine.state import TrainingState
from mcl_hf.evaluation.predict_data import predict
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.finetuning.finetune import build_optimizer
from mcl_hf.finetuning.step import FinetuneRun, finetune_step, other_inputs
from mcl_hf.finetuning.train_loader import DetectionBatch
from mcl_hf.transfer import export_checkpoint

Runs = dict[str, dict[str, Callable[[], object]]]
"""Name of a quantity -> whose -> a function that does it once."""


def randomise_norms(model: nn.Module) -> None:
    """Batch-norm statistics that matter."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))


def detector_of(config: MCLDetectorConfig) -> Any:
    """One of ours with random weights, and statistics that matter."""
    model = (MCLForInstanceSegmentation if config.detector == "mask_rcnn" else MCLForObjectDetection)(config)
    randomise_norms(model)
    return model


def pair_of_models(config: MCLDetectorConfig, side: int, folder: Path) -> tuple[Any, nn.Module]:
    """Ours and torchvision's with the same weights; it takes images normalised, their shorter side `side` px."""
    ours = detector_of(config)
    ours.save_pretrained(folder / "ours")
    export_checkpoint(folder / "ours", folder / "theirs", "torchvision")
    build = runpy.run_path(str(folder / "theirs" / "build_detector.py"))["build_detector"]
    with contextlib.redirect_stdout(sys.stderr):  # in training `_skip_resize` saves the draw of a size
        pixels = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        return ours, build(min_size=side, max_size=100 * side, **pixels, _skip_resize=True)


def synthetic_labels(count: int, side: int, num_labels: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random boxes in px (`boxes`, x0 y0 x1 y1), classes from 0 and masks that fill the boxes."""
    corner = torch.rand(count, 2, generator=generator) * side * 0.6
    size = side * (0.1 + 0.3 * torch.rand(count, 2, generator=generator))
    boxes = torch.cat([corner, corner + size], dim=1).round()
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return {
        "boxes": boxes,
        "class_labels": torch.randint(0, num_labels, (count,), generator=generator),
        "masks": masks,
    }


def for_ours(label: Mapping[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """transformers' form: relative centre and size."""
    x0, y0, x1, y1 = (label["boxes"] / side).unbind(dim=1)
    return {**label, "boxes": torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1)}


def for_torchvision(label: Mapping[str, torch.Tensor], first_class: int) -> dict[str, torch.Tensor]:
    """torchvision's form: pixels, and classes from 1 where 0 is the background."""
    return {"boxes": label["boxes"], "labels": label["class_labels"] + first_class, "masks": label["masks"]}


def build_runs(args: argparse.Namespace, folder: Path) -> Runs:
    """Against torchvision; `folder` is for files that are not kept."""
    small = {} if args.rois is None else {
        "box_batch_size_per_image": args.rois,
        **{f"rpn_pre_nms_top_n_{mode}": 4 * args.rois for mode in ("train", "test")},
        **{f"rpn_post_nms_top_n_{mode}": 2 * args.rois for mode in ("train", "test")},
    }  # fmt: skip
    config = MCLDetectorConfig(
        detector=args.detector, backbone=args.backbone, fpn_channels=args.fpn_channels, num_labels=8, **small
    )
    torch.manual_seed(0)
    ours, theirs = (model.to(args.device) for model in pair_of_models(config, args.side, folder))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.side, args.side, generator=generator).to(args.device)
    labels = [synthetic_labels(8, args.side, config.num_labels, generator) for _ in range(args.batch_size)]
    labels = [{name: value.to(args.device) for name, value in label.items()} for label in labels]
    own_labels = [for_ours(label, args.side) for label in labels]
    their_labels = [for_torchvision(label, 0 if args.detector == "retinanet" else 1) for label in labels]
    processor = MCLImageProcessor.from_config(config)
    sizes = [(args.side, args.side)] * args.batch_size
    optimizers = {id(model): torch.optim.SGD(model.parameters(), lr=1e-6) for model in (ours, theirs)}

    def train(model: nn.Module, losses: Callable[[], torch.Tensor]) -> None:
        torch.manual_seed(0)
        model.train()
        losses().backward()
        optimizers[id(model)].step()
        optimizers[id(model)].zero_grad()

    @torch.no_grad()
    def own_inference() -> None:
        outputs = ours.eval()(images, image_sizes=sizes)
        if args.detector == "mask_rcnn":
            processor.post_process_instance_segmentation(
                outputs, threshold=0.0, target_sizes=sizes, return_binary_maps=True
            )
        else:
            processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    @torch.no_grad()
    def their_inference() -> None:
        for image in theirs.eval()(list(images)):
            if "masks" in image:
                image["masks"] = image["masks"] > 0.5

    return {
        "training step": {
            "ours": lambda: train(ours, lambda: ours(images, labels=own_labels, image_sizes=sizes).loss),
            "torchvision": lambda: train(theirs, lambda: sum(theirs(list(images), their_labels).values())),
        },
        "inference": {"ours": own_inference, "torchvision": their_inference},
    }


def build_transformers_runs(args: argparse.Namespace, folder: Path) -> Runs:
    """Against transformers."""
    kind, names = TRANSFORMERS_DETECTORS[args.detector], {index: f"class {index}" for index in range(8)}
    torch.manual_seed(0)
    ours, _ = start_transformers_detector("random", args.detector, names, args.backbone, **args.detector_options)
    config = copy.deepcopy(ours.config)
    maps = list(ours.config.backbone_config.out_indices)
    config.backbone_config = TimmBackboneConfig(backbone=args.backbone, out_indices=maps, use_pretrained_backbone=False)
    theirs = kind.model_class(config)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))  # in the same order
    theirs = theirs.to(args.device)

    arguments = FinetuneArguments(detector=args.detector, batch_size=args.batch_size, augment="off", ema=False)
    arguments = arguments.resolved([args.side], [args.side])
    rate = 1e-9  # weights, and so the work, stay alike
    accelerator = Accelerator(cpu=args.device == "cpu")
    network = ours.to(accelerator.device).train()
    model, optimizer = accelerator.prepare(network, build_optimizer(arguments, network, rate))
    mean, std = (torch.tensor(values, device=accelerator.device).view(-1, 1, 1) for values in pixel_statistics(config))
    processor = kind.image_processor(mean.flatten().tolist(), std.flatten().tolist(), args.side, args.side)
    state = TrainingState(global_batch_size=args.batch_size, max_steps=1000)
    run = FinetuneRun(
        accelerator=accelerator, arguments=arguments, state=state, output_dir=folder, model=model, network=network,
        optimizer=optimizer,
        loader=[], processor=processor, mean=mean * 255, scale=std * 255, peak_lr=rate, warmup_steps=0, milestones=[],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (args.batch_size, 3, args.side, args.side), generator=generator, dtype=torch.uint8)
    sizes = [(args.side, args.side)] * args.batch_size
    labels = [for_ours(synthetic_labels(8, args.side, len(names), generator), args.side) for _ in sizes]
    batch = DetectionBatch(0, pixels, sizes, labels, torch.arange(args.batch_size))
    on_device = batch.map(lambda tensor: tensor.to(args.device))
    inputs = {"pixel_values": (on_device.pixels - mean * 255) / (std * 255)} | other_inputs(
        theirs, on_device, generator
    )
    plain = torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=arguments.weight_decay, fused=True)

    def own_step() -> None:
        network.train()
        finetune_step(run, itertools.repeat(batch), 0, [])

    def their_step() -> None:
        theirs.train()
        theirs(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), arguments.clip_grad_norm)
        plain.step()
        plain.zero_grad()

    seen = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
    images: Any = [SimpleNamespace(image_id=0, height=args.side, width=args.side)] * args.batch_size

    @torch.inference_mode()
    def their_inference() -> None:
        outputs = theirs.eval()(**seen)
        if kind.masks:
            processor.post_process_instance_segmentation(outputs, threshold=0.0, target_sizes=sizes)
        else:
            processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    return {
        "training step": {"ours": own_step, "transformers": their_step},
        "inference": {
            "ours": lambda: predict(ours.eval(), processor, images, inputs=seen),
            "transformers": their_inference,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--detector", default="mask_rcnn", choices=["mask_rcnn", "faster_rcnn", "retinanet", *TRANSFORMERS_DETECTORS]
    )
    parser.add_argument("--backbone", default="resnet50", help="a ResNet that timm and torchvision both have")
    parser.add_argument("--fpn-channels", type=int, default=256)
    parser.add_argument("--side", type=int, default=384, help="side of the square images, px; a multiple of 32")
    parser.add_argument("--batch-size", type=int, default=2, help="images a step")
    parser.add_argument("--rois", type=int, help="sampled proposals an image (default 512) and, times 2, tested ones")
    parser.add_argument("--detector-options", type=json.loads, default={}, help="fields of transformers' configuration")
    parser.add_argument("--rounds", type=int, default=4, help="turns that each model has, after one untimed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.side % 32:
        parser.error("--side must be a multiple of 32: torchvision pads other images")
    torch.set_flush_denormal(True)
    print(
        f"{args.detector}, {args.backbone}, FPN {args.fpn_channels}, {args.batch_size} images of {args.side} px, "
        f"{args.device}, {machine()}"
    )
    build = build_transformers_runs if args.detector in TRANSFORMERS_DETECTORS else build_runs
    with tempfile.TemporaryDirectory() as folder:
        for quantity, runs in build(args, Path(folder)).items():
            (_, ours), (other, theirs) = ((name, min(s)) for name, s in take_turns(runs, args.rounds).items())
            print(
                f"{quantity}: ours {ours:.3f} s, {other} {theirs:.3f} s "
                f"(fastest of {args.rounds}); ratio {ours / theirs:.3f} (bound 1.05)"
            )


if __name__ == "__main__":
    main()
