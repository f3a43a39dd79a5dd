"""The three scales of the benchmark: everything that is equal for all arms.

Flow: **scales** + arms -> jobs -> pretrain_job, probe_job, detect_job.

`smoke` proves that the machinery works and claims nothing. `cpu` is made to run for hours beside other work on two
cores. `gpu` is what answers the question.

Why `cpu` looks as it does. Hundreds of thousands of visits have to be affordable, so visits were made cheap first;
images/s of one training step of MCL on one thread of a 2-core AMD EPYC with avx512_bf16 (scripts of this folder, random
pixels; other work ran beside it, so read them as ratios):

    backbone (FPN 64, MLP 256, D 64)                          fp32   bf16   GFLOP a visit
    timm's resnet10t, 64 px, 3 levels                           41     75   1.79
    the same at half the channels                               69    132   0.91
    ResNet-10 (plain 7x7 stem), half channels, 64 px, 3 levels  91    169   0.53     <- cpu
    resnet10t, half channels, 32 px, 2 levels                  296      -   0.22

* 64 px (R = 2), not 32 px: with R = 1 a region is one cell, so that the region head's 3x3 convolutions would see
  nothing but padding, C5 of a view would be 1x1, and a fourth of the pixels would be all that a visit is about.
* Three levels: tiles of 64, 32 and 16 px, read from P5, P4 and P3. The paper's fourth would be tiles of 8 px here. A
  detector would read boxes below 32 px from P2, which three levels leave untrained, so that here boxes are read from
  the level that pre-training reads (`roi_canonical_size` 32: 16 to 32 px from P3), for all arms alike.
* The data loader gives some 700 images/s on a core (6 views, JPEGs of 48 to 128 px; their size matters little), so it
  is no bottleneck, and images need no packing. The scenes are 96 px; most of their objects are then 9 to 39 px wide.
* 128,000 visits (11 epochs of 12,000 images, 20 minutes an arm and fold): after 16,000 every arm was at chance, after
  96,000 the probes of MCL's region head were at 17 % where a random start is at 10 to 11 % and chance at 8 %.
* Faster R-CNN: a step takes two thirds of Mask R-CNN's here, and boxes are what is compared; bf16 takes 0.6 of fp32.
* There is room to differ: detectors of 12 epochs from a random start reached 3.9 box AP on validation scenes of 96 px
  (fold 0, seed 0), and 1.5 with the backbone frozen.
* One thread a process: two benchmark processes side by side use two cores better than one with two threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcl_hf.errors import InputError


@dataclass(frozen=True)
class Detection:
    """One way to measure a start by a detector.

    Attributes:
        name: in file names: what trains, share of the groups that are labelled, schedule.
        annotations: file of the data's `annotations/` to train on, without `instances_` and `.json`.
        frozen: the backbone does not train.
        fraction: share of the training groups that are labelled, in percent; for tables.
        schedule: for tables.
        options: fields of `FinetuneArguments` on top of the scale's.
    """

    name: str
    annotations: str
    frozen: bool
    fraction: int
    schedule: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """What is equal for all arms.

    Attributes:
        name: of the scale.
        arms: that run unless others are asked for.
        folds, seeds: that run unless others are asked for.
        levels: of MCL.
        visits: of images in MCL's pre-training; the budget of all.
        pretrain: fields of `PretrainArguments`.
        probe_images: scenes that probes learn from, and that they ask for.
        detect: fields of `FinetuneArguments`.
        detections: what detectors are trained on.
        tuned: arm -> fields of `PretrainArguments` that `tuning` has found for it.
    """

    name: str
    arms: Sequence[str]
    folds: Sequence[int]
    seeds: Sequence[int]
    levels: int
    visits: int
    pretrain: Mapping[str, Any]
    probe_images: tuple[int, int]
    detect: Mapping[str, Any]
    detections: Sequence[Detection]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def detection(self, name: str) -> Detection:
        """The way of measuring of a name.

        Raises:
            InputError: there is none.
        """
        for detection in self.detections:
            if detection.name == name:
                return detection
        raise InputError(f"--scale {self.name} has no detector {name!r}: {', '.join(d.name for d in self.detections)}")


_SMALL_RESNET = {"backbone": "resnet18", "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}}
_TINY_RESNET = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8}}
_FEW_REGIONS = {
    "rpn_pre_nms_top_n_train": 200,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 100,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
}


def _small_images(side: int, region_size: int, detector: str, **more: Any) -> dict[str, Any]:
    """Fields for scenes of `side` px; anchors and levels fit views of ``32 * region_size`` px as COCO's fit 224 px."""
    view = 32 * region_size
    return {
        "detector": detector,
        "min_size_train": [side],
        "max_size_train": 2 * side,
        "min_size_test": side,
        "max_size_test": 2 * side,
        "detector_options": {
            **_FEW_REGIONS,
            # a view of 224 px is to anchors of 32 to 512 px what `view` is to these
            "anchor_sizes": [[round(size * view / 224)] for size in (32, 64, 128, 256, 512)],
            "roi_canonical_size": view,
            **more,
        },
    }


