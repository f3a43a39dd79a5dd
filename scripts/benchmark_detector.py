"""Step time of detectors here against plain models of torchvision or transformers, interleaved.

    python scripts/benchmark_detector.py                                # Mask R-CNN, ResNet-50: minutes, several GB
    python scripts/benchmark_detector.py --detector d_fine
    python scripts/benchmark_detector.py --backbone resnet18 --fpn-channels 32 --side 128 --rois 32   # seconds

Both models hold the same weights and get the same images, labels and seeds, and take turns. Those of torchvision are
built by hand from the same parts; a training step is forward, backward and SGD, an inference is forward and
post-processing, masks pasted into the image. Those of transformers are its own class on its own timm backbone in a bare
loop (forward, backward, clipping, AdamW; forward, post-processing), against the step of `finetune` and the `predict` of
evaluation. At most 1.10 times the other's time is the project's bound.
"""

import argparse
import copy
import functools
import itertools
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torchvision
from accelerate import Accelerator
from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from transformers import TimmBackboneConfig

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection, MCLImageProcessor
from mcl_hf.detection.evaluation.predict_data import predict
from mcl_hf.detection.finetuning.arguments import FinetuneArguments
from mcl_hf.detection.finetuning.finetune import build_optimizer
from mcl_hf.detection.finetuning.step import FinetuneRun, finetune_step, other_inputs
from mcl_hf.detection.finetuning.train_loader import DetectionBatch
from mcl_hf.detection.models.transformers_detectors import (
    TRANSFORMERS_DETECTORS,
    pixel_statistics,
    start_transformers_detector,
)
from mcl_hf.engine.state import TrainingState


