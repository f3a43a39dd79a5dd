"""What each start of a plan is: where its weights come from, what is taken of them, and what pre-trains it.

Flow: plan -> **starts** -> setting. Named starts that the comparison pre-trains itself:

    mcl            MCL; backbone, FPN and region head are taken
    mcl-backbone   of the same pre-training the backbone alone
    image          image-level contrast (one level, the full view), the backbone is taken
    image-all      of the same pre-training FPN and region head, too

and `coco`, torchvision's weights for COCO of the detector that is compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field

from ..detectors.configuration_detector import LAYOUT, MCLDetectorConfig
from ..detectors.start_detector import PARTS, is_backbone_alone, read_start_config
from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.arithmetic import chosen_device, chosen_precision
from ..engine.options import Options, RunOptions, options_class
from ..engine.state import file_hash
from ..errors import InputError, nearest
from ..finetuning.arguments import FinetuneArguments
from ..models import MCLConfig, MCLForPreTraining
from ..pretraining.arguments import PretrainArguments, load_arguments
from ..pretraining.pretrain import as_the_start
from ..transfer.checkpoint import find_folder
from ..transfer.starting_weights import check_start, plain_source
from ..transfer.torchvision_detectors import COCO_WEIGHTS, TORCHVISION
from .flops import counting_flops
from .plan import ComparePlan

MATCHED = "random-matched"
"""`random` with the compute of a pre-training as further fine-tuning steps."""
IMAGE_LEVEL = {"montage_ratios": [1], "montage_fractions": [1.0], "level_weights": [1.0], "level_pairing": "top"}
NAMED: dict[str, dict[str, Any]] = {
    "mcl": {"pretrain": {}},
    "mcl-backbone": {"of": "mcl", "parts": ["backbone"]},
    "image": {"pretrain": IMAGE_LEVEL, "parts": ["backbone"]},
    "image-all": {"of": "image"},
}
_OF_A_RUN = {"output_dir", "data", "seed", "resume", "epochs", "max_steps", "report_to", "objective"}
_COUNTED_BATCH = 64  # every level of the paper's four has whole montages from 32 images on
_start_config = lru_cache(read_start_config)  # of one call of `compare`: a folder may hold another model in the next
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")

R = TypeVar("R", bound=RunOptions)


@options_class
class Start(Options):
    """One start, as a plan has it (see `ComparePlan`); `read_starts` says of each where it comes from."""

    name: str  # in tables and file names
    init: str | None = None  # as `finetune` takes it; None where the comparison pre-trains it
    pretrain: dict[str, Any] | None = None  # options of its own pre-training
    of: str | None = None  # name of the pre-training of this comparison that it comes from
    parts: list[str] | None = None  # what is taken of it; none: all that it holds
    visits: int | None = Field(None, ge=2)  # of its own pre-training
    finetune: dict[str, Any] | None = None  # options of fine-tuning that differ for this start


@dataclass(frozen=True)
class Pretraining:
    """One way to pre-train."""

    arguments: PretrainArguments  # of each run, less folder, seed and length, and less data until these are opened
    visits: int  # in terms of the first pre-training of the plan; 0: as many as that one

    @property
    def config(self) -> MCLConfig:
        """Of its network."""
        return self.arguments.model_config()

    @property
    def batch(self) -> int:
        """Images a step."""
        return self.arguments.batch_sizes(1)[1]

    @cached_property
    def visit_flop(self) -> float:
        """Floating-point operations of an image's visit, counted by torch without computing anything: convolutions and
        products of forward and backward passes, 2 a multiply-add; optimizer and moving average are left out."""
        config = self.config
        with torch.device("meta"):
            network = MCLForPreTraining(config)
            sides = [config.image_size // ratio for ratio in config.montage_ratios]
            views = [torch.empty(_COUNTED_BATCH, config.num_channels, side, side) for side in sides]
        with counting_flops() as counter:
            network(views, views).loss.backward()
        return counter.get_total_flops() / _COUNTED_BATCH


def read_starts(plan: ComparePlan) -> tuple[list[Start], dict[str, Pretraining]]:
    """The plan's starts in its order, and its pre-trainings by name; what they begin from is there."""
    entries = _entries(plan)
    _start_config.cache_clear()
    content_of_start.cache_clear()
    starts: list[Start] = []
    pretrainings: dict[str, Pretraining] = {}
    for name, start in entries.items():
        source = start.of or name
        of = entries.get(source) or Start(name=source, **NAMED.get(source, {}))
        if of.pretrain is not None:
            if source not in pretrainings:
                pretrainings[source] = _pretraining(plan, of)
            start.of = source
        elif start.of is not None:
            raise InputError(f"start {name} is of {source!r}, which is no pre-training of this comparison")
        else:
            start.init = start.init or name
            if start.init != "coco":
                check_start(start.init, "start" if name == start.init else f"start {name}:")
        for part in start.parts or ():
            if part not in PARTS:
                raise InputError(f"start {name} takes {part!r}: parts are {', '.join(PARTS)}")
        starts.append(start)
        if name == "random" and plan.compute_matched:
            starts.append(Start(name=MATCHED, init="random"))
    if plan.compute_matched and ("random" not in entries or not pretrainings):
        raise InputError("compute_matched needs the start random, and a pre-training whose compute it gets")
    return starts, pretrainings


