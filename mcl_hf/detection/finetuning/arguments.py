"""`FinetuneArguments`: everything a fine-tuning run can be told, checked before any work is done.

Where it sits: recipe + command line (or keyword arguments) -> `load_finetune_arguments` -> `FinetuneArguments` ->
`resolved` with the data at hand -> `finetune.py`. Options that pre-training has too have the same names and meanings.
"""
# ruff: noqa: RUF009 - `option` returns a dataclasses.field

import dataclasses
import difflib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ...engine.options import FromRecipe, load_options, option, set_types
from ...errors import InputError
from . import auto_rules
from .auto_rules import choose_sizes

RECIPES = "finetune"
"""Folder of the recipes."""
_EITHER_OR = (("epochs", "max_steps"), ("global_batch_size", "batch_size"))
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


@dataclass(kw_only=True)
class FinetuneArguments(FromRecipe):
    """Options of one fine-tuning run; see each field's `metadata["help"]` for its meaning and unit.

    Raises:
        InputError: a value of the wrong type or out of range, or two that contradict each other.
    """

    # --- where to and from -------------------------------------------------------------------------------------
    output_dir: str | None = option(None, "folder of the run: checkpoints, log, pictures, figures, finished detector")
    init: str | None = option(
        None,
        "what to start from: random, timm:NAME, torchvision:NAME (a detector), a file of such a detector's weights, or "
        "the folder or Hub repository user/name[@revision] of a checkpoint",
    )
    init_parts: list[str] = option([], "what is taken of init: backbone, fpn, box_head (all that it holds)")
    resume: str = option(
        "never",
        "auto (newest whole checkpoint of output_dir, if any), never, a checkpoint folder, or a Hub repository "
        "user/name[@revision] that holds checkpoints",
    )
    seed: int = option(0, "seed of new weights, order, scales, flips and sampled regions")

    # --- data --------------------------------------------------------------------------------------------------
    data: str | None = option(
        None,
        "annotated images: COCO, YOLO, Pascal VOC, CSV, Cityscapes, parquet, a Hub data set's name, or "
        "'bccd-mini', which comes with the package",
    )
    split: str = option("train", "part of the data that is trained on")
    val_data: str | None = option(None, "annotated images to measure AP on (data)")
    val_split: str | None = option(None, "part of val_data that AP is measured on (validation)")
    val_fraction: float | None = option(
        None, "share (0 to 1) of the training images to hold out, by the seed, and to measure AP on; not with val_data"
    )
    group_column: str | None = option(
        None, "column of a table or CSV, or entry of COCO's images; val_fraction holds out whole groups of it"
    )
    images: str | None = option(None, "folder of the images of a COCO JSON or CSV (found beside it)")
    val_images: str | None = option(None, "the same for val_data")
    image_column: str | None = option(None, "column that holds the image, in tables")
    objects_column: str = option("objects", "column that holds boxes and categories, in tables")
    box_format: Literal["xywh", "xyxy"] = option("xywh", "how tables write boxes, px")
    skip_broken: bool = option(False, "leave out annotations and files that the check would refuse")
    allow_outside_paths: bool = option(False, "take images outside of the data's folder where paths in the data say so")
    filter_empty: bool = option(True, "leave images without objects out of training")
    data_fraction: float = option(1.0, "share (0 to 1) of the training images that is used, chosen by the seed")
    max_broken: float = option(0.01, "share of images (0 to 1) that may be unreadable before the run stops")
    num_workers: int = option(2, "processes per rank that decode and transform; 0 does it in the training process")

    # --- detector ----------------------------------------------------------------------------------------------
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
    ) = option(
        None,
        "kind of detector, from rt_detr_v2 on those of transformers (mask_rcnn; by the rules of auto, faster_rcnn "
        "where the annotations have no masks)",
    )
    backbone: str | None = option(None, "timm backbone where init is random (resnet50)")
    detector_options: dict[str, Any] | None = option(
        None,
        "fields of MCLDetectorConfig, or of the detector's configuration in transformers, as JSON: numbers of "
        "regions, anchors, thresholds, widths",
    )
    min_size_train: list[int] | None = option(
        None,
        "shorter sides to draw from in training, px (640 672 ... 800); rt_detr_v2, d_fine, deimv2: both sides",
    )
    max_size_train: int | None = option(None, "bound of the longer side in training, px (1333)")
    min_size_test: int | None = option(None, "shorter side in evaluation, px (800)")
    max_size_test: int | None = option(None, "bound of the longer side in evaluation, px (1333)")
    flip: float = option(0.5, "probability of mirroring an image in training")
    freeze_at: int | None = option(None, "backbone stages that do not train: 0 none, 1 the stem, ... 5 all (0)")
    frozen_bn: bool | None = option(None, "keep the backbone's batch norms as they are (off)")
    augment: Literal["off", "light", "strong", "crop"] | None = option(
        None,
        "light: colours; strong: colours, zooming out, crops; crop: crops of half of the images (off; strong for "
        "rt_detr_v2, d_fine and deimv2; crop for deformable_detr and detr)",
    )
    augment_until: float | None = option(
        None,
        "share (0 to 1) of the run after which nothing is augmented, and rt_detr_v2, d_fine and deimv2 see images of "
        "min_size_test alone (1)",
    )
    precise_bn_steps: int | None = option(None, "training batches that batch-norm statistics are made of anew before "
                                          "each evaluation (200); 0: the running averages")  # fmt: skip

    # --- length and batch --------------------------------------------------------------------------------------
    auto: bool = option(False, "choose what is not given from the size of the data, by rules that are printed")
    epochs: float | None = option(None, "passes over the data; instead of max_steps")
    max_steps: int | None = option(None, "optimizer steps (90000, or by the rules of auto)")
    global_batch_size: int | None = option(None, "images per optimizer step over all processes (16)")
    batch_size: int | None = option(None, "images per process and forward pass; instead of global_batch_size")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step")

    # --- optimisation ------------------------------------------------------------------------------------------
    optimizer: Literal["sgd", "adamw"] | None = option(
        None, "sgd (momentum 0.9) or adamw (sgd; adamw for detectors of transformers)"
    )
    base_learning_rate: float | None = option(
        None, "learning rate for 16 images per step (0.02); scaled by images per step / 16"
    )
    backbone_lr_scale: float | None = option(None, "share of the learning rate that the backbone learns at (1)")
    lr_milestones: list[str] | None = option(
        None, "shares of the run after which the learning rate is divided by ten (2/3 8/9)"
    )
    warmup_steps: int | None = option(None, "steps over which the learning rate rises (1000, at most a tenth)")
    weight_decay: float | None = option(None, "weight decay (1e-4); norms get none")
    layer_decay: float = option(1.0, "each backbone stage learns at this factor of the next one's rate")
    clip_grad_norm: float | None = option(
        None,
        "largest total L2 norm of the gradient; larger ones are scaled down (1e6; detectors of transformers: 0.1)",
    )
    ema: bool | None = option(
        None, "evaluate and keep an exponential moving average of the weights (off; on for rt_detr_v2, d_fine, deimv2)"
    )

    # --- machine -----------------------------------------------------------------------------------------------
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "arithmetic of the networks; weights stay in fp32")
    device: Literal["auto", "cpu"] = option("auto", "auto takes the accelerator where there is one")
    tf32: bool = option(True, "on a GPU, let fp32 products and convolutions round their inputs to TensorFloat-32")
    channels_last: bool = option(True, "keep feature maps in channels-last memory, which is faster")
    activation_checkpointing: bool = option(
        False, "recompute norms and activations of the backbone in the backward pass: same gradients, less memory"
    )

    # --- saving and watching -----------------------------------------------------------------------------------
    eval_every_steps: int | None = option(None, "steps between evaluations; 0 evaluates at the end only (0)")
    early_stopping_patience: int | None = option(
        None, "evaluations without a better AP after which the run ends; 0 never (0)"
    )
    eval_batch_size: int = option(1, "images per process and forward pass in evaluation")
    eval_backend: Literal["pycocotools", "faster-coco-eval"] = option(
        "pycocotools", "what computes AP; pycocotools is the number of record"
    )
    save_every_steps: int = option(2500, "steps between checkpoints; 0 saves at the end only")
    keep_last: int = option(3, "checkpoints to keep; 0 keeps all")
    keep_every: int = option(0, "also keep each checkpoint at a multiple of this many steps for good; 0: none")
    log_every_steps: int = option(20, "steps between lines of log.jsonl")
    report_to: list[str] = option([], "trackers besides log.jsonl: tensorboard, wandb, trackio")
    log_images: bool = option(False, "also send pictures of the data to the trackers")

    def __post_init__(self) -> None:
        set_types(self)
        if self.detector is None and not self.auto:
            self.detector = "mask_rcnn"
        at_least = {
            "epochs": 0, "max_steps": 1, "global_batch_size": 1, "batch_size": 1, "gradient_accumulation_steps": 1,
            "warmup_steps": 0, "weight_decay": 0, "num_workers": 0, "save_every_steps": 0, "keep_last": 0,
            "keep_every": 0, "log_every_steps": 1, "seed": 0, "precise_bn_steps": 0, "eval_every_steps": 0,
            "early_stopping_patience": 0, "eval_batch_size": 1, "max_size_train": 32, "min_size_test": 32,
            "max_size_test": 32,
        }  # fmt: skip
        for name, smallest in at_least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise InputError(f"{name} must be at least {smallest}, got {value}")
        for name in ("base_learning_rate", "clip_grad_norm", "epochs", "data_fraction", "layer_decay",
                     "backbone_lr_scale"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be above 0, got {value}")
        for name in ("data_fraction", "layer_decay", "max_broken", "flip", "augment_until"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.min_size_train is not None and (not self.min_size_train or min(self.min_size_train) < 32):
            raise InputError(f"min_size_train needs sides of at least 32 px, got {self.min_size_train}")
        if self.squares and any(side % 32 for side in [*(self.min_size_train or ()), self.min_size_test or 0]):
            raise InputError(f"min_size_train and min_size_test of {self.detector} must be multiples of 32 px")
        if self.val_fraction is not None:
            if not 0 < self.val_fraction < 1:
                raise InputError(f"val_fraction must be above 0 and below 1, got {self.val_fraction}")
            if self.val_data is not None or self.val_split is not None:
                raise InputError("val_fraction holds out training images: give it, or val_data and val_split, not both")
        elif self.group_column is not None:
            raise InputError("group_column says what val_fraction keeps together: give val_fraction too")
        for one, other in _EITHER_OR:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InputError(f"{one} and {other} are both set: give only one of them")
        if self.early_stopping_patience and self.eval_every_steps == 0:
            raise InputError("early_stopping_patience needs evaluations: set eval_every_steps")
        if self.keep_every and (not self.save_every_steps or self.keep_every % self.save_every_steps):
            raise InputError(
                f"keep_every {self.keep_every} must be a multiple of save_every_steps ({self.save_every_steps}): only "
                "checkpoints that are written can be kept"
            )
        self.milestones(1)

    def check_given(self) -> None:
        """See that what no recipe can know is there.

        Raises:
            InputError: it is not.
        """
        if self.init is None:
            raise InputError(
                "--init is missing: random, timm:NAME, torchvision:NAME, or a checkpoint's folder or repository"
            )
        if self.data is None:
            raise InputError(
                "--data is missing: annotated images in COCO's, YOLO's or VOC's format, CSV, parquet, or on the Hub"
            )

    @property
    def squares(self) -> bool:
        """Whether images become squares, as the detector wants them."""
        from ..models.transformers_detectors import TRANSFORMERS_DETECTORS

        kind = TRANSFORMERS_DETECTORS.get(self.detector or "")
        return kind is not None and kind.square

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
        """These options with the gaps filled: by the rules of `auto`, or by the published protocol.

        Args:
            widths: of the training images, px.
            heights: of the training images, px.
            has_masks: whether their annotations have masks.
            start_side: see `auto_rules.choose`.
        """
        from ..models.transformers_detectors import TRANSFORMERS_DETECTORS

        own = (len(widths), widths, heights, self.init == "random", has_masks, start_side)
        chosen = auto_rules.choose(*own) if self.auto else {}
        if self.epochs is not None:
            chosen.pop("max_steps", None)
        if self.batch_size is not None:
            chosen.pop("global_batch_size", None)
        if self.eval_every_steps == 0:
            chosen.pop("early_stopping_patience", None)
        kind = TRANSFORMERS_DETECTORS.get(self.detector or "")
        published = {} if kind is None else dict(kind.options)
        if kind is not None:  # what the rules say of SGD and of frozen batch norm is of no use there
            for name in ("base_learning_rate", "freeze_at", "frozen_bn"):
                chosen.pop(name, None)
        values = {**DEFAULTS, **published, **chosen}
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
        from ..models.configuration_detector import MCLDetectorConfig
        from ..models.transformers_detectors import TRANSFORMERS_DETECTORS, check_options

        own = {"min_size": self.min_size_test, "max_size": self.max_size_test}
        given = dict(self.detector_options or {})
        if self.detector in TRANSFORMERS_DETECTORS:
            check_options(self.detector, given)
            return given
        known = {entry.name for entry in dataclasses.fields(MCLDetectorConfig)}  # type: ignore[arg-type]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "see MCLDetectorConfig"
                raise InputError(f"detector_options has an unknown field {name!r}: {hint}")
            if name in own or name in ("detector", "id2label", "num_labels"):
                raise InputError(f"detector_options must not hold {name!r}, which has an option of its own or the data")
        return {**{name: value for name, value in own.items() if value is not None}, **given}


def load_finetune_arguments(recipe: str | None = None, **overrides: Any) -> FinetuneArguments:
    """Arguments of a recipe (name or YAML file) with `overrides` on top; None among them means "not given".

    Raises:
        InputError: an unknown recipe or field (the nearest match is named), or a value that cannot be used.
    """
    return load_options(FinetuneArguments, recipe, overrides, _EITHER_OR, task=RECIPES)