def build_torchvision_detector(config: MCLDetectorConfig, side: int) -> nn.Module:
    """torchvision's own classes put together by hand; images are given normalised, their shorter side `side` px."""
    width, classes = config.fpn_channels, config.num_labels + 1
    body = getattr(torchvision.models, config.backbone)(weights=None)
    channels = [body.inplanes // 8 * 2**stage for stage in range(4)]
    first = 1 if config.detector == "retinanet" else 0
    backbone = BackboneWithFPN(
        body,
        {f"layer{stage + 1}": str(stage) for stage in range(first, 4)},
        channels[first:],
        width,
        extra_blocks=LastLevelP6P7(channels[-1], width) if first else LastLevelMaxPool(),
        norm_layer=nn.BatchNorm2d,
    )
    anchors = AnchorGenerator(
        tuple(tuple(sizes) for sizes in config.anchor_sizes), (tuple(config.aspect_ratios),) * len(config.anchor_sizes)
    )
    transform: dict[str, Any] = {"min_size": side, "max_size": 100 * side, "image_mean": [0.0] * 3}
    transform |= {"image_std": [1.0] * 3, "_skip_resize": True}  # in training: no draw of a size from the random state
    if first:
        model = RetinaNet(
            backbone,
            config.num_labels,
            anchor_generator=anchors,
            score_thresh=config.box_score_thresh,
            nms_thresh=config.box_nms_thresh,
            detections_per_img=config.box_detections_per_img,
            fg_iou_thresh=config.box_fg_iou_thresh,
            bg_iou_thresh=config.box_bg_iou_thresh,
            topk_candidates=config.topk_candidates,
            **transform,
        )
        model.backbone.fpn.extra_blocks.use_P5 = False
        return model
    taken = ("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train",
             "rpn_post_nms_top_n_test", "rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh",
             "rpn_batch_size_per_image", "rpn_positive_fraction", "rpn_score_thresh", "box_score_thresh",
             "box_nms_thresh", "box_detections_per_img", "box_fg_iou_thresh", "box_bg_iou_thresh",
             "box_batch_size_per_image", "box_positive_fraction", "bbox_reg_weights")  # fmt: skip
    parts: dict[str, Any] = {name: getattr(config, name) for name in taken}
    levels = ["0", "1", "2", "3"]
    side_of_box = config.box_pool_size
    parts |= {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(width, anchors.num_anchors_per_location()[0], conv_depth=config.rpn_conv_depth),
        "box_roi_pool": MultiScaleRoIAlign(levels, side_of_box, config.roi_sampling_ratio),
        "box_head": FastRCNNConvFCHead(
            (width, side_of_box, side_of_box),
            [width] * config.box_head_convs,
            [config.box_fc_dim],
            norm_layer=nn.BatchNorm2d,
        ),
        "box_predictor": FastRCNNPredictor(config.box_fc_dim, classes),
    }
    if config.detector == "faster_rcnn":
        return FasterRCNN(backbone, **parts, **transform)
    return MaskRCNN(
        backbone,
        **parts,
        **transform,
        mask_roi_pool=MultiScaleRoIAlign(levels, config.mask_pool_size, config.roi_sampling_ratio),
        mask_head=MaskRCNNHeads(width, [width] * config.mask_head_convs, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
    )


def torchvision_names(tensors: Mapping[str, torch.Tensor], box_head_convs: int) -> dict[str, torch.Tensor]:
    """Our detector's names -> those of the torchvision model."""
    rules = (
        (r"^backbone\.", "backbone.body."),
        (r"^fpn\.lateral\.(\d+)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
        (r"^fpn\.lateral\.(\d+)\.bn\.", r"backbone.fpn.inner_blocks.\1.1."),
        (r"^fpn\.output\.(\d+)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
        (r"^fpn\.output\.(\d+)\.bn\.", r"backbone.fpn.layer_blocks.\1.1."),
        (r"^roi_heads\.(box|mask)_head\.conv\.(\d+)\.conv\.", r"roi_heads.\1_head.\2.0."),
        (r"^roi_heads\.(box|mask)_head\.conv\.(\d+)\.bn\.", r"roi_heads.\1_head.\2.1."),
        (r"^roi_heads\.box_head\.fc1\.", f"roi_heads.box_head.{box_head_convs + 1}."),
        (r"^extra_levels\.", "backbone.fpn.extra_blocks."),
        (r"^retinanet\.head\.", "head."),
    )
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            new, found = re.subn(pattern, replacement, name)
            if found:
                name = new
                break
        renamed[name] = tensor
    return renamed


def aligned_torchvision() -> Any:
    """Within this context torchvision's region pooling is aligned by half a cell, as detectron2's; it has no option."""
    return mock.patch("torchvision.ops.poolers.roi_align", functools.partial(roi_align, aligned=True))


def pair_of_models(config: MCLDetectorConfig, side: int) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's, with the same weights and batch-norm statistics that matter."""
    ours = (MCLForInstanceSegmentation if config.detector == "mask_rcnn" else MCLForObjectDetection)(config)
    generator = torch.Generator().manual_seed(1)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    theirs = build_torchvision_detector(config, side)
    tensors = torchvision_names(ours.state_dict(), config.box_head_convs)
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    alone = {*missing, *unexpected} - {"backbone.body.fc.weight", "backbone.body.fc.bias"}  # timm's has no classifier
    if alone:
        raise RuntimeError(f"tensors without a partner: {sorted(alone)}")
    return ours, theirs


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


def build_runs(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], None]]]:
    """Name of a quantity -> whose -> a function that does it once."""
    small = {} if args.rois is None else {
        "box_batch_size_per_image": args.rois,
        "rpn_pre_nms_top_n_train": 4 * args.rois, "rpn_pre_nms_top_n_test": 4 * args.rois,
        "rpn_post_nms_top_n_train": 2 * args.rois, "rpn_post_nms_top_n_test": 2 * args.rois,
    }  # fmt: skip
    config = MCLDetectorConfig(
        detector=args.detector, backbone=args.backbone, fpn_channels=args.fpn_channels, num_labels=8, **small
    )
    torch.manual_seed(0)
    ours, theirs = (model.to(args.device) for model in pair_of_models(config, args.side))
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

    def own_losses() -> torch.Tensor:
        return ours(images, labels=own_labels, image_sizes=sizes).loss

    def their_losses() -> torch.Tensor:
        with aligned_torchvision():
            return sum(theirs(list(images), their_labels).values())

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
        with aligned_torchvision():
            found = theirs.eval()(list(images))
        if args.detector == "mask_rcnn":
            for image in found:
                image["masks"] = image["masks"] > 0.5

    return {
        "training step": {
            "ours": lambda: train(ours, own_losses),
            "torchvision": lambda: train(theirs, their_losses),
        },
        "inference": {"ours": own_inference, "torchvision": their_inference},
    }


def build_transformers_runs(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Callable[[], None]]]:
    """The same for a detector of transformers; `folder` is for the run's own files."""
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
    parser.add_argument("--side", type=int, default=384, help="side of the square images, px; a multiple of 128")
    parser.add_argument("--batch-size", type=int, default=2, help="images a step")
    parser.add_argument("--rois", type=int, help="sampled proposals an image (default 512) and, times 2, tested ones")
    parser.add_argument("--detector-options", type=json.loads, default={}, help="fields of transformers' configuration")
    parser.add_argument("--rounds", type=int, default=4, help="turns that each model has, after one untimed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.side % 128:
        parser.error("--side must be a multiple of 128: elsewhere torchvision's coarse anchors move with the padding")
    torch.set_flush_denormal(True)
    print(
        f"{args.detector}, {args.backbone}, FPN {args.fpn_channels}, {args.batch_size} images of {args.side} px, "
        f"{args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs = args.detector in TRANSFORMERS_DETECTORS
        measure(args, build_transformers_runs(args, Path(folder)) if theirs else build_runs(args))


def measure(args: argparse.Namespace, quantities: Mapping[str, Mapping[str, Callable[[], None]]]) -> None:
    """Let both take turns, and print the fastest of each and the ratio."""
    for quantity, runs in quantities.items():
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        _, other = runs
        for turn in range(args.rounds + 1):
            for name in runs if turn % 2 else reversed(runs):  # who goes first alternates
                if args.device == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                runs[name]()
                if args.device == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        best = {name: min(values) for name, values in seconds.items()}
        print(
            f"{quantity}: ours {best['ours']:.3f} s, {other} {best[other]:.3f} s "
            f"(fastest of {args.rounds}); ratio {best['ours'] / best[other]:.3f} (bound 1.10)"
        )


if __name__ == "__main__":
    main()
