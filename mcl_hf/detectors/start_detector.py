"""Start a detector: random, from timm, from a pre-training checkpoint or from another detector, with a report.

The report says how many of how many tensors each part got; a part that was asked for and is incomplete is an error.
Of another detector all that fits is taken, of its predictors the rows of classes that both know by name.

Source: the published converter (`convert-sppretrain-to-detectron2.py`) moves the same tensors: 390 of Mask R-CNN's 430
and 354 of RetinaNet's 378 for a ResNet-50.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..transfer.starting_weights import (
    WeightReport,
    pixels_line,
    read_checkpoint,
    rename_from_detector,
    starting_backbone,
    starting_description,
    starting_statistics,
)
from .configuration_detector import LAYOUT, SHARED_FIELDS, MCLDetectorConfig
from .modeling_detector import MCLDetectorPreTrainedModel, MCLForInstanceSegmentation, MCLForObjectDetection

PARTS = {"backbone": "backbone", "fpn": "FPN", "box_head": "box head convs"}
"""Parts that pre-training can bring -> their names in the report. RetinaNet has no box head."""

_TITLES = {
    "backbone.": "backbone",
    "fpn.": "FPN",
    "extra_levels.": "P6 and P7",
    "roi_heads.box_head.conv.": "box head convs",
    "roi_heads.box_head.fc1.": "fc1",
    "roi_heads.box_head.fc2.": "fc2",
    "roi_heads.box_predictor.": "box predictor",
    "roi_heads.mask_head.": "mask head",
    "roi_heads.mask_predictor.": "mask predictor",
    "rpn.": "RPN",
    "retinanet.": "RetinaNet head",
}
_CLASS_TENSORS = re.compile(
    r"^roi_heads\.(box_predictor|mask_predictor\.mask_fcn_logits)\.|classification_head\.cls_logits\."
)
"""Tensors whose shape follows the number of classes: those of a detector for other classes start new."""
KNOWN = "classes known by name"
"""In a report of weights."""
_SAYS_NOTHING = re.compile(r"LABEL_\d+")


def start_detector(
    init: str,
    *,
    detector: str = "mask_rcnn",
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    parts: Sequence[str] | None = None,
    model_class: type[MCLDetectorPreTrainedModel] | None = None,
    verbose: bool = True,
    **fields: Any,
) -> tuple[MCLDetectorPreTrainedModel, WeightReport]:
    """Build a detector and fill what `init` brings.

    Backbone, widths, statistics and the box head's depth follow the checkpoint where the fields do not say otherwise.

    Args:
        init: `random`, `timm:NAME` (fetched by timm), `torchvision:NAME` (a detector, fetched by torchvision), a file
            of weights of a detector of torchvision, a folder of a pre-training run or of another detector, or a Hub
            repository `user/name`.
        detector: `mask_rcnn`, `faster_rcnn` or `retinanet`.
        num_labels: Classes, without background. Either this or `id2label`; where `init` is a detector, neither of them
            means its own.
        id2label: Names of the classes, numbered from 0.
        parts: Which of `backbone`, `fpn`, `box_head` to take, each of which must then be whole. None: all that a
            source of its kind holds (timm: the backbone), and from another detector whatever fits.
        model_class: `MCLForInstanceSegmentation` or `MCLForObjectDetection`; follows `detector` when None.
        verbose: Whether the report is printed.
        fields: Any field of `MCLDetectorConfig`.

    Returns:
        The model, in training mode on the CPU, and the report.

    Raises:
        InputError: One line: the source cannot be read, has another width, lacks a part, or a field is wrong.

    Example:
        >>> from mcl_hf.detection import start_detector
        >>> model, report = start_detector(
        ...     "random", backbone="resnet18", fpn_channels=16, num_labels=2
        ... )  # doctest: +ELLIPSIS
        weights from random: backbone 0/120 (new), FPN 0/48 (new), box head convs 0/24 (new), fc1 0/2 (new), ...
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if id2label is not None:
        if num_labels is not None and num_labels != len(id2label):
            raise InputError(f"num_labels={num_labels} does not fit the {len(id2label)} names of id2label")
        given["id2label"] = dict(id2label)
    elif num_labels is not None:
        given["num_labels"] = num_labels
    try:
        source_config = read_start_config(init)
        if not {"id2label", "num_labels"} & set(given):
            if not isinstance(source_config, MCLDetectorConfig):
                raise InputError("a detector needs its classes: give num_labels or id2label")
            given["id2label"] = source_config.id2label
        config = _detector_config(init, source_config, detector, given, parts)
        own_class = MCLForInstanceSegmentation if config.detector == "mask_rcnn" else MCLForObjectDetection
        model = (model_class or own_class)(config).train()
        tensors = {} if init == "random" else read_checkpoint(init, config)
    except InputError:
        raise
    except ValueError as error:  # a configuration's or a checkpoint's complaint, one line each
        raise InputError(" ".join(str(error).split())) from error
    asked = _parts_of(init, source_config, config) if parts is None else tuple(parts)
    old = source_config if isinstance(source_config, MCLDetectorConfig) else None
    tensors = rename_for_detector(tensors if old is None else rename_from_detector(tensors), config.is_dense)
    if parts is not None:
        possible = [part for part in PARTS if part != "box_head" or not config.is_dense]
        wrong = [part for part in asked if part not in possible]
        if wrong:
            raise InputError(f"parts of {config.detector} are {', '.join(possible)}, got {wrong[0]!r}")
        titles = [PARTS[part] for part in asked]
        prefixes = tuple(prefix for prefix, title in _TITLES.items() if title in titles)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    report = _fill(model, tensors, init, old)
    of_start = starting_statistics(init if source_config is None else source_config.to_dict(), config.num_channels)
    report.pixels = pixels_line(of_start, config.image_mean or (), config.image_std or ())
    for part in asked:
        loaded, total = report.parts[PARTS[part]]
        if loaded < total:
            raise InputError(
                f"{init} does not hold the whole {PARTS[part]}: {loaded}/{total} tensors; give parts without "
                "it to start it anew"
            )
    if verbose:
        print(report)
    return model, report


