"""`PretrainArguments`: everything a pre-training run can be told, checked before any work is done.

Where it sits: recipe file + command line (or keyword arguments) -> `load_arguments` -> `PretrainArguments` ->
`pretrain.py`. A recipe is a flat YAML of these fields. `options.py` has what every task's arguments share.
"""
# ruff: noqa: RUF009 - `option` returns a dataclasses.field

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..engine.options import FromRecipe, load_options, option, set_types
from ..errors import InputError

if TYPE_CHECKING:
    from ..models.configuration_mcl import MCLConfig

# Fields that describe the network and are handed to `MCLConfig`; None leaves its default, which is the paper's value.
MODEL_FIELDS = (
    "backbone",
    "backbone_kwargs",
    "num_channels",
    "image_mean",
    "image_std",
    "fpn_channels",
    "region_size",
    "region_convs",
    "hidden_dim",
    "embedding_dim",
    "montage_ratios",
    "montage_fractions",
    "level_weights",
    "level_pairing",
    "temperature",
    "region_scope",
    "queue_size",
)
# Of each pair only one may be set; an override replaces the recipe's other one.
_EITHER_OR = (("epochs", "max_steps"), ("global_batch_size", "batch_size"))
# A recipe's columns are those of its own data, its timm arguments those of its own backbone.
_BELONGS = {
    "data": ("data_files", "image_column", "label_column", "group_column", "split"),
    "backbone": ("backbone_kwargs",),
}