SMOKE = Scale(
    name="smoke",
    arms=("random", "image", "mcl", "supervised", "supervised-mcl", "no-montage", "wrong-levels", "mcl-backbone"),
    folds=(0, 1),
    seeds=(0,),
    levels=3,
    visits=256,
    pretrain={
        **_TINY_RESNET,
        "fpn_channels": 8,
        "region_size": 2,
        "region_convs": 1,
        "hidden_dim": 16,
        "embedding_dim": 8,
        "temperature": 0.2,
        "batch_size": 16,
        "base_learning_rate": 2e-2,
        "target_momentum": 0.95,
        "num_workers": 0,
        "save_every_steps": 8,
        "keep_last": 1,
        "log_every_steps": 2,
        "device": "cpu",
    },
    probe_images=(24, 24),
    detect={
        **_small_images(
            64,
            2,
            "mask_rcnn",
            box_pool_size=4,
            roi_canonical_size=32,
            box_fc_dim=32,
            mask_pool_size=4,
            mask_head_convs=1,
        ),
        "batch_size": 4,
        "max_steps": 12,
        "base_learning_rate": 0.02,
        "precise_bn_steps": 2,
        "eval_batch_size": 8,
        "num_workers": 0,
        "save_every_steps": 6,
        "keep_last": 1,
        "log_every_steps": 4,
        "device": "cpu",
    },
    detections=(
        Detection("frozen-100", "train", True, 100, "1x"),
        Detection("full-5", "train_5", False, 5, "1x"),
    ),
)

CPU = Scale(
    name="cpu",
    arms=("random", "image", "mcl"),
    folds=(0, 1, 2, 3, 4, 5),
    seeds=(0,),
    levels=3,
    visits=128_000,
    pretrain={
        **_SMALL_RESNET,
        "fpn_channels": 64,
        "region_size": 2,
        "region_convs": 2,
        "hidden_dim": 256,
        "embedding_dim": 64,
        "temperature": 0.2,
        "batch_size": 128,
        "base_learning_rate": 4e-3,  # x 128 / 256 = 2e-3
        "weight_decay": 0.05,
        "target_momentum": 0.99,
        "precision": "bf16",
        "num_workers": 0,
        "save_every_steps": 250,
        "keep_last": 1,
        "log_every_steps": 50,
        "device": "cpu",
    },
    probe_images=(1000, 600),
    detect={
        **_small_images(
            96,
            2,
            "faster_rcnn",
            box_pool_size=4,
            roi_canonical_size=32,
            box_fc_dim=128,
        ),
        "batch_size": 16,
        "epochs": 12,
        "base_learning_rate": 0.04,
        "weight_decay": 1e-4,
        "precise_bn_steps": 30,
        "eval_batch_size": 16,
        "precision": "bf16",
        "num_workers": 0,
        "save_every_steps": 100,
        "keep_last": 1,
        "log_every_steps": 20,
        "device": "cpu",
    },
    detections=(Detection("frozen-100", "train", True, 100, "1x"),),
    # the best of three trials each on validation scenes of fold 0: evaluation/transfer/cpu/tuning/
    tuned={arm: {"min_crop_scale": 0.35, "temperature": 0.1} for arm in ("image", "mcl")},
)


def _gpu(backbone: str, region_size: int, visits: int, batch: int) -> Scale:
    """ResNets of full width; detectors of the published kind at the size of the data."""
    side = 64 * region_size
    return Scale(
        name=f"gpu-{backbone.removeprefix('resnet')}",
        arms=(
            *("random", "image", "mcl", "supervised", "supervised-mcl", "published-scope", "no-montage"),
            *("wrong-levels", "pairing-same", "pairing-adjacent", "pairing-all", "mcl-backbone", "mcl-fpn"),
            *("image-all", "published-views", "levels-1", "levels-2", "levels-3", "mcl-unmasked", "image-unmasked"),
        ),
        folds=(0, 1, 2, 3, 4, 5),
        seeds=(0, 1),
        levels=4,
        visits=visits,
        pretrain={
            "backbone": backbone,
            "fpn_channels": 128 if backbone == "resnet18" else 256,
            "region_size": region_size,
            "hidden_dim": 1024 if backbone == "resnet18" else 2048,
            "embedding_dim": 128 if backbone == "resnet18" else 256,
            "temperature": 0.2,
            "queue_size": 4096,
            "batch_size": batch,
            "base_learning_rate": 1e-3,
            "weight_decay": 0.05,
            "target_momentum": 0.99,
            "precision": "bf16",
            "augment_on": "device",
            "num_workers": 8,
            "save_every_steps": 500,
            "keep_last": 1,
            "log_every_steps": 20,
        },
        probe_images=(2000, 600),
        detect={
            **_small_images(side, region_size, "mask_rcnn"),
            "batch_size": 16,
            "epochs": 12,
            "base_learning_rate": 0.02,
            "precise_bn_steps": 100,
            "eval_batch_size": 32,
            "precision": "bf16",
            "num_workers": 8,
            "save_every_steps": 500,
            "keep_last": 1,
            "log_every_steps": 20,
        },
        detections=(
            Detection("frozen-100", "train", True, 100, "1x"),
            Detection("full-100", "train", False, 100, "1x"),
            Detection("full-100-3x", "train", False, 100, "3x", {"epochs": 36}),
            Detection("full-20", "train_20", False, 20, "1x"),
            Detection("full-5", "train_5", False, 5, "1x"),
        ),
    )


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (SMOKE, CPU, _gpu("resnet18", 4, 4_000_000, 256), _gpu("resnet50", 7, 4_000_000, 256))
}
SCALES["gpu"] = SCALES["gpu-18"]
"""`gpu` alone is the smaller one: ResNet-18 at 128 px; `gpu-50` is ResNet-50 at 224 px."""


def find_scale(name: str) -> Scale:
    """The scale of a name.

    Raises:
        InputError: there is none.
    """
    if name not in SCALES:
        raise InputError(f"there is no scale {name!r}: choose from {', '.join(SCALES)}")
    return SCALES[name]
