"""From our tensors to a target's and back, and how many of how many went over.

Where it sits: checkpoint -> keymaps -> **convert** -> export; a foreign file -> keymaps -> **convert** -> import.
Pure functions on dictionaries of tensors; values are never changed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .keymaps import COUNTED, NEW_PARTS, Table, to_ours, to_theirs

_PARTS = {
    "backbone.": "backbone",
    "fpn.": "FPN",
    "region_head.conv.": "box head convs",
    "roi_heads.box_head.fc1.": "fc1",
    "roi_heads.box_predictor.": "box predictor",
    "roi_heads.mask_": "mask head",
    "rpn.": "RPN",
    "extra_levels.": "P6 and P7",
    "retinanet.": "RetinaNet head",
}
_OTHERS = "other tensors"
DETECTOR_TITLES = {"mask_rcnn": "Mask R-CNN", "faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet"}


@dataclass
class Coverage:
    """How many of how many tensors of each part of the target come from the checkpoint.

    Attributes:
        title: of the target.
        parts: part -> (given, all).
        left_out: what of ours the target has no place for, or is not fit to go, with the reason.
        notes: what to know of tensors that did go.
        counted: whether `parts` are all of the target.
    """

    title: str
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    counted: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def given(self) -> int:
        return sum(given for given, _ in self.parts.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self.parts.values())

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {given}/{total}" + ("" if given else " (new)") for name, (given, total) in self.parts.items()
        )
        head = f"{self.given} of {self.total} tensors" if self.counted else f"{self.given} tensors"
        rest = "" if self.counted else ", all else starts new"
        remarks = [f"  left out: {line}" for line in self.left_out] + [f"  note: {line}" for line in self.notes]
        return "\n".join([f"{self.title}: {head}: {counts}{rest}", *remarks])


def convert(
    tensors: Mapping[str, torch.Tensor], table: Table, target: str, detector: str
) -> tuple[dict[str, torch.Tensor], Coverage]:
    """Rename our tensors for a detector of another framework.

    Args:
        tensors: Named as in `MCLModel`.
        table: Of the target.
        target: `detectron2`, `mmdet` or `torchvision`.
        detector: `mask_rcnn`, `faster_rcnn` or `retinanet`.

    Returns:
        Tensors under the target's names, contiguous, and the coverage.
    """
    renamed: dict[str, torch.Tensor] = {}
    given = dict.fromkeys((*_PARTS.values(), _OTHERS), 0)
    homeless = given.copy()
    for name, tensor in tensors.items():
        theirs = to_theirs(name, table)
        if theirs is not None:
            renamed[theirs] = tensor.contiguous()
            given[part_of(name)] += 1
        elif not name.startswith("region_head.mlp."):  # no detector has it
            homeless[part_of(name)] += 1
    levels = 3 if detector == "retinanet" else 4
    totals = {"backbone": given["backbone"], "FPN": 12 * levels}  # 2 ConvNorm blocks a level, 6 tensors each
    if detector != "retinanet":
        totals["box head convs"] = given["box head convs"] or 24  # four in all frameworks, where there is no other word
    coverage = Coverage(f"{target} {DETECTOR_TITLES[detector]}", counted=target in COUNTED)
    coverage.parts = {part: (given[part], total) for part, total in totals.items()}
    for part, count in NEW_PARTS[detector].items():
        if coverage.counted or given[part]:
            coverage.parts[part] = (given[part], given[part] or count)
    coverage.left_out = [f"{part}: {count} tensors without a place" for part, count in homeless.items() if count]
    return renamed, coverage


def part_of(name: str) -> str:
    """Part of the coverage report that one of our tensors belongs to; there may be some of a user's own."""
    return next((title for prefix, title in _PARTS.items() if name.startswith(prefix)), _OTHERS)


def convert_back(
    tensors: Mapping[str, torch.Tensor], table: Table
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Rename another framework's tensors to ours.

    Args:
        tensors: Under their names.
        table: Of where they come from.

    Returns:
        Tensors under the names of `MCLModel`, and those that it has no place for under their own. Counters of batches
        (`num_batches_tracked`), which a frozen batch norm lacks, are added as 0.
    """
    ours: dict[str, torch.Tensor] = {}
    left: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        found = to_ours(name, table)
        if found is None:
            left[name] = tensor
        else:
            ours[found] = tensor
    for name in list(ours):
        counter = re.sub(r"running_mean$", "num_batches_tracked", name)
        if counter != name:
            ours.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return ours, left