@dataclass(kw_only=True)
class PretrainArguments(FromRecipe):
    """Options of one pre-training run; see each field's `metadata["help"]` for its meaning and unit.

    Raises:
        InputError: a value of the wrong type or out of range, or two that contradict each other.

    Example:
        >>> arguments = PretrainArguments(output_dir="runs/own", data="photos", max_steps=100, batch_size=32)
        >>> arguments.batch_sizes(world_size=2)
        (32, 64)
    """

    # --- where to and from -------------------------------------------------------------------------------------
    output_dir: str | None = option(None, "folder of the run: checkpoints, log, pictures and the finished model")
    objective: Literal["contrastive", "supervised"] = option(
        "contrastive", "contrastive (no labels) or supervised (every tile classified; needs labels)"
    )
    init: str | None = option(
        None, "weights to start from: timm:NAME, a folder or a Hub repository user/name[@revision]"
    )
    resume: str = option(
        "never",
        "auto (newest whole checkpoint of output_dir, if any), never, a checkpoint folder, or a Hub repository "
        "user/name[@revision] that holds checkpoints",
    )
    seed: int = option(0, "seed of weights, order of images, crops, colours and montages")

    # --- data --------------------------------------------------------------------------------------------------
    data: list[str] = option(
        ["photos"],
        "one or more of: folder of images; parquet, arrow or WebDataset tar file, folder or glob; name of a data set "
        "on the Hub; https:// or hf://datasets/ address of shards, as in name-{000..127}.tar; 'photos' or 'bccd-mini' "
        "for the embedded ones. Several are mixed: one=0.7 other=0.3 in these shares; without weights, every image "
        "once an epoch",
    )
    streaming: bool = option(
        False, "read parquet shards and data sets of the Hub where they lie, without a copy on disk"
    )
    data_files: list[str] | None = option(
        None,
        "files to take from a folder, a data set on the Hub or hf://datasets/USER/NAME: names or globs within it, as "
        "in 'train/*.parquet'; they take the place of split",
    )
    image_column: str | None = option(None, "column that holds the image; found by itself where there is only one")
    label_column: str | None = option(
        None, "column that holds the class; found by itself where it is called label or folders are classes"
    )
    group_column: str | None = option(
        None, "column that names a group, or none; images of one group are no negatives of each other"
    )
    split: str = option("train", "part of the data, where its folders or files tell parts apart")
    tile: int | None = option(
        None,
        "cut every picture into tiles of about so many px a side and views from these: for objects that are small in "
        "their picture (views are cut from whole pictures)",
    )
    allow_outside_paths: bool = option(False, "read images outside of the data's folder where paths in tables say so")
    max_broken: float = option(0.01, "share of images (0 to 1) that may be unreadable before the run stops")
    view_rendering: Literal["direct", "published"] = option(
        "direct", "direct: each view at the size it is used at; published: at full size, then every r-th pixel"
    )
    min_crop_scale: float | None = option(
        None,
        "smallest area of a view's crop as a share of the picture, above 0 and at most 1 (0.2, as published); a small "
        "network learns more from views that differ less",
    )
    augment_on: Literal["cpu", "device"] = option(
        "cpu",
        "where views get colour, blur, solarisation and flip: cpu, in the workers; device, in batches where the model "
        "is, which spares a GPU's few cores a third of their work (same draws, within one gray level; direct only)",
    )
    num_workers: int = option(2, "processes per rank that decode and augment; 0 does it in the training process")

    # --- model (None: the paper's value) -----------------------------------------------------------------------
    backbone: str | None = option(None, "timm model with maps at strides 4, 8, 16 and 32 (that of init; resnet50)")
    backbone_kwargs: dict[str, Any] | None = option(None, "more arguments for timm.create_model, as JSON")
    num_channels: int | None = option(None, "image channels, 1 to 12 (3)")
    image_mean: list[float] | None = option(None, "mean per channel of images scaled to 0..1 (ImageNet's)")
    image_std: list[float] | None = option(None, "standard deviation per channel of images scaled to 0..1 (ImageNet's)")
    fpn_channels: int | None = option(None, "channels of the feature pyramid (256)")
    region_size: int | None = option(
        None, "side of a region in feature cells; views have 32 x region_size px (7: 224 px)"
    )
    region_convs: int | None = option(None, "3x3 convolutions of the region head (4)")
    hidden_dim: int | None = option(None, "hidden width of head and predictors (2048)")
    embedding_dim: int | None = option(None, "width of the embeddings that are contrasted (256)")
    montage_ratios: list[int] | None = option(None, "down-sampling ratio of each level (1 2 4 8)")
    montage_fractions: list[float] | None = option(
        None, "montages of each level per image of the batch (1 1/4 1/16 1/32)"
    )
    level_weights: list[float] | None = option(None, "weight of each level's loss (1/2 1/4 1/8 1/8)")
    level_pairing: Literal["top", "same", "adjacent", "all"] | None = option(
        None, "target levels that a level's queries are compared with (top)"
    )
    temperature: float | None = option(None, "divides the cosines in the loss (1.0)")
    region_scope: Literal["lean", "published"] | None = option(
        None, "lean: head, FPN and target only where the loss reads them; published: everywhere (lean)"
    )
    queue_size: int | None = option(None, "past target vectors kept as more negatives (0)")

    # --- length and batch --------------------------------------------------------------------------------------
    epochs: float | None = option(None, "passes over the data; 100 where max_steps is not set either")
    max_steps: int | None = option(None, "optimizer steps; instead of epochs")
    global_batch_size: int | None = option(None, "images per optimizer step over all processes and accumulation steps")
    batch_size: int | None = option(None, "images per process and forward pass; instead of global_batch_size (64)")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step; adds no negatives")

    # --- optimisation ------------------------------------------------------------------------------------------
    optimizer: Literal["lars", "adamw", "sgd"] = option("adamw", "lars (as published, for large batches), adamw or sgd")
    base_learning_rate: float = option(1e-3, "learning rate for 256 images per step; scaled by global_batch_size / 256")
    backbone_lr_scale: float = option(1.0, "share of the learning rate that the backbone learns at")
    min_lr: float = option(1e-6, "learning rate that the cosine ends at (not scaled)")
    warmup_steps: int | None = option(None, "steps over which the learning rate rises (a tenth of the run)")
    weight_decay: float = option(0.05, "weight decay of filters and matrices; norms and biases get none")
    clip_grad_norm: float = option(500.0, "largest total L2 norm of the gradient; larger ones are scaled down")
    target_momentum: float = option(0.99, "momentum of the target network at the start; rises to 1 along a cosine")

    # --- machine -----------------------------------------------------------------------------------------------
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "arithmetic of the networks; weights stay in fp32")
    device: Literal["auto", "cpu"] = option("auto", "auto takes the accelerator where there is one")
    tf32: bool = option(True, "on a GPU, let fp32 products and convolutions round their inputs to TensorFloat-32")
    channels_last: bool = option(True, "keep feature maps in channels-last memory, which is faster")
    compile: bool = option(False, "torch.compile backbone, FPN and head: slow first steps, then faster")
    activation_checkpointing: bool = option(
        False, "recompute norms and activations of the backbone in the backward pass: same gradients, less memory"
    )
    sides_in_turn: bool = option(False, "run and back-propagate the two sides in turn: same gradients, less memory")

    # --- saving and watching -----------------------------------------------------------------------------------
    save_every_steps: int = option(
        1000,
        "steps between checkpoints; 0 saves at the end only. They are written beside training, from a copy in host "
        "memory as large as the checkpoint",
    )
    keep_last: int = option(3, "checkpoints to keep; 0 keeps all")
    keep_every: int = option(0, "also keep each checkpoint at a multiple of this many steps for good; 0: none")
    log_every_steps: int = option(10, "steps between lines of log.jsonl")
    on_collapse: Literal["warn", "stop"] = option(
        "warn", "when embeddings collapse or the loss stays that of a random network: warn, or stop with exit code 2"
    )
    probe_data: str | None = option(
        None,
        "images with boxes and classes (COCO JSON or folder, VOC, Cityscapes; parquet, folder or Hub data set with "
        "columns image and objects) that the region features are probed with; without it, images of the run's own data "
        "are looked for in other views",
    )
    probe_every_steps: int = option(
        0, "steps between probes, up to the next line of the log; 0: as often as takes under 2 % of the time; -1: never"
    )
    probe_images: int = option(128, "images of a probe, held in memory")
    report_to: list[str] = option([], "trackers besides log.jsonl: tensorboard, wandb, trackio")
    log_images: bool = option(
        False, "also send pictures of the data to the trackers; they stay in output_dir otherwise"
    )

    def __post_init__(self) -> None:
        set_types(self)
        self._check_ranges()
        for one, other in _EITHER_OR:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InputError(f"{one} and {other} are both set: give only one of them")
        if self.min_crop_scale is not None and not 0 < self.min_crop_scale <= 1:
            raise InputError(f"min_crop_scale must be above 0 and at most 1, got {self.min_crop_scale}")
        if self.activation_checkpointing and self.compile:
            raise InputError(
                "activation_checkpointing and compile are both set: a compiled backbone recomputes by itself"
            )
        if self.augment_on == "device" and self.view_rendering == "published":
            raise InputError("augment_on device works with view_rendering direct only: leave one of the two out")
        if self.objective == "supervised":
            for name in ("queue_size", "sides_in_turn"):
                if getattr(self, name):
                    raise InputError(f"{name} belongs to the contrastive objective: leave it out for a supervised run")
        if self.keep_every and (not self.save_every_steps or self.keep_every % self.save_every_steps):
            raise InputError(
                f"keep_every {self.keep_every} must be a multiple of save_every_steps ({self.save_every_steps}): only "
                "checkpoints that are written can be kept"
            )
        if self.resume not in ("auto", "never") and not self.resume:
            raise InputError("resume is empty: give auto, never or a checkpoint folder")

    def _check_ranges(self) -> None:
        at_least = {
            "epochs": 0, "max_steps": 1, "global_batch_size": 2, "batch_size": 2, "gradient_accumulation_steps": 1,
            "warmup_steps": 0, "weight_decay": 0, "min_lr": 0, "num_workers": 0, "save_every_steps": 0, "keep_last": 0,
            "keep_every": 0,
            "log_every_steps": 1, "probe_every_steps": -1, "probe_images": 4, "seed": 0, "queue_size": 0,
            "tile": 16,
        }  # fmt: skip
        for name, smallest in at_least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                reason = ", because batch norm and the contrast need two images" if "batch_size" in name else ""
                raise InputError(f"{name} must be at least {smallest}{reason}, got {value}")
        for name in ("base_learning_rate", "backbone_lr_scale", "clip_grad_norm", "epochs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be above 0, got {value}")
        for name in ("target_momentum", "max_broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def model_config(self, **more: Any) -> "MCLConfig":
        """The `MCLConfig` of this run; `more` are further fields (`num_labels`).

        Raises:
            InputError: fields that contradict each other, or a backbone that is unknown or lacks the strides 4 to 32.
        """
        from ..models.configuration_mcl import MCLConfig

        given = {name: getattr(self, name) for name in MODEL_FIELDS if getattr(self, name) is not None}
        try:
            return MCLConfig(**given, **more)
        except ValueError as error:  # MCLConfig's own checks; its message names the field
            raise InputError(" ".join(str(error).split())) from error

    def batch_sizes(self, world_size: int) -> tuple[int, int]:
        """(images per process and forward pass, images per optimizer step over everything).

        Raises:
            InputError: `global_batch_size` cannot be split evenly, or leaves a process fewer than two images.
        """
        parts = world_size * self.gradient_accumulation_steps
        if self.global_batch_size is None:
            per_process = 64 if self.batch_size is None else self.batch_size
            return per_process, per_process * parts
        if self.global_batch_size % parts or self.global_batch_size // parts < 2:
            raise InputError(
                f"global_batch_size {self.global_batch_size} cannot be split over {world_size} processes x "
                f"{self.gradient_accumulation_steps} accumulation steps: "
                f"use a multiple of {parts}, at least {2 * parts}"
            )
        return self.global_batch_size // parts, self.global_batch_size

    def total_steps(self, num_images: int, global_batch_size: int) -> int:
        """Optimizer steps of the run: `max_steps`, or `epochs` passes over `num_images` (at least one step)."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, int((100 if self.epochs is None else self.epochs) * num_images / global_batch_size))


def load_arguments(recipe: str | None = None, **overrides: Any) -> PretrainArguments:
    """Arguments of a recipe (name or YAML file) with `overrides` on top; None among them means "not given".

    Raises:
        InputError: an unknown recipe or field (the nearest match is named), or a value that cannot be used.
    """
    return load_options(PretrainArguments, recipe, overrides, _EITHER_OR, belongs=_BELONGS)
