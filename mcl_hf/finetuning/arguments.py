"""`FinetuneArguments`: everything a fine-tuning run can be told, checked before any work is done.

Where it sits: recipe + command line (or keyword arguments) -> `load_finetune_arguments` -> `FinetuneArguments` ->
`resolved` with the data at hand -> `finetune.py`. Options that pre-training has too have the same names and meanings.
"""

import dataclasses
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..engine.options import (
    RunOptions,
    load_options,
    of_data,
    of_length,
    of_network,
    of_optimisation,
    of_place,
    of_watching,
    options_class,
)
from ..errors import InputError, nearest
from . import auto_rules
from .auto_rules import choose_sizes

if TYPE_CHECKING:
    from ..detectors.transformers_detectors import TransformersDetector

RECIPES = "finetune"
"""Folder of the recipes."""
# What the rules of `auto` may fill, and what stands there without them: the protocol of published COCO numbers. What
# transformers' detectors were trained with is in `transformers_detectors.py`.
DEFAULTS: dict[str, Any] = {
    "base_learning_rate": 0.02,
    "warmup_steps": 1000,
    "min_size_train": choose_sizes(640, 800),
    "max_size_train": 1333,
    "min_size_test": 800,
    "max_size_test": 1333,
    "freeze_at": 0,
    "frozen_bn": False,
    "eval_every_steps": 0,
    "early_stopping_patience": 0,
    "optimizer": "sgd",
    "backbone_lr_scale": 1.0,
    "lr_milestones": ["2/3", "8/9"],
    "weight_decay": 1e-4,
    "clip_grad_norm": 1e6,
    "precise_bn_steps": 200,
    "ema": False,
    "augment": "off",
    "augment_until": 1.0,
}


