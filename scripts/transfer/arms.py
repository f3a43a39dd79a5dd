"""The arms of the transfer benchmark: what is pre-trained, how, and which parts of it a detector starts from.

Flow: **arms** (what differs) + scales (what is equal) -> pretrain_job. An arm is the scale's common recipe with a few
fields changed, so that whatever is not written here is equal for all.

Core arms get equal FLOPs of pre-training (see `flops`), controls and ablations as many steps as MCL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mcl_hf.errors import InputError

ALL_PARTS = ("backbone", "fpn", "region_head")
"""What MCL pre-trains; a detector starts from it (the region head's convolutions become its box head's)."""


@dataclass(frozen=True)
class Arm:
    """One way to start a detector.

    Attributes:
        name: in file names and on the command line.
        title: in tables.
        objective: "none" is a random start.
        changes: fields of `PretrainArguments` on top of the scale's; "levels" is a number of levels.
        parts: of the pre-trained model that are transferred; the others start new, by the seed.
        model: of `controls`, in place of the objective's own.
        weights_of: another arm, whose pre-training this one shares.
        budget: what of MCL's pre-training it gets as much of.
        against: the arm that it is compared with.
        core: whether it is one of the five that the issue is about; the others are controls and ablations.
    """

    name: str
    title: str
    objective: Literal["none", "contrastive", "supervised"] = "contrastive"
    changes: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[str] = ALL_PARTS
    model: str | None = None
    weights_of: str | None = None
    budget: Literal["flops", "steps"] = "steps"
    against: str = "mcl"
    core: bool = False

    @property
    def source(self) -> str:
        """The arm whose pre-training it starts from."""
        return self.weights_of or self.name

    @property
    def tuned_as(self) -> str:
        """The arm whose tuned options it takes over."""
        return self.name if self.core else self.against


_BACKBONE = ("backbone",)
_CORE = [
    Arm("random", "random start", "none", parts=(), core=True),
    Arm(
        "image",
        "image-level contrast",
        changes={"levels": 1},
        parts=_BACKBONE,
        budget="flops",
        core=True,
    ),
    Arm("mcl", "MCL", budget="flops", core=True),
    Arm(
        "supervised",
        "supervised classification",
        "supervised",
        changes={"levels": 1},
        parts=_BACKBONE,
        budget="flops",
        core=True,
    ),
    Arm("supervised-mcl", "supervised MCL", "supervised", budget="flops", core=True),
]
_CONTROLS = [
    Arm("no-montage", "the same crops, each alone", model="alone"),
    Arm("wrong-levels", "montages read from the wrong levels", model="wrong-levels"),
    Arm("published-scope", "published scope", changes={"region_scope": "published"}),
    Arm("pairing-same", "level pairing: same", changes={"level_pairing": "same"}),
    Arm("pairing-adjacent", "level pairing: adjacent", changes={"level_pairing": "adjacent"}),
    Arm("pairing-all", "level pairing: all", changes={"level_pairing": "all"}),
    Arm("mcl-backbone", "MCL, backbone transferred", parts=_BACKBONE, weights_of="mcl"),
    Arm("mcl-fpn", "MCL, backbone and FPN transferred", parts=("backbone", "fpn"), weights_of="mcl"),
    Arm("image-all", "image-level contrast, FPN and head transferred", weights_of="image", against="image"),
    Arm("published-views", "published view rendering", changes={"view_rendering": "published", "augment_on": "cpu"}),
    Arm("levels-1", "one level, FPN and head transferred", changes={"levels": 1}),
    Arm("levels-2", "two levels", changes={"levels": 2}),
    Arm("levels-3", "three levels", changes={"levels": 3}),
    Arm("levels-4", "four levels", changes={"levels": 4}),
    Arm("mcl-unmasked", "MCL, groups unmasked", changes={"group_column": None}),
    Arm(
        "image-unmasked",
        "image-level contrast, groups unmasked",
        changes={"levels": 1, "group_column": None},
        parts=_BACKBONE,
        budget="flops",
        against="image",
    ),
]
ARMS: dict[str, Arm] = {arm.name: arm for arm in (*_CORE, *_CONTROLS)}

_FRACTIONS = (1, 1 / 4, 1 / 16, 1 / 32)
_WEIGHTS = {1: (1.0,), 2: (1 / 2, 1 / 2), 3: (1 / 2, 1 / 4, 1 / 4), 4: (1 / 2, 1 / 4, 1 / 8, 1 / 8)}
"""Weights of the levels' losses; they sum to 1 whatever the number of levels, as the paper's four do."""


def level_fields(levels: int) -> dict[str, list[float]]:
    """Fields of the configuration for the first `levels` of the paper's four, P5 downwards.

    Example:
        >>> level_fields(2)["montage_ratios"]
        [1, 2]
    """
    return {
        "montage_ratios": [2**level for level in range(levels)],
        "montage_fractions": list(_FRACTIONS[:levels]),
        "level_weights": list(_WEIGHTS[levels]),
    }


def find_arm(name: str) -> Arm:
    """The arm of a name.

    Raises:
        InputError: there is none.
    """
    if name not in ARMS:
        raise InputError(f"there is no arm {name!r}: choose from {', '.join(ARMS)}")
    return ARMS[name]
