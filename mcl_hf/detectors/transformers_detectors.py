"""Detectors of transformers on an MCL backbone: their own classes, losses and post-processing, and how each is trained.

Flow: a start (`--init`) + classes -> **transformers_detectors** -> the loop, checkpoints and evaluation of every
detector. Nothing of the models is ours; here is which class, which image processor and which published settings.

Source: the settings of the published trainings, for 16 images a step, read in facebookresearch/detr @29901c5 (main.py,
datasets/coco.py), fundamentalvision/Deformable-DETR @11169a6 (the same files), lyuwenyu/RT-DETR @068dfde
(rtdetrv2_r50vd_6x_coco), Peterande/D-FINE @4a1f73a (dfine_hgnetv2_l_coco), Intellindust-AI-Lab/DEIMv2 @0fff8d4
(deimv2_hgnetv2_l_coco), facebookresearch/Mask2Former (maskformer2_R50_bs16_50ep.yaml).

Differs from them: pixels are normalised as the start's were, where the RT-DETR kind takes them from 0 to 1; norms have
no weight decay, in DETR and Deformable DETR either; D-FINE's average does not begin anew for the last epochs; of DEIMv2
mosaic, mix-up, copy-blend, the first epochs without augmentation and the fall of the rate to a half are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import timm
import torch
import transformers

from ..engine.resume import check_detector
from ..engine.saving import no_progress_bar
from ..errors import InputError, nearest
from ..models.configuration_mcl import IMAGENET_MEAN, IMAGENET_STD, MCLConfig
from ..models.weight_files import read_json_object
from ..remote.checkpoints import MODEL_FILES, local_checkpoint
from ..transfer.starting_weights import (
    WeightReport,
    load_backbone_weights,
    pixels_line,
    starting_backbone,
    starting_description,
    starting_statistics,
)
from .configuration_detector import SHARED_FIELDS, MCLDetectorConfig
from .encoder_maps import deepest_maps
from .start_detector import KNOWN, copy_rows, known_classes, read_start_config

_ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "base_learning_rate": 1e-4,
    "backbone_lr_scale": 0.1,
    "weight_decay": 1e-4,
    "clip_grad_norm": 0.1,
    "precise_bn_steps": 0,
    "ema": False,
    "augment": "crop",
}
_SHORTEST_SIDE: dict[str, Any] = {
    "min_size_train": [*range(480, 801, 32)], "max_size_train": 1333, "min_size_test": 800, "max_size_test": 1333,
}  # fmt: skip


def _squares(often: int, augment_until: float) -> dict[str, Any]:
    """Of RT-DETR's kind; sides from 480 to 800 px, 640 px so many times as often as any other."""
    return {
        "min_size_train": [*range(480, 640, 32), *[640] * often, *range(672, 801, 32)], "max_size_train": 800,
        "min_size_test": 640, "max_size_test": 640, "ema": True, "augment": "strong", "augment_until": augment_until,
        "lr_milestones": [],
    }  # fmt: skip


@dataclass(frozen=True)
class TransformersDetector:
    """One of transformers' detectors."""

    title: str  # as cards and messages call it
    prefix: str  # of its classes in transformers
    processor: str  # class of its image processor there
    maps: int = 3  # how many of the deepest maps it reads
    square: bool = False  # images are resized to squares, all of a step to the same, and not padded
    masks: bool = False  # it learns from masks and gives masks; boxes are those around them
    slow: str = ""  # pattern of parameters outside of the backbone that learn at a tenth of the rate
    trains_norms: bool = False  # batch norms of the backbone train, where transformers freezes them
    ema_rise: int = 2000  # steps over which the decay of averaged weights rises
    options: Mapping[str, Any] = field(default_factory=dict)  # published settings, which hold where none is given

    @property
    def config_class(self) -> Any:
        """Its configuration in transformers; `InputError` where the installed one has no such detector."""
        return self._class("Config")

    @property
    def model_class(self) -> Any:
        """Its model in transformers; raises as `config_class`."""
        return self._class("ForUniversalSegmentation" if self.masks else "ForObjectDetection")

    def _class(self, ending: str) -> Any:
        found = getattr(transformers, self.prefix + ending, None)
        if found is None:
            raise InputError(f"transformers {transformers.__version__} has no {self.title}: install a newer one")
        return found

    def image_processor(self, mean: list[float], std: list[float], min_size: int, max_size: int) -> Any:
        """transformers' processor for evaluation at these sizes, px, and pixel statistics in [0, 1]."""
        edges = {"shortest_edge": min_size, "longest_edge": max_size}
        size = {"height": min_size, "width": min_size} if self.square else edges
        return getattr(transformers, self.processor)(
            size=size, image_mean=list(mean), image_std=list(std), do_normalize=True, do_pad=not self.square
        )