def rename_for_detector(tensors: Mapping[str, torch.Tensor], shift_levels: bool) -> dict[str, torch.Tensor]:
    """Names in `MCLModel` -> names in a detector; a detector's own names stay. With `shift_levels`, where the pyramid
    starts at P3, level i becomes i - 1, and P2's tensors are left out."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^region_head\.conv\.", "roi_heads.box_head.conv.", name)
        match = re.fullmatch(r"(fpn\.(?:lateral|output)\.)(\d+)(\..*)", name)
        if shift_levels and match:
            if match[2] == "0":
                continue
            name = f"{match[1]}{int(match[2]) - 1}{match[3]}"
        renamed[name] = tensor
    return renamed


def read_start_config(init: str) -> MCLConfig | MCLDetectorConfig | None:
    """Configuration of ours that comes with the weights."""
    description = starting_description(init)
    for kind in (MCLConfig, MCLDetectorConfig):
        if description.get("model_type") == kind.model_type:
            try:
                return kind.from_dict(description)
            except Exception as error:  # transformers raises whatever an odd value leads it to
                raise InputError(f"config.json of {init} cannot be used: {' '.join(str(error).split())}") from error
    return None


def is_backbone_alone(source: MCLConfig | MCLDetectorConfig | None) -> bool:
    """Whether a checkpoint of this configuration holds a backbone and nothing else, as `MCLBackbone` saves it."""
    return isinstance(source, MCLConfig) and source.architectures == ["MCLBackbone"]


def start_side(init: str) -> int | None:
    """Side in px of the images that a start was pre-trained on; None where nothing says so."""
    try:
        config = read_start_config(init)
        if config is None:
            size = (starting_description(init).get("pretrained_cfg") or {}).get("input_size")
            return int(size[-1]) if size else None
    except (ValueError, TypeError):  # whoever opens the start says what is wrong with it
        return None
    return config.image_size if isinstance(config, MCLConfig) else config.min_size


def _detector_config(
    init: str,
    source: MCLConfig | MCLDetectorConfig | None,
    detector: str,
    given: dict[str, Any],
    parts: Sequence[str] | None,
) -> MCLDetectorConfig:
    """The new detector's configuration: the source's where it speaks, `given` above all."""
    if isinstance(source, MCLConfig):
        config = MCLDetectorConfig.from_mcl(source, detector=detector, **given)
    elif isinstance(source, MCLDetectorConfig):
        alike = source.is_dense == (detector == "retinanet")  # Mask R-CNN is Faster R-CNN with masks
        fields = source.to_dict()
        new = ("id2label", "label2id", "architectures", "model_type", "transformers_version")
        shared = (*SHARED_FIELDS, *LAYOUT, "min_size", "max_size", "size_divisible")
        taken = {name: fields[name] for name in ([*fields] if alike else shared) if name not in new}
        config = MCLDetectorConfig(**{**taken, "detector": detector, **given})
    else:
        description = starting_description(init)
        other = description.get("model_type")
        if other is not None and not description.get("architecture"):
            raise InputError(f"{init} is a {other} of transformers: use --detector {other}, if there is such a one")
        statistics = starting_statistics(description, given.get("num_channels", 3))
        own = {} if statistics is None else {"image_mean": statistics[0], "image_std": statistics[1]}
        config = MCLDetectorConfig(detector=detector, **{**starting_backbone(description), **own, **given})
    if isinstance(source, MCLConfig | MCLDetectorConfig):
        takes_fpn = not is_backbone_alone(source) if parts is None else "fpn" in parts
        for field in ("backbone", "fpn_channels") if takes_fpn else ("backbone",):
            if getattr(config, field) != getattr(source, field):
                raise InputError(
                    f"{init} has {field} {getattr(source, field)}, but {getattr(config, field)} is asked for: leave "
                    f"{field} out to take the checkpoint's"
                )
    return config


def _parts_of(init: str, source: MCLConfig | MCLDetectorConfig | None, config: MCLDetectorConfig) -> tuple[str, ...]:
    """Parts that a source of this kind must bring whole."""
    if init == "random":
        return ()
    if is_backbone_alone(source):
        return ("backbone",)
    if isinstance(source, MCLConfig):
        return ("backbone", "fpn", "box_head") if config.box_head_convs and not config.is_dense else ("backbone", "fpn")
    if source is None or (source.is_dense and not config.is_dense):
        return ("backbone",)  # timm's, weights without a configuration of ours, or a pyramid that lacks P2
    return ("backbone", "fpn")


@torch.no_grad()
def _fill(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, old: MCLDetectorConfig | None
) -> WeightReport:
    """Copy tensors by name and count them; another shape is an error, but for the classes of another detector (`old`),
    of whose predictors the rows of known classes are taken."""
    report = WeightReport(source)
    config: Any = model.config
    known = [] if old is None else known_classes(config.id2label, old.id2label)
    first = 0 if config.is_dense else 1  # class 0 of an R-CNN is the background
    rows = [(0, 0)] * first + [(row + first, old_row + first) for row, old_row in known]
    groups = len(config.aspect_ratios) * len(config.anchor_sizes[0]) if config.is_dense else 1
    for name, tensor in model.state_dict().items():
        part = next(title for prefix, title in _TITLES.items() if name.startswith(prefix))
        given = tensors.get(name)
        taken = given is not None
        if given is not None and old is not None and _CLASS_TENSORS.search(name):
            counts = (config.num_labels + first, old.num_labels + first)
            taken = bool(known) and copy_rows(tensor, given, rows, counts, groups)
        elif given is not None and given.shape == tensor.shape:
            tensor.copy_(given)
        elif given is not None:
            raise InputError(
                f"{source} has {name} of shape {tuple(given.shape)}, the detector needs {tuple(tensor.shape)}: its "
                "backbone, width or head differs"
            )
        report.count(part, taken)
    report.parts = {title: report.parts[title] for title in _TITLES.values() if title in report.parts}  # as images flow
    if old is not None and old.is_dense == config.is_dense and len(known) < config.num_labels:
        report.parts[KNOWN] = (len(known), config.num_labels)
    return report


def known_classes(new: Mapping[int, str], old: Mapping[int, str]) -> list[tuple[int, int]]:
    """(index in `new`, index in `old`) of each class of `new` that `old` has under the same name, case aside.

    Names that say nothing (LABEL_0, LABEL_1, ...) are matched by number where there are as many of them.

    Example:
        >>> known_classes({0: "cup", 1: "Person"}, {0: "person", 1: "dog"})
        [(1, 0)]
    """
    alike = [*new.values()] == [*old.values()]  # a name may stand there twice, such as COCO's "N/A"
    if alike or (len(new) == len(old) and all(_SAYS_NOTHING.fullmatch(name) for name in old.values())):
        return [(index, index) for index in range(len(new))]
    place = {name.casefold(): index for index, name in reversed([*old.items()])}
    known = [(index, name.casefold()) for index, name in new.items() if not _SAYS_NOTHING.fullmatch(name)]
    return [(index, place[name]) for index, name in known if name in place]


def copy_rows(
    tensor: torch.Tensor, given: torch.Tensor, rows: Sequence[tuple[int, int]], counts: tuple[int, int], groups: int = 1
) -> bool:
    """Copy the rows of some classes in place, if all other sizes are the same, and say whether.

    Args:
        tensor: `(groups * classes * n, ...)`, as it is with one group for each anchor.
        given: of another number of classes.
        rows: (row of `tensor`, row of `given`), counted in classes.
        counts: classes of `tensor` and of `given`, with a background where there is one.
        groups: how often all classes are repeated.
    """
    if tensor.shape[1:] != given.shape[1:] or len(tensor) * counts[1] != len(given) * counts[0]:
        return False
    own, other = tensor.view(groups, counts[0], -1), given.reshape(groups, counts[1], -1)
    for row, old_row in rows:
        own[:, row] = other[:, old_row]
    return True
