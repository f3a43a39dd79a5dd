"""From our tensors to a target's and back, by the tables of `keymaps`, and how many of how many went over. Values are
never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .keymaps import COUNTED, NEW_PARTS, Table, to_ours, to_theirs
from .targets import DETECTORS

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


@dataclass
class Coverage:
    """How many of how many tensors of each part of the target come from the checkpoint."""

    title: str  # of the target
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)  # part -> (given, all)
    left_out: list[str] = field(default_factory=list)  # what of ours has no place there, or is not fit to go
    counted: bool = True  # whether `parts` are all of the target
    notes: list[str] = field(default_factory=list)  # what to know of tensors that did go

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
    """Our tensors for a detector of another framework, under its names by a table, contiguous; and the coverage."""
    renamed: dict[str, torch.Tensor] = {}
    given = dict.fromkeys((*_PARTS.values(), "other tensors"), 0)  # the last are a user's own
    homeless = given.copy()
    for name, tensor in tensors.items():
        theirs = to_theirs(name, table)
        part = next((title for prefix, title in _PARTS.items() if name.startswith(prefix)), "other tensors")
        if theirs is not None:
            renamed[theirs] = tensor.contiguous()
            given[part] += 1
        elif not name.startswith("region_head.mlp."):  # no detector has it
            homeless[part] += 1
    levels = 3 if detector == "retinanet" else 4
    totals = {"backbone": given["backbone"], "FPN": 12 * levels}  # 2 ConvNorm blocks a level, 6 tensors each
    if detector != "retinanet":
        totals["box head convs"] = given["box head convs"] or 24  # four in all frameworks, where there is no other word
    coverage = Coverage(f"{target} {DETECTORS[detector]}", counted=target in COUNTED)
    coverage.parts = {part: (given[part], total) for part, total in totals.items()}
    for part, count in NEW_PARTS[detector].items():
        if coverage.counted or given[part]:
            coverage.parts[part] = (given[part], given[part] or count)
    coverage.left_out = [f"{part}: {count} tensors without a place" for part, count in homeless.items() if count]
    return renamed, coverage


def convert_back(
    tensors: Mapping[str, torch.Tensor], table: Table
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Another framework's tensors under the names of `MCLModel`, and those that it has no place for under their own.

    Counters of batches (`num_batches_tracked`), which a frozen batch norm lacks, are added as 0.
    """
    names = {name: to_ours(name, table) for name in tensors}
    ours = {found: tensors[name] for name, found in names.items() if found is not None}
    for name in [name for name in ours if name.endswith("running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        ours.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return ours, {name: tensors[name] for name, found in names.items() if found is None}
