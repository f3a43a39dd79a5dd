"""Foreign files: read without running anything in them, and recognised by the names of their tensors.

Where it sits: a file -> **foreign** -> keymaps -> convert -> import.

Source: the layouts of facebookresearch/moco, WXinlong/DenseCL (OpenSelfSup), hologerry/SoCo, detectron2, mmdet,
torchvision and timm, as their own converters read them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..models.weight_files import read_pickled, read_safetensors
from .keymaps import PRETRAINING, RESNET, TABLES, Table

_HOLDERS = (
    "state_dict", "model", "model_state_dict", "teacher", "ema", "model_ema", "ema_model", "student", "network", "net",
)  # fmt: skip
"""Where programs put the weights within a file; the first that is there counts."""

_DEEPEST = 3

_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")

# Tensors that tell a layout -> its name; the first whose names are all there wins.
_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("encoder_q.0.conv1.weight", "encoder_q.1.lateral_convs.0.conv.weight"), "MCL"),
    (("encoder_q.0.conv1.weight",), "DenseCL"),
    (("encoder_q.conv1.weight",), "MoCo"),
    (("encoder.conv1.weight",), "SoCo"),
    (("backbone.bottom_up.stem.conv1.weight",), "detectron2"),
    (("backbone.body.conv1.weight",), "torchvision"),
    (("backbone.conv1.weight", "fpn.lateral.0.conv.weight"), "mcl_hf"),
    (("mcl.backbone.conv1.weight",), "mcl_hf"),
    (("backbone.conv1.weight",), "mmdet"),
    (("conv1.weight", "layer1.0.conv1.weight"), "ResNet"),
)
_LATERALS = {
    "detectron2": "backbone.fpn_lateral{}.weight",
    "torchvision": "backbone.fpn.inner_blocks.{}.0.weight",
    "mmdet": "neck.lateral_convs.{}.conv.weight",
}


@dataclass
class ForeignFile:
    """Tensors of another program.

    Attributes:
        path: where they were read.
        layout: `MCL`, `MoCo`, `DenseCL`, `SoCo`, `detectron2`, `mmdet`, `torchvision`, `ResNet` or `mcl_hf`.
        tensors: under their names, less `module.`.
        remarks: which tensors of the file these are, where it has several sets.
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]
    remarks: list[str] = field(default_factory=list)

    @property
    def table(self) -> Table:
        """Names of this layout."""
        if self.layout in PRETRAINING:
            return PRETRAINING[self.layout]
        if self.layout == "ResNet":
            return RESNET
        pattern = _LATERALS[self.layout]
        laterals = sum(pattern.format(index) in self.tensors for index in range(6))
        return TABLES[self.layout, "retinanet" if laterals == 3 else "mask_rcnn"]


def read_foreign(path: str | Path) -> ForeignFile:
    """Read a file and recognise it.

    Args:
        path: `.pth` and its like (`weights_only=True`, or refused), or `.safetensors`.

    Raises:
        InputError: No such file, it would have to run code to be read, or no layout that is known here.
    """
    path = Path(path)
    tensors, remarks = read_tensors(path)
    for marks, layout in _MARKS:
        if all(mark in tensors for mark in marks):
            return ForeignFile(path, layout, tensors, remarks)
    raise InputError(
        f"{path} is in no layout that is known here: {len(tensors)} tensors such as {', '.join(list(tensors)[:3])}; "
        "known are MCL, MoCo, DenseCL, SoCo, detectron2, mmdet, torchvision and timm ResNets"
    )


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Named tensors of a file, less `module.`, wherever it keeps them, and a remark where that was a choice.

    A program keeps a network's tensors together under their names. Of several such sets (student and teacher, model and
    optimizer) the first of `_HOLDERS` counts, or else the largest.

    Raises:
        InputError: No such file, none with tensors, or it would have to run code to be read.
    """
    sets = sorted(_sets(_content(path)), key=lambda found: (_rank(found[0]), -len(found[1])))
    if not sets:
        raise InputError(f"{path} holds no tensors")
    place, tensors = sets[0]
    others = [".".join(other) for other, held in sets[1:] if 2 * len(held) > len(tensors)]
    if not others and (not place or place[0] in _HOLDERS[:3]):
        return tensors, []
    also = f"; the file also has {', '.join(others[:5])}" if others else ""
    return tensors, [f"taken: the tensors under {'.'.join(place)}{also}"]


def _content(path: Path) -> Any:
    if path.suffix != ".safetensors" and path.is_dir():
        raise InputError(f"{path} is a folder without a config.json of timm's: name the file of weights in it")
    if path.suffix not in (".safetensors", *_PICKLED):
        raise InputError(f"{path}: give a {', '.join(_PICKLED)} or .safetensors file")
    try:
        return read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (ValueError, OSError) as error:
        reason = str(error)
        if path.suffix == ".pkl" and "running code" in reason:
            reason += (
                "; a .pkl is a bare pickle, which is never read here: where you trust it, load it there and "
                "torch.save({'model': {name: torch.tensor(value) ...}}, 'model.pth')"
            )
        raise InputError(reason) from error


def _sets(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Every mapping of names to tensors down to a depth, and its place."""
    if not isinstance(content, Mapping) or len(place) > _DEEPEST:
        return
    named = [(name, value) for name, value in content.items() if isinstance(name, str)]
    tensors = {name.removeprefix("module."): value for name, value in named if isinstance(value, torch.Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from _sets(value, (*place, str(name)))


def _rank(place: tuple[str, ...]) -> int:
    return next((_HOLDERS.index(name) for name in place if name in _HOLDERS), len(_HOLDERS))