TRANSFORMERS_DETECTORS: dict[str, TransformersDetector] = {
    "rt_detr_v2": TransformersDetector(
        "RT-DETRv2", "RTDetrV2", "RTDetrImageProcessor", square=True,
        options={**_ADAMW, **_squares(3, 0.986), "warmup_steps": 2000},  # until epoch 71 of 72
    ),
    "d_fine": TransformersDetector(
        "D-FINE", "DFine", "RTDetrImageProcessor", square=True, ema_rise=1000,
        options={**_ADAMW, **_squares(4, 0.9), "base_learning_rate": 1.25e-4, "backbone_lr_scale": 0.05,
                 "weight_decay": 1.25e-4, "warmup_steps": 500},  # until epoch 72 of 80
    ),
    "deimv2": TransformersDetector(
        "DEIMv2", "Deimv2", "RTDetrImageProcessor", square=True, trains_norms=True, ema_rise=1000,
        options={**_ADAMW, **_squares(4, 0.862), "base_learning_rate": 2.5e-4, "backbone_lr_scale": 0.05,
                 "weight_decay": 1.25e-4, "warmup_steps": 2000},  # until epoch 50 of 58
    ),
    "deformable_detr": TransformersDetector(
        "Deformable DETR", "DeformableDetr", "DeformableDetrImageProcessor", slow=r"sampling_offsets|reference_points",
        options={**_ADAMW, **_SHORTEST_SIDE, "lr_milestones": ["4/5"], "warmup_steps": 0},
    ),
    "detr": TransformersDetector(
        "DETR", "Detr", "DetrImageProcessor", maps=1,
        options={**_ADAMW, **_SHORTEST_SIDE, "lr_milestones": ["2/3"], "warmup_steps": 0},
    ),
    "mask2former": TransformersDetector(  # squares and "strong" in place of the published large-scale jitter
        "Mask2Former", "Mask2Former", "Mask2FormerImageProcessor", maps=4, square=True, masks=True,
        options={**_ADAMW, "weight_decay": 0.05, "clip_grad_norm": 0.01, "augment": "strong", "min_size_train": [1024],
                 "max_size_train": 1024, "min_size_test": 1024, "max_size_test": 1024, "warmup_steps": 0,
                 "lr_milestones": ["8/9", "26/27"]},
    ),
}  # fmt: skip
"""Name of the option, which is transformers' `model_type` -> the detector."""

_CLASS_TENSORS = re.compile(r"class_embed|class_labels_classifier|class_predictor|enc_score_head")
_OF_THE_BACKBONE = ("backbone_kwargs", "image_mean", "image_std")
_FROM_ELSEWHERE = ("backbone_config", "encoder_in_channels", "id2label", "label2id", "num_labels")


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """`detector_options` of a detector: fields of its configuration, and `backbone_kwargs` of a backbone that is new.

    Raises:
        InputError: an unknown one, or one that follows from the data or the start.
    """
    known = {entry.name for entry in fields(TRANSFORMERS_DETECTORS[name].config_class)}
    for option in options:
        if option in _FROM_ELSEWHERE:
            raise InputError(f"detector_options must not hold {option!r}, which follows from the data and the start")
        if option not in known and option not in _OF_THE_BACKBONE:
            hint = nearest(option, known) or f"see {TRANSFORMERS_DETECTORS[name].prefix}Config"
            raise InputError(f"detector_options has an unknown field {option!r}: {hint}")


