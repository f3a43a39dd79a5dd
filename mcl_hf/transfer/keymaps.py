"""Names of tensors: ours (those of `MCLModel`) and everyone else's, as tables that are read both ways.

Source: detectron2 `modeling/backbone/{resnet,fpn}.py`, mmdet `models/{backbones/resnet,necks/fpn}.py`, torchvision
`models/detection`; other programs' checkpoints: facebookresearch/moco, WXinlong/DenseCL, hologerry/SoCo.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .targets import DETECTORS

_NUMBER, _WORD = r"(?P<{}>\d+)", {"leaf": r"(?P<leaf>[^.]+)", "rest": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class Rule:
    """One row of a table."""

    ours: str  # our name; `{leaf}` is its last word, `{rest}` any ending, other braces are numbers
    theirs: str  # their name, with the same braces
    shift: int = 0  # added to `{i}` on the way to them
    first: int = 0  # smallest `{i}` of ours that they have: 1 where a pyramid starts at P3
    last: int = 99  # largest one

    def to_theirs(self, name: str) -> str | None:
        """Their name of one of our tensors; None where the row does not speak of it."""
        return _renamed(name, self.ours, self.theirs, range(self.first, self.last + 1), self.shift)

    def to_ours(self, name: str) -> str | None:
        """Our name of one of their tensors."""
        theirs = range(self.first + self.shift, self.last + self.shift + 1)
        return _renamed(name, self.theirs, self.ours, theirs, -self.shift)


def _renamed(name: str, template: str, other: str, known: range, shift: int) -> str | None:
    """A name written by the other template; None where the first does not fit, or its `{i}` is not known."""
    match = _pattern(template).fullmatch(name)
    if match is None:
        return None
    found = match.groupdict()
    if "i" in found:
        if int(found["i"]) not in known:
            return None
        found["i"] = str(int(found["i"]) + shift)
    return other.format(**found)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression; a brace that occurs twice must be the same text."""
    parts, seen = [], set()
    for text, brace in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        parts.append(re.escape(text))
        if brace:
            parts.append(f"(?P={brace})" if brace in seen else _WORD.get(brace, _NUMBER.format(brace)))
            seen.add(brace)
    return re.compile("".join(parts))


Table = Sequence[Rule]


def to_theirs(name: str, table: Table) -> str | None:
    """Their name by the first row that speaks of ours."""
    return next((found for rule in table if (found := rule.to_theirs(name)) is not None), None)


def to_ours(name: str, table: Table) -> str | None:
    """Our name by the first row that speaks of theirs."""
    return next((found for rule in table if (found := rule.to_ours(name)) is not None), None)


def conv_norms(ours: str, conv: str, norm: str, shift: int = 0, first: int = 0, last: int = 99) -> tuple[Rule, ...]:
    """Rows of our `ConvNorm` blocks."""
    return (
        Rule(f"{ours}.conv.{{leaf}}", f"{conv}.{{leaf}}", shift, first, last),
        Rule(f"{ours}.bn.{{leaf}}", f"{norm}.{{leaf}}", shift, first, last),
    )


_DETECTRON2_BACKBONE = (
    Rule("backbone.conv1.{leaf}", "backbone.bottom_up.stem.conv1.{leaf}"),
    Rule("backbone.bn1.{leaf}", "backbone.bottom_up.stem.conv1.norm.{leaf}"),
    Rule("backbone.layer{i}.{b}.conv{c}.{leaf}", "backbone.bottom_up.res{i}.{b}.conv{c}.{leaf}", shift=1),
    Rule("backbone.layer{i}.{b}.bn{c}.{leaf}", "backbone.bottom_up.res{i}.{b}.conv{c}.norm.{leaf}", shift=1),
    Rule("backbone.layer{i}.{b}.downsample.0.{leaf}", "backbone.bottom_up.res{i}.{b}.shortcut.{leaf}", shift=1),
    Rule("backbone.layer{i}.{b}.downsample.1.{leaf}", "backbone.bottom_up.res{i}.{b}.shortcut.norm.{leaf}", shift=1),
)

