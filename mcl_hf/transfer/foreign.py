"""Foreign files: read without running anything in them, and recognised by the names of their tensors.

Where it sits: a file -> **foreign** -> keymaps -> convert -> import.

Source: the layouts of facebookresearch/moco, WXinlong/DenseCL (OpenSelfSup), hologerry/SoCo, detectron2, mmdet,
torchvision and timm, as their own converters read them.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mcl_hf.errors import InputError
from mcl_hf.models.official_checkpoint import read_pickled
from mcl_hf.transfer.keymaps import PRETRAINING, RESNET, TABLES, Table

_HOLDERS = ("state_dict", "model", "model_state_dict")
"""Where programs put the weights within a file; tried in order."""

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
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]

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
    tensors = read_tensors(path)
    for marks, layout in _MARKS:
        if all(mark in tensors for mark in marks):
            return ForeignFile(path, layout, tensors)
    raise InputError(
        f"{path} is in no layout that is known here: {len(tensors)} tensors such as {', '.join(list(tensors)[:3])}; "
        "known are MCL, MoCo, DenseCL, SoCo, detectron2, mmdet, torchvision and timm ResNets"
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a file, less `module.`.

    Raises:
        InputError: No such file, none with tensors, or it would have to run code to be read.
    """
    tensors = dict(_tensors(_content(path)))
    if not tensors:
        raise InputError(f"{path} holds no tensors")
    return tensors


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except FileNotFoundError as error:
            raise InputError(f"no file {path}") from error
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if path.is_dir():
        raise InputError(f"{path} is a folder without a config.json of timm's: name the file of weights in it")
    if path.suffix not in _PICKLED:
        raise InputError(f"{path}: give a {', '.join(_PICKLED)} or .safetensors file")
    try:
        return read_pickled(path)
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (ValueError, pickle.UnpicklingError, OSError) as error:
        reason = " ".join(str(error).split())
        if path.suffix == ".pkl":
            reason += (
                "; a .pkl is a bare pickle, which is never read here: where you trust it, load it there and "
                "torch.save({'model': {name: torch.tensor(value) ...}}, 'model.pth')"
            )
        raise InputError(reason) from error


def _tensors(content: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors of a file's content, wherever it keeps them."""
    if not isinstance(content, Mapping):
        return
    holder = next((name for name in _HOLDERS if isinstance(content.get(name), Mapping)), None)
    weights = content if holder is None else content[holder]
    for name, value in weights.items():
        if isinstance(value, torch.Tensor):
            yield str(name).removeprefix("module."), value