def start_transformers_detector(
    init: str, name: str, id2label: Mapping[int, str], backbone: str | None = None, **options: Any
) -> tuple[Any, WeightReport]:
    """A detector of transformers in training mode on the CPU, filled with what `init` brings, and the report.

    Args:
        init: `random`, `timm:NAME`, an MCL folder or repository (pre-training or detector: its backbone is taken), or a
            detector of the same kind in a folder or on the Hub, of which all that fits is taken; class predictors of
            classes that it knows by name.
        name: key of `TRANSFORMERS_DETECTORS`.
        id2label: names of the classes, from 0.
        backbone: timm architecture where `init` is random.
        options: as of `check_options`.

    Raises:
        InputError: one line: the source cannot be read or does not fit, or a field is wrong.
    """
    kind = TRANSFORMERS_DETECTORS[name]
    check_options(name, options)
    own = {key: value for key, value in options.items() if key not in _OF_THE_BACKBONE}
    classes = {"id2label": dict(id2label), "label2id": {label: index for index, label in id2label.items()}}
    try:
        description = starting_description(init)
        if description.get("model_type") == kind.config_class.model_type:
            return _whole_start(init, kind, classes, own, (options.get("image_mean"), options.get("image_std")))
        of_backbone = {key: value for key, value in options.items() if key in _OF_THE_BACKBONE}
        config = _backbone_config(init, description, backbone, of_backbone)
        if kind.trains_norms or init == "random":
            own = _with_trained_norms(kind, config, own)
        if name in ("detr", "deformable_detr"):
            config, own = deepest_maps(config, kind.maps), {"use_timm_backbone": False, **own}
        model = kind.model_class(kind.config_class(backbone_config=config, **classes, **own)).train()
        report = WeightReport(init) if init == "random" else load_backbone_weights(model, init, verbose=False)
    except InputError:
        raise
    except Exception as error:  # transformers' and our complaints about fields and files, of many types
        raise InputError(f"{kind.title} from {init}: {' '.join(str(error).split())}") from error
    for part in map(_part_of, model.state_dict()):
        if part != "backbone" or init == "random":
            report.count(part, False)
    return model, report


def open_transformers_detector(folder: Path, name: str, id2label: Mapping[int, str], **options: Any) -> Any:
    """The detector of a run's checkpoint, in fp32.

    Raises:
        InputError: it was trained for other classes, or with other options.
    """
    with no_progress_bar():
        model = TRANSFORMERS_DETECTORS[name].model_class.from_pretrained(folder, dtype=torch.float32)
    with torch.device("meta"):  # D-FINE has constants among its parameters, which transformers lets train once loaded
        constants = {n for n, p in type(model)(model.config).named_parameters() if not p.requires_grad}
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name not in constants)
    saved = model.config.to_dict() | {"id2label": {int(key): label for key, label in model.config.id2label.items()}}
    wanted = {key: value for key, value in options.items() if key not in _OF_THE_BACKBONE}
    check_detector(folder, saved, {**wanted, "id2label": dict(id2label)})
    return model