def _entries(plan: ComparePlan) -> dict[str, Start]:
    """Name -> start, in the plan's order."""
    given = plan.starts
    if not given or not isinstance(given, list | dict):
        raise InputError("starts is missing: name two or more, such as random,timm:resnet50,mcl")
    known = [name for name in Start.__pydantic_fields__ if name != "name"]
    found: dict[str, Start] = {}
    for name, entry in given.items() if isinstance(given, dict) else [(str(name), None) for name in given]:
        name = name.rstrip("/") if isinstance(name, str) else name  # of a folder, as shells complete it
        if name in found:
            raise InputError(f"starts names {name} twice: a start cannot be compared with itself")
        if not isinstance(name, str) or not name or name == MATCHED or ("/" in name and entry):
            raise InputError(f"starts: {name!r} cannot be the name of a start")
        if entry is not None and not isinstance(entry, dict):
            raise InputError(f"start {name} must be a mapping of {', '.join(known)}, got {entry!r}")
        told = dict(entry or NAMED.get(name, {}))
        for key in told:
            if key not in known:
                hint = nearest(key, known) or f"known are {', '.join(known)}"
                raise InputError(f"start {name} has an unknown field {str(key)!r}: {hint}")
        if told.get("pretrain", told) is None:  # an empty line: nothing of it differs
            told["pretrain"] = {}
        try:
            found[name] = Start(name=name, **told)
        except InputError as error:
            raise InputError(f"start {name}: {error}") from error
        if len({"init", "pretrain", "of"} & set(told)) > 1:
            raise InputError(f"start {name} has more than one of init, pretrain and of: give one")
    if len(found) < 2:
        raise InputError(f"starts needs two or more, such as random,mcl, got {', '.join(found)}")
    return found


def _pretraining(plan: ComparePlan, start: Start) -> Pretraining:
    options = {**(plan.pretrain or {}), **(start.pretrain or {})}
    for option in sorted(_OF_A_RUN & set(options)):
        raise InputError(f"start {start.name}: {option} of a pre-training is the comparison's to set: leave it out")
    try:
        arguments = load_arguments(plan.pretrain_recipe, **options, data=["photos"], max_steps=1)
    except InputError as error:
        raise InputError(f"start {start.name}: {error}") from error
    if arguments.init is not None:
        check_start(arguments.init, f"start {start.name}: --init")
        arguments = as_the_start(arguments)  # whose network it is: its operations, and what others are held against
    arguments.model_config()  # which refuses what cannot be made
    return Pretraining(in_one_precision(arguments), start.visits or 0)


@lru_cache
def content_of_start(init: str) -> str:
    """What tells a start from another: of a file or folder here a digest of its weights; of others their name."""
    place = Path(plain_source(init))
    if init == "random" or not place.exists():  # whatever else is called so
        return init
    files = [place]
    if place.is_dir():
        files = sorted(file for file in find_folder(str(place))[0].iterdir() if file.suffix in _WEIGHTS)
    return " ".join(file_hash(file)[:16] for file in files) or init