_FRAMEWORKS: Mapping[str, tuple[Any, ...]] = {
    # rows of the backbone; lateral, output and box convolutions; endings of a convolution and its norm; numbers of P2,
    # or None where they count from the first level that they use, and of the box head's first convolution
    "detectron2": (
        _DETECTRON2_BACKBONE, "backbone.fpn_lateral{i}", "backbone.fpn_output{i}", "roi_heads.box_head.conv{i}",
        ("", ".norm"), 2, 1,
    ),
    "mmdet": (
        (Rule("backbone.{rest}", "backbone.{rest}"),), "neck.lateral_convs.{i}", "neck.fpn_convs.{i}",
        "roi_head.bbox_head.shared_convs.{i}", (".conv", ".bn"), None, 0,
    ),
    "torchvision": (
        (Rule("backbone.{rest}", "backbone.body.{rest}"),), "backbone.fpn.inner_blocks.{i}",
        "backbone.fpn.layer_blocks.{i}", "roi_heads.box_head.{i}", (".0", ".1"), None, 0,
    ),
}  # fmt: skip


def _table(target: str, detector: str) -> Table:
    backbone, lateral, output, box, (conv, norm), of_p2, of_conv = _FRAMEWORKS[target]
    first = 1 if detector == "retinanet" else 0
    shift = -first if of_p2 is None else of_p2
    blocks: list[Any] = [("fpn.lateral.{i}", lateral, shift, first, 3), ("fpn.output.{i}", output, shift, first, 3)]
    if detector != "retinanet":
        blocks.append(("region_head.conv.{i}", box, of_conv))
    rows = (conv_norms(ours, theirs + conv, theirs + norm, *rest) for ours, theirs, *rest in blocks)
    return (*backbone, *itertools.chain.from_iterable(rows))


TABLES: Mapping[tuple[str, str], Table] = {
    (target, detector): _table(target, detector) for target in _FRAMEWORKS for detector in DETECTORS
}
"""(target, detector) -> table: what pre-training brings to a detector of that framework."""

PLAIN: Mapping[str, Table] = {
    "ResNet": (Rule("backbone.{rest}", "{rest}"),),  # as torchvision, timm and most extracted backbones have it
    "MoCo": (Rule("backbone.{rest}", "encoder_q.{rest}"),),
    "DenseCL": (Rule("backbone.{rest}", "encoder_q.0.{rest}"),),
    "SoCo": (
        Rule("backbone.{rest}", "encoder.{rest}"),
        *conv_norms("fpn.lateral.{i}", "neck.lateral_convs.{i}.conv", "neck.lateral_convs.{i}.bn", last=3),
        *conv_norms("fpn.output.{i}", "neck.fpn_convs.{i}.conv", "neck.fpn_convs.{i}.bn", last=3),
        *conv_norms("region_head.conv.{i}", "head.conv{i}", "head.bn{i}", shift=1),
    ),
}
"""What is no detector of a framework; `module.` is stripped before."""

_NEW_IN_RCNN = {"fc1": 2, "box predictor": 4, "mask head": 28, "RPN": 6}
_NEW_IN_DENSE = {"P6 and P7": 4, "RetinaNet head": 20}
NEW_PARTS: Mapping[str, Mapping[str, int]] = {
    "mask_rcnn": _NEW_IN_RCNN,
    "faster_rcnn": {part: count for part, count in _NEW_IN_RCNN.items() if part != "mask head"},
    "retinanet": _NEW_IN_DENSE,
}
"""How many tensors of a detector start new, by part, with batch norm where we have it; for the coverage report. Counted
in real models of detectron2 and torchvision; none of mmdet's was counted."""
COUNTED = ("detectron2", "torchvision")