def pixel_statistics(config: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of a detector's pixels in [0, 1]: those of the detector that it started
    from, else its backbone's, else ImageNet's."""
    if getattr(config, "image_mean", None) is not None:
        return list(config.image_mean), list(config.image_std)
    backbone = config.backbone_config
    if not isinstance(backbone, MCLConfig):
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return list(backbone.image_mean or ()), list(backbone.image_std or ())


def _backbone_config(
    init: str, description: Mapping[str, Any], backbone: str | None, given: Mapping[str, Any]
) -> MCLConfig:
    source = read_start_config(init)
    if isinstance(source, MCLDetectorConfig):
        config = MCLConfig(**{**{name: getattr(source, name) for name in SHARED_FIELDS}, **given})
    elif source is not None:
        config = MCLConfig.from_dict(source.to_dict(), **given)
    elif init == "random":
        config = MCLConfig(**{"backbone": backbone or "resnet50", **given})
    elif description.get("model_type") in TRANSFORMERS_DETECTORS:
        other = description["model_type"]
        raise InputError(f"{init} is a {other}: use --detector {other}")
    else:
        statistics = starting_statistics(description)
        own = {} if statistics is None else {"image_mean": statistics[0], "image_std": statistics[1]}
        config = MCLConfig(**{**starting_backbone(description), **own, **given})
    if backbone is not None and config.backbone != backbone:
        raise InputError(f"{init} has backbone {config.backbone}, but {backbone} is asked for: leave backbone out")
    if config.num_channels != 3:
        raise InputError(f"{init} takes {config.num_channels} channels, but detectors of transformers take 3")
    return config


def _with_trained_norms(kind: TransformersDetector, config: MCLConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Batch norms of the backbone train, as they must in a random one; where the detector freezes them always, at least
    no residual branch may start at a scale of zero, which it would keep."""
    if any(entry.name == "freeze_backbone_batch_norms" for entry in fields(kind.config_class)):
        return {"freeze_backbone_batch_norms": False, **options}
    if timm.model_entrypoint(config.backbone).__module__.endswith(".resnet"):
        config.backbone_kwargs = {"zero_init_last": False, **(config.backbone_kwargs or {})}
    return options


def _whole_start(
    init: str, kind: TransformersDetector, classes: dict[str, Any], options: dict[str, Any], statistics: tuple[Any, Any]
) -> tuple[Any, WeightReport]:
    """Another detector of this kind with new classes: everything is taken that has the same shape, and the pixels' mean
    and deviation where `statistics` has None."""
    folder = local_checkpoint(init, MODEL_FILES)
    with no_progress_bar():
        source = kind.model_class.from_pretrained(folder, dtype=torch.float32)
    config = kind.config_class.from_dict({**source.config.to_dict(), **classes, **options})
    of_start = _processed_with(folder) or pixel_statistics(source.config)
    config.image_mean, config.image_std = (given or old for given, old in zip(statistics, of_start, strict=True))
    model = kind.model_class(config).train()
    old = {int(index): label for index, label in source.config.id2label.items()}
    rows = known_classes(classes["id2label"], old)
    new_rows, old_rows = len(classes["id2label"]), len(old)
    given = source.state_dict()
    report = WeightReport(init, pixels=pixels_line(of_start, config.image_mean, config.image_std))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = given.get(name)
            taken = value is not None and value.shape == tensor.shape
            if value is not None and _CLASS_TENSORS.search(name) and tensor.ndim:
                pairs = rows + [(new_rows + n, old_rows + n) for n in range(len(tensor) - new_rows)]  # background
                taken = bool(rows) and copy_rows(tensor, value, pairs, (len(tensor), len(value)))
            elif taken:
                tensor.copy_(value)
            report.count(_part_of(name), taken)
    if len(rows) < new_rows:
        report.parts[KNOWN] = (len(rows), new_rows)
    return model, report


def _processed_with(folder: Path) -> tuple[list[float], list[float]] | None:
    """Pixel statistics of the image processor in a folder, 0 and 1 where it does not normalise; None without one."""
    if not (folder / "preprocessor_config.json").is_file():
        return None
    described = read_json_object(folder / "preprocessor_config.json")
    if not described.get("do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    mean, std = described.get("image_mean"), described.get("image_std")
    return (mean, std) if mean and std else None


def _part_of(name: str) -> str:
    if "backbone" in name:
        return "backbone"
    if _CLASS_TENSORS.search(name):
        return "class predictors"
    return next((part for part in ("encoder", "decoder") if f"{part}." in name), "other parts")
