"""`PretrainArguments`: everything a pre-training run can be told, checked before any work is done.

Where it sits: recipe (a flat YAML of these fields) + command line, or keyword arguments -> `load_arguments` ->
`pretrain.py`. `engine/options.py` has the fields that fine-tuning has, too.
"""

from typing import TYPE_CHECKING, Any, Literal

from ..engine.options import (
    RunOptions,
    load_options,
    of_data,
    of_machine,
    of_network,
    of_optimisation,
    of_place,
    of_watching,
    options_class,
)
from ..errors import InputError

if TYPE_CHECKING:
    from ..models.configuration_mcl import MCLConfig

# A recipe's columns are those of its own data, its timm arguments those of its own backbone.
_BELONGS = {
    "data": ("data_files", "image_column", "label_column", "group_column", "split"),
    "backbone": ("backbone_kwargs",),
    "montage_ratios": ("montage_fractions", "level_weights"),
}


@options_class
class PretrainArguments(RunOptions):
    """Options of one pre-training run; each field's description has its meaning and unit.

    Raises:
        InputError: a value of the wrong type or out of range, or two that contradict each other.

    Example:
        >>> arguments = PretrainArguments(output_dir="runs/own", data="photos", max_steps=100, batch_size=32)
        >>> arguments.batch_sizes(world_size=2)
        (32, 64)
    """

    objective: Literal["contrastive", "supervised"] = of_place(
        "contrastive", "contrastive (no labels) or supervised (every tile classified; needs labels)"
    )
    data: list[str] = of_data(
        [],
        "one or more of: folder of images; parquet, arrow or WebDataset tar file, folder or glob; name of a data set "
        "on the Hub; https:// or hf://datasets/ address of shards, as in name-{000..127}.tar; 'photos' or 'bccd-mini' "
        "for the embedded ones. Several are mixed: one=0.7 other=0.3 in these shares; without weights, every image "
        "once an epoch",
        whole=True,
    )
    streaming: bool = of_data(
        False, "read parquet shards and data sets of the Hub where they lie, without a copy on disk"
    )
    data_files: list[str] | None = of_data(
        None,
        "files to take from a folder, a data set on the Hub or hf://datasets/USER/NAME: names or globs within it, as "
        "in 'train/*.parquet'; they take the place of split",
        whole=True,
    )
    label_column: str | None = of_data(
        None, "column that holds the class; found by itself where it is called label or folders are classes"
    )
    group_column: str | None = of_data(
        None, "column that names a group, or none; images of one group are no negatives of each other"
    )
    tile: int | None = of_data(
        None,
        "cut every picture into tiles of about so many px a side and views from these: for objects that are small in "
        "their picture (views are cut from whole pictures)",
        ge=16,
    )
    view_rendering: Literal["direct", "published"] = of_data(
        "direct", "direct: each view at the size it is used at; published: at full size, then every r-th pixel"
    )
    min_crop_scale: float | None = of_data(
        None,
        "smallest area of a view's crop as a share of the picture, above 0 and at most 1 (0.2, as published); a small "
        "network learns more from views that differ less",
        gt=0,
        le=1,
    )
    augment_on: Literal["cpu", "device"] = of_data(
        "cpu",
        "where views get colour, blur, solarisation and flip: cpu, in the workers; device, in batches where the model "
        "is, which spares a GPU's few cores a third of their work (same draws, within one gray level; direct only)",
    )
    backbone: str | None = of_network(None, "timm model with maps at strides 4, 8, 16 and 32 (that of init; resnet50)")
    backbone_kwargs: dict[str, Any] | None = of_network(None, "more arguments for timm.create_model, as JSON")
    num_channels: int | None = of_network(None, "image channels, 1 to 12 (3)")
    image_mean: list[float] | None = of_network(None, "mean per channel of images scaled to 0..1 (ImageNet's)")
    image_std: list[float] | None = of_network(
        None, "standard deviation per channel of images scaled to 0..1 (ImageNet's)"
    )
    fpn_channels: int | None = of_network(None, "channels of the feature pyramid (256)")
    region_size: int | None = of_network(
        None, "side of a region in feature cells; views have 32 x region_size px (7: 224 px)"
    )
    region_convs: int | None = of_network(None, "3x3 convolutions of the region head (4)")
    hidden_dim: int | None = of_network(None, "hidden width of head and predictors (2048)")
    embedding_dim: int | None = of_network(None, "width of the embeddings that are contrasted (256)")
    montage_ratios: list[int] | None = of_network(None, "down-sampling ratio of each level (1 2 4 8)")
    montage_fractions: list[float] | None = of_network(
        None, "montages of each level per image of the batch (1 1/4 1/16 1/32)"
    )
    level_weights: list[float] | None = of_network(None, "weight of each level's loss (1/2 1/4 1/8 1/8)")
    level_pairing: Literal["top", "same", "adjacent", "all"] | None = of_network(
        None, "target levels that a level's queries are compared with (top)"
    )
    temperature: float | None = of_network(None, "divides the cosines in the loss (1.0)")
    region_scope: Literal["lean", "published"] | None = of_network(
        None, "lean: head, FPN and target only where the loss reads them; published: everywhere (lean)"
    )
    queue_size: int | None = of_network(None, "past target vectors kept as more negatives (0)", ge=0)

    optimizer: Literal["lars", "adamw", "sgd"] = of_optimisation(
        "adamw", "lars (as published, for large batches), adamw or sgd"
    )
    base_learning_rate: float = of_optimisation(
        1e-3, "learning rate for 256 images per step; scaled by global_batch_size / 256", gt=0
    )
    backbone_lr_scale: float = of_optimisation(1.0, "share of the learning rate that the backbone learns at", gt=0)
    min_lr: float = of_optimisation(1e-6, "learning rate that the cosine ends at (not scaled)", ge=0)
    weight_decay: float = of_optimisation(0.05, "weight decay of filters and matrices; norms and biases get none", ge=0)
    clip_grad_norm: float = of_optimisation(
        500.0, "largest total L2 norm of the gradient; larger ones are scaled down", gt=0
    )
    target_momentum: float = of_optimisation(
        0.99, "momentum of the target network at the start; rises to 1 along a cosine", ge=0, le=1
    )

    compile: bool = of_machine(False, "torch.compile backbone, FPN and head: slow first steps, then faster")
    sides_in_turn: bool = of_machine(False, "run and back-propagate the two sides in turn: same gradients, less memory")

    on_collapse: Literal["warn", "stop"] = of_watching(
        "warn", "when embeddings collapse or the loss stays that of a random network: warn, or stop with exit code 2"
    )
    probe_data: str | None = of_watching(
        None,
        "images with boxes and classes, of any kind that finetune takes, that the region features are probed with; "
        "without it, images of the run's own data are looked for in other views",
    )
    probe_every_steps: int = of_watching(
        0,
        "steps between probes, up to the next line of the log; 0: as often as takes under 2 % of the time; -1: never",
        ge=-1,
    )
    probe_images: int = of_watching(128, "images of a probe, held in memory", ge=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_batch_size", "batch_size"):
            if getattr(self, name) == 1:
                raise InputError(f"{name} must be at least 2, because batch norm and the contrast need two images")
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


MODEL_FIELDS = next(tuple(names) for names in PretrainArguments.grouped().values() if "backbone" in names)
"""The options of the network, which are handed to `MCLConfig`; None leaves its default, the paper's value."""


def load_arguments(recipe: str | None = None, **overrides: Any) -> PretrainArguments:
    """Arguments of a recipe (name or YAML file) with `overrides` on top; None among them means "not given".

    Raises:
        InputError: an unknown recipe or field (the nearest match is named), or a value that cannot be used.
    """
    return load_options(PretrainArguments, recipe, overrides, belongs=_BELONGS)
