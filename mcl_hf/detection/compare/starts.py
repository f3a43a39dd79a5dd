"""What each start of a plan is: where its weights come from, what is taken of them, and what pre-trains it.

Flow: plan -> **starts** -> jobs. Named starts that the comparison pre-trains itself:

    mcl            MCL; backbone, FPN and region head are taken
    mcl-backbone   of the same pre-training the backbone alone
    image          image-level contrast (one level, the full view), the backbone is taken
    image-all      of the same pre-training FPN and region head, too

and `coco`, torchvision's weights for COCO of the detector that is compared.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from ...errors import InputError
from ...models import MCLConfig
from ...pretraining.arguments import PretrainArguments, load_arguments
from ...transfer.starting_weights import check_start
from ...transfer.torchvision_detectors import COCO_WEIGHTS, TORCHVISION
from ..data.detection_data import DetectionData
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.finetune import build_detector
from ..models.configuration_detector import LAYOUT, MCLDetectorConfig
from ..models.from_pretraining import PARTS, is_backbone_alone, read_start_config
from ..models.transformers_detectors import TRANSFORMERS_DETECTORS
from .plan import ComparePlan

MATCHED = "random-matched"
"""`random` with the compute of a pre-training as further fine-tuning steps."""
IMAGE_LEVEL = {"montage_ratios": [1], "montage_fractions": [1.0], "level_weights": [1.0], "level_pairing": "top"}
NAMED: dict[str, dict[str, Any]] = {
    "mcl": {"pretrain": {}},
    "mcl-backbone": {"of": "mcl", "parts": ["backbone"]},
    "image": {"pretrain": IMAGE_LEVEL, "parts": ["backbone"]},
    "image-all": {"of": "image"},
    "coco": {"init": "coco"},
}
_KEYS = ("init", "pretrain", "of", "parts", "visits", "finetune")
_OF_A_RUN = {"output_dir", "data", "seed", "resume", "epochs", "max_steps", "report_to", "objective"}


@dataclass(frozen=True)
class Start:
    """One start of a comparison.

    Attributes:
        name: in tables and file names.
        init: as `finetune` takes it; None where the comparison pre-trains it.
        pretraining: name of the pre-training it comes from, of this comparison; None for others.
        parts: what is taken of it; empty: all that it holds.
        finetune: options of fine-tuning that differ for this start.
    """

    name: str
    init: str | None
    pretraining: str | None
    parts: tuple[str, ...] = ()
    finetune: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pretraining:
    """One way to pre-train.

    Attributes:
        name: of the start that it is written with.
        arguments: of each run, less folder, data, seed and length.
        visits: in terms of the first pre-training of the plan; None: as many as that one.
    """

    name: str
    arguments: PretrainArguments
    visits: int | None = None

    @property
    def config(self) -> MCLConfig:
        """Of its network."""
        return self.arguments.model_config()


def read_starts(plan: ComparePlan) -> tuple[list[Start], dict[str, Pretraining]]:
    """The starts in the plan's order, and the pre-trainings among them.

    Raises:
        InputError: fewer than two, one that is named twice, or one that is no start.
    """
    entries = _entries(plan)
    pretrainings: dict[str, Pretraining] = {}
    for name, entry in entries.items():
        source = entry.get("of", name)
        found = entries.get(source, NAMED.get(source, {}))
        if "pretrain" in found:
            if source not in pretrainings:
                pretrainings[source] = _pretraining(plan, source, found)
        elif "of" in entry:
            raise InputError(f"start {name} is of {source!r}, which is no pre-training of this comparison")
    starts = []
    for name, entry in entries.items():
        source = entry.get("of", name)
        parts = tuple(entry.get("parts") or ())
        wrong = [part for part in parts if part not in PARTS]
        if wrong:
            raise InputError(f"start {name} takes {wrong[0]!r}: parts are {', '.join(PARTS)}")
        own = source if source in pretrainings else None
        init = None if own else str(entry.get("init", name))
        starts.append(Start(name, init, own, parts, dict(entry.get("finetune") or {})))
    if plan.compute_matched:
        if "random" not in entries or not pretrainings:
            raise InputError("compute_matched needs the start random, and a pre-training whose compute it gets")
        starts.insert([start.name for start in starts].index("random") + 1, Start(MATCHED, "random", None))
    if len(starts) < 2:
        raise InputError(f"starts needs two or more, such as random,mcl, got {', '.join(entries) or 'none'}")
    return starts, pretrainings


def with_coco_weights(start: Start, detector: str | None) -> Start:
    """A start with the weights that `coco` stands for; any other one as it is.

    Raises:
        InputError: torchvision has none for this detector.
    """
    if start.init != "coco":
        return start
    if detector not in COCO_WEIGHTS:
        raise InputError(
            f"start {start.name}: coco stands for weights of torchvision, which has no {detector}: name a detector of "
            "this kind in a folder or on the Hub"
        )
    return replace(start, init=TORCHVISION + COCO_WEIGHTS[detector])


def _entries(plan: ComparePlan) -> dict[str, dict[str, Any]]:
    """Name of a start -> its mapping, in the plan's order."""
    given = plan.starts
    if not given or not isinstance(given, list | dict):
        raise InputError("starts is missing: name two or more, such as random,timm:resnet50,mcl")
    pairs = given.items() if isinstance(given, dict) else [(_text(name), None) for name in given]
    found: dict[str, dict[str, Any]] = {}
    for name, entry in pairs:
        if name in found:
            raise InputError(f"starts names {name} twice: a start cannot be compared with itself")
        if not isinstance(name, str) or not name or name == MATCHED or ("/" in name and entry):
            raise InputError(f"starts: {name!r} cannot be the name of a start")
        if entry is not None and not isinstance(entry, dict):
            raise InputError(f"start {name} must be a mapping of {', '.join(_KEYS)}, got {entry!r}")
        own = dict(entry or NAMED.get(name, {}))
        for key in own:
            if key not in _KEYS:
                near = difflib.get_close_matches(str(key), _KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
                raise InputError(f"start {name} has an unknown field {str(key)!r}: {hint}")
        if sum(key in own for key in ("init", "pretrain", "of")) > 1:
            raise InputError(f"start {name} has more than one of init, pretrain and of: give one")
        found[name] = own
    return found


def _pretraining(plan: ComparePlan, name: str, entry: Mapping[str, Any]) -> Pretraining:
    options = {**(plan.pretrain or {}), **(entry.get("pretrain") or {})}
    for option in sorted(_OF_A_RUN & set(options)):
        raise InputError(f"start {name}: {option} of a pre-training is the comparison's to set: leave it out")
    try:
        arguments = load_arguments(plan.pretrain_recipe, **options, data=["photos"], max_steps=1)
    except InputError as error:
        raise InputError(f"start {name}: {error}") from error
    return Pretraining(name, arguments, entry.get("visits"))


def reference_network(starts: list[Start], pretrainings: Mapping[str, Pretraining]) -> dict[str, Any]:
    """Fields of `MCLDetectorConfig` that make every start the same network: the first pre-training's, else those of the
    first folder or repository, else the first timm name.

    Raises:
        InputError: a start cannot be read.
    """
    if pretrainings:
        return network_fields(next(iter(pretrainings.values())).config)
    alone = None  # the first backbone without a pyramid, where nothing says more
    for start in starts:
        try:
            config = read_start_config(start.init) if start.init else None
        except (InputError, ValueError) as error:
            raise InputError(f"start {start.name}: {' '.join(str(error).split())}") from error
        if config is not None and not is_backbone_alone(config):
            return network_fields(config)
        alone = alone or config
    if alone is not None:
        return network_fields(alone)
    names = [start.init for start in starts if start.init and start.init.startswith("timm:")]
    return {"backbone": names[0].removeprefix("timm:").split(".")[0]} if names else {}


def network_fields(config: Any) -> dict[str, Any]:
    """Backbone, widths and depth of the box head, as far as they are not the defaults; of a detector of transformers
    the backbone's name."""
    if not isinstance(config, MCLConfig | MCLDetectorConfig):
        inner = config.backbone_config
        return {"backbone": inner.backbone} if isinstance(inner, MCLConfig) else {}
    detector = config if isinstance(config, MCLDetectorConfig) else MCLDetectorConfig.from_mcl(config)
    plain = MCLDetectorConfig(backbone=detector.backbone)
    names = ("backbone_kwargs", "num_channels", "image_mean", "image_std", "fpn_channels", *LAYOUT)
    fields = {name: getattr(detector, name) for name in names if getattr(detector, name) != getattr(plain, name)}
    return {"backbone": detector.backbone, **json.loads(json.dumps(fields))}


@lru_cache
def brings_network(init: str) -> bool:
    """Whether a start's configuration says how wide the pyramid is: that of a pre-training run or a detector does."""
    config = None if init == "random" else read_start_config(init)
    return config is not None and not is_backbone_alone(config)


def with_network(arguments: FinetuneArguments, network: Mapping[str, Any], init: str) -> FinetuneArguments:
    """Options of a start that brings no configuration of its own (`random`, timm's), so that it is the reference's
    network in all that it leaves open."""
    of_backbone = ("backbone_kwargs", "image_mean", "image_std")  # all that detectors of transformers take of it
    ours = arguments.detector not in TRANSFORMERS_DETECTORS
    fields = {name: value for name, value in network.items() if name != "backbone" and (ours or name in of_backbone)}
    given = dict(arguments.detector_options or {})
    values = asdict(arguments)
    if init == "random":
        values["backbone"] = arguments.backbone or network.get("backbone")
    else:  # timm's own arguments and pixel statistics
        own = init.removeprefix("timm:").split(".")[0]
        left = {"image_mean", "image_std"} | ({"backbone_kwargs"} if own != network.get("backbone") else set())
        fields = {name: value for name, value in fields.items() if name not in left}
    return FinetuneArguments(**{**values, "detector_options": {**fields, **given} or None})


def check_opens(start: Start, arguments: FinetuneArguments, data: DetectionData) -> tuple[list[str], dict[str, Any]]:
    """Build the detector of a start that is there already, as its jobs will; its coverage report and network.

    Raises:
        InputError: the start cannot be read, or does not fit the options.
    """
    lines: list[str] = []
    try:
        network = build_detector(arguments, data, None, lines)
    except InputError as error:
        raise InputError(f"start {start.name}: {error}") from error
    return lines, network_fields(network.config)


def check_sources(starts: list[Start], pretrainings: Mapping[str, Pretraining]) -> None:
    """See that what starts and pre-trainings begin from is there, and that the networks of the latter can be made.

    Raises:
        InputError: one is not, or cannot.
    """
    for start in starts:
        if start.init not in (None, "coco"):
            check_start(start.init, "start" if start.name == start.init else f"start {start.name}:")
    for pretraining in pretrainings.values():
        if pretraining.arguments.init is not None:
            check_start(pretraining.arguments.init, f"start {pretraining.name}: --init")
        _ = pretraining.config


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