@options_class
class FinetuneArguments(RunOptions):
    """Options of one fine-tuning run; each field's description has its meaning and unit.

    Raises:
        InputError: a value of the wrong type or out of range, or two that contradict each other.
    """

    init: str | None = of_place(
        None,
        "what to start from: random, timm:NAME, torchvision:NAME (a detector), a file of such a detector's weights, or "
        "the folder or Hub repository user/name[@revision] of a checkpoint",
    )
    init_parts: list[str] = of_place([], "what is taken of init: backbone, fpn, box_head (all that it holds)")
    data: str | None = of_data(
        None,
        "annotated images: COCO, YOLO, Pascal VOC, CSV, Cityscapes, parquet, a Hub data set's name, or "
        "'bccd-mini', which comes with the package",
    )
    val_data: str | None = of_data(None, "annotated images to measure AP on (data)")
    val_split: str | None = of_data(None, "part of val_data that AP is measured on (validation)")
    val_fraction: float | None = of_data(
        None,
        "share (0 to 1) of the training images to hold out, by the seed, and to measure AP on; not with val_data",
        gt=0,
        lt=1,
    )
    group_column: str | None = of_data(
        None, "column of a table or CSV, or entry of COCO's images; val_fraction holds out whole groups of it"
    )
    images: str | None = of_data(None, "folder of the images of a COCO JSON or CSV (found beside it)", "image_root")
    val_images: str | None = of_data(None, "the same for val_data", "val_image_root")
    objects_column: str = of_data("objects", "column that holds boxes and categories, in tables")
    box_format: Literal["xywh", "xyxy"] = of_data("xywh", "how tables write boxes, px")
    skip_broken: bool = of_data(False, "leave out annotations and files that the check would refuse")
    filter_empty: bool = of_data(True, "leave images without objects out of training")
    data_fraction: float = of_data(
        1.0, "share (0 to 1) of the training images that is used, chosen by the seed", gt=0, le=1
    )
    detector: (
        Literal[
            "mask_rcnn",
            "faster_rcnn",
            "retinanet",
            "rt_detr_v2",
            "d_fine",
            "deimv2",
            "deformable_detr",
            "detr",
            "mask2former",
        ]
        | None
    ) = of_network(
        None,
        "kind of detector, from rt_detr_v2 on those of transformers (mask_rcnn; by the rules of auto, faster_rcnn "
        "where the annotations have no masks)",
    )
    backbone: str | None = of_network(None, "timm backbone where init is random (resnet50)")
    detector_options: dict[str, Any] | None = of_network(
        None,
        "fields of MCLDetectorConfig, or of the detector's configuration in transformers, as JSON: numbers of "
        "regions, anchors, thresholds, widths",
    )
    min_size_train: list[int] | None = of_network(
        None,
        "shorter sides to draw from in training, px (640 672 ... 800); rt_detr_v2, d_fine, deimv2: both sides",
    )
    max_size_train: int | None = of_network(None, "bound of the longer side in training, px (1333)", ge=32)
    min_size_test: int | None = of_network(None, "shorter side in evaluation, px (800)", ge=32)
    max_size_test: int | None = of_network(None, "bound of the longer side in evaluation, px (1333)", ge=32)
    flip: float = of_network(0.5, "probability of mirroring an image in training", ge=0, le=1)
    freeze_at: int | None = of_network(None, "backbone stages that do not train: 0 none, 1 the stem, ... 5 all (0)")
    frozen_bn: bool | None = of_network(None, "keep the backbone's batch norms as they are (off)")
    augment: Literal["off", "light", "strong", "crop"] | None = of_network(
        None,
        "light: colours; strong: colours, zooming out, crops; crop: crops of half of the images (off; strong for "
        "rt_detr_v2, d_fine and deimv2; crop for deformable_detr and detr)",
    )
    augment_until: float | None = of_network(
        None,
        "share (0 to 1) of the run after which nothing is augmented, and rt_detr_v2, d_fine and deimv2 see images of "
        "min_size_test alone (1)",
        ge=0,
        le=1,
    )
    precise_bn_steps: int | None = of_network(
        None,
        "training batches that batch-norm statistics are made of anew before "
        "each evaluation (200); 0: the running averages",
        ge=0,
    )

    auto: bool = of_length(False, "choose what is not given from the size of the data, by rules that are printed")
    optimizer: Literal["sgd", "adamw"] | None = of_optimisation(
        None, "sgd (momentum 0.9) or adamw (sgd; adamw for detectors of transformers)"
    )
    base_learning_rate: float | None = of_optimisation(
        None, "learning rate for 16 images per step (0.02); scaled by images per step / 16", gt=0
    )
    backbone_lr_scale: float | None = of_optimisation(
        None, "share of the learning rate that the backbone learns at (1)", gt=0
    )
    lr_milestones: list[str] | None = of_optimisation(
        None, "shares of the run after which the learning rate is divided by ten (2/3 8/9)"
    )
    warmup_steps: int | None = of_optimisation(
        None, "steps over which the learning rate rises (1000, at most a tenth)", ge=0
    )
    weight_decay: float | None = of_optimisation(None, "weight decay (1e-4); norms get none", ge=0)
    layer_decay: float = of_optimisation(
        1.0, "each backbone stage learns at this factor of the next one's rate", gt=0, le=1
    )
    clip_grad_norm: float | None = of_optimisation(
        None,
        "largest total L2 norm of the gradient; larger ones are scaled down (1e6; detectors of transformers: 0.1)",
        gt=0,
    )
    ema: bool | None = of_optimisation(
        None, "evaluate and keep an exponential moving average of the weights (off; on for rt_detr_v2, d_fine, deimv2)"
    )

    eval_every_steps: int | None = of_watching(None, "steps between evaluations; 0 evaluates at the end only (0)", ge=0)
    early_stopping_patience: int | None = of_watching(
        None, "evaluations without a better AP after which the run ends; 0 never (0)", ge=0
    )
    eval_batch_size: int = of_watching(1, "images per process and forward pass in evaluation", ge=1)
    eval_backend: Literal["pycocotools", "faster-coco-eval"] = of_watching(
        "pycocotools", "what computes AP; pycocotools is the number of record"
    )
    save_every_steps: int = of_watching(2500, "steps between checkpoints; 0 saves at the end only", ge=0)
    log_every_steps: int = of_watching(20, "steps between lines of log.jsonl", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector is None and not self.auto:
            self.detector = "mask_rcnn"
        if self.min_size_train is not None and (not self.min_size_train or min(self.min_size_train) < 32):
            raise InputError(f"min_size_train needs sides of at least 32 px, got {self.min_size_train}")
        if self.squares and any(side % 32 for side in [*(self.min_size_train or ()), self.min_size_test or 0]):
            raise InputError(f"min_size_train and min_size_test of {self.detector} must be multiples of 32 px")
        if self.val_fraction is None and self.group_column is not None:
            raise InputError("group_column says what val_fraction keeps together: give val_fraction too")
        if self.val_fraction is not None and (self.val_data is not None or self.val_split is not None):
            raise InputError("val_fraction holds out training images: give it, or val_data and val_split, not both")
        if self.early_stopping_patience and self.eval_every_steps == 0:
            raise InputError("early_stopping_patience needs evaluations: set eval_every_steps")
        self.milestones(1)

    def check_given(self) -> None:
        """Raise an `InputError` where what no recipe can know is not there."""
        if self.init is None:
            raise InputError(
                "--init is missing: random, timm:NAME, torchvision:NAME, or a checkpoint's folder or repository"
            )
        if self.data is None:
            raise InputError(
                "--data is missing: annotated images in COCO's, YOLO's or VOC's format, CSV, parquet, or on the Hub"
            )

    @property
    def of_transformers(self) -> "TransformersDetector | None":
        """What is known of the detector, where it is one of transformers."""
        from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS

        return TRANSFORMERS_DETECTORS.get(self.detector or "")

    @property
    def squares(self) -> bool:
        """Whether images become squares, as the detector wants them."""
        return self.of_transformers is not None and self.of_transformers.square

    @property
    def masks(self) -> bool:
        """Whether the detector learns from masks."""
        return self.detector in ("mask_rcnn", "mask2former")

    def milestones(self, max_steps: int) -> list[int]:
        """Steps from which the learning rate is a tenth of what it was.

        Raises:
            InputError: shares that are not ascending within 0 and 1.
        """
        try:
            shares = [Fraction(share) for share in self.lr_milestones or ()]
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"lr_milestones must be shares of the run such as 2/3, got {self.lr_milestones}"
            ) from error
        if shares != sorted(shares) or any(not 0 < share <= 1 for share in shares):
            raise InputError(f"lr_milestones must ascend within 0 and 1, got {self.lr_milestones}")
        return [round(max_steps * share) for share in shares]

    def resolved(
        self, widths: np.ndarray, heights: np.ndarray, has_masks: bool = True, start_side: int | None = None
    ) -> "FinetuneArguments":
        """These options with the gaps filled: by the rules of `auto`, of `auto_rules.choose` and with its arguments, or
        by the published protocol."""
        own = (len(widths), widths, heights, self.init == "random", has_masks, start_side)
        chosen = auto_rules.choose(*own) if self.auto else {}
        if self.epochs is not None:
            chosen.pop("max_steps", None)
        if self.batch_size is not None:
            chosen.pop("global_batch_size", None)
        if self.eval_every_steps == 0:
            chosen.pop("early_stopping_patience", None)
        values = {**DEFAULTS, **chosen}
        if self.of_transformers is not None:  # what the rules say of SGD and of frozen batch norm is of no use there
            for name in ("base_learning_rate", "freeze_at", "frozen_bn"):
                chosen.pop(name, None)
            values = {**DEFAULTS, **self.of_transformers.options, **chosen}
        filled = {name: value for name, value in values.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **filled)

    def batch_sizes(self, world_size: int) -> tuple[int, int]:
        """(images per process and forward pass, images per optimizer step over everything).

        Raises:
            InputError: `global_batch_size` cannot be split evenly.
        """
        parts = world_size * self.gradient_accumulation_steps
        if self.batch_size is not None:
            return self.batch_size, self.batch_size * parts
        images = 16 if self.global_batch_size is None else self.global_batch_size
        if images % parts:
            raise InputError(
                f"global_batch_size {images} cannot be split over {world_size} processes x "
                f"{self.gradient_accumulation_steps} accumulation steps: use a multiple of {parts}"
            )
        return images // parts, images

    def total_steps(self, num_images: int, global_batch_size: int) -> int:
        """Optimizer steps of the run."""
        if self.epochs is not None:
            return max(1, int(self.epochs * num_images / global_batch_size))
        return 90_000 if self.max_steps is None else self.max_steps

    def config_fields(self) -> dict[str, Any]:
        """Fields of `MCLDetectorConfig`, or of transformers' configuration, that these options set.

        Raises:
            InputError: an unknown field in `detector_options`, or one that has an option of its own.
        """
        from ..detectors.configuration_detector import MCLDetectorConfig
        from ..detectors.transformers_detectors import check_options

        given = dict(self.detector_options or {})
        if self.of_transformers is not None:
            check_options(str(self.detector), given)
            return given
        own = {"min_size": self.min_size_test, "max_size": self.max_size_test}
        known = {entry.name for entry in dataclasses.fields(MCLDetectorConfig)}  # type: ignore[arg-type]
        for name in given:
            if name not in known:
                hint = nearest(name, known) or "see MCLDetectorConfig"
                raise InputError(f"detector_options has an unknown field {name!r}: {hint}")
            if name in own or name in ("detector", "id2label", "num_labels"):
                raise InputError(f"detector_options must not hold {name!r}, which has an option of its own or the data")
        return {**{name: value for name, value in own.items() if value is not None}, **given}


def load_finetune_arguments(recipe: str | None = None, **overrides: Any) -> FinetuneArguments:
    """Arguments of a recipe (name or YAML file) with `overrides` on top; None among them means "not given".

    Raises:
        InputError: an unknown recipe or field (the nearest match is named), or a value that cannot be used.
    """
    return load_options(FinetuneArguments, recipe, overrides, task=RECIPES)