def in_one_precision(arguments: R) -> R:
    """A run's options with what `auto` means on this machine, so that no results of two precisions are compared."""
    return replace(arguments, precision=chosen_precision(arguments.precision, chosen_device(arguments.device)))


def with_coco_weights(start: Start, detector: str | None) -> Start:
    """A start with the weights that `coco` stands for, where there are some for this detector; others as they are."""
    if start.init != "coco":
        return start
    if detector not in COCO_WEIGHTS:
        raise InputError(
            f"start {start.name}: coco stands for weights of torchvision, which has no {detector}: name a detector of "
            "this kind in a folder or on the Hub"
        )
    return replace(start, init=TORCHVISION + COCO_WEIGHTS[detector])


def reference_network(starts: list[Start], pretrainings: Mapping[str, Pretraining]) -> dict[str, Any]:
    """Fields of `MCLDetectorConfig` that make every start the same network: the first pre-training's, else those of the
    first folder or repository, one with a pyramid before a backbone alone, else the first timm name."""
    if pretrainings:
        return network_fields(next(iter(pretrainings.values())).config)
    configs: list[Any] = []
    for start in starts:
        try:
            configs.append(_start_config(start.init or "random"))
        except ValueError as error:
            raise InputError(f"start {start.name}: {' '.join(str(error).split())}") from error
    found = min((config for config in configs if config is not None), key=is_backbone_alone, default=None)
    if found is not None:
        return network_fields(found)
    names = [start.init for start in starts if start.init and start.init.startswith("timm:")]
    return {"backbone": _timm_name(names[0])} if names else {}


def network_fields(config: Any) -> dict[str, Any]:
    """Backbone, widths and depth of the box head that are not the defaults; of transformers' detectors the backbone."""
    if not isinstance(config, MCLConfig | MCLDetectorConfig):
        inner = config.backbone_config
        return {"backbone": inner.backbone} if isinstance(inner, MCLConfig) else {}
    detector = config if isinstance(config, MCLDetectorConfig) else MCLDetectorConfig.from_mcl(config)
    plain = MCLDetectorConfig(backbone=detector.backbone)
    names = ("backbone_kwargs", "num_channels", "image_mean", "image_std", "fpn_channels", *LAYOUT)
    fields = {name: getattr(detector, name) for name in names if getattr(detector, name) != getattr(plain, name)}
    return {"backbone": detector.backbone, **json.loads(json.dumps(fields))}


def other_network(config: Any, network: Mapping[str, Any], arguments: FinetuneArguments) -> str:
    """What a built detector has in place of the reference's network; empty where nothing."""
    names = () if arguments.detector in TRANSFORMERS_DETECTORS else ("fpn_channels", *LAYOUT)
    given = arguments.detector_options or {}
    plain = {name: getattr(MCLDetectorConfig(), name) for name in names if name not in given}
    own, wanted = {**plain, **network_fields(config)}, {**plain, **network}
    differing = [name for name in ("backbone", *plain) if network and own.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {own.get(name)} in place of {wanted.get(name)}" for name in differing)


def with_network(arguments: FinetuneArguments, network: Mapping[str, Any], init: str) -> FinetuneArguments:
    """Options of a start with which it is the reference's network in all that it leaves open: `random`, timm's and a
    backbone alone do not say how wide the pyramid is, a pre-training run and a detector do."""
    own = _start_config(init)
    if own is not None and not is_backbone_alone(own):
        return arguments
    backbone, left = arguments.backbone, {"backbone"}
    if arguments.detector in TRANSFORMERS_DETECTORS:  # they take no more of it than the backbone
        left |= set(network) - {"backbone_kwargs", "image_mean", "image_std"}
    if init == "random":
        backbone = backbone or network.get("backbone")
    else:  # timm's own arguments and pixel statistics
        left |= {"image_mean", "image_std"}
        left |= {"backbone_kwargs"} if _timm_name(init) != network.get("backbone") else set()
    fields = {name: value for name, value in network.items() if name not in left}
    options = {**fields, **(arguments.detector_options or {})}
    return replace(arguments, backbone=backbone, detector_options=options or None)


def _timm_name(init: str) -> str:
    return init.removeprefix("timm:").split(".")[0]
