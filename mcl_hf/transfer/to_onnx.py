"""Graphs without Python: ONNX, and torch's own exported programs, of the backbone and of backbone and FPN.

Batch, height and width stay free, and are called so. The input is `pixel_values` `(N, C, H, W)` float32, normalised;
outputs are C2..C5 (`c2`, ...) or P2..P5 (`p2`, ...).
"""

import logging
import re
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import InputError
from ..models.fpn import FeaturePyramid
from ..models.timm_backbone import build_timm_network, describe_backbone, run_timm_network
from .checkpoint import Checkpoint
from .convert import Coverage

_ENDLESS = {"swin_transformer", "swin_transformer_v2"}
"""timm families on which torch.export with free sizes ran for ten minutes without an end (torch 2.15)."""


class PyramidGraph(nn.Module):
    """Backbone, or backbone and FPN, as one function of the pixels."""

    def __init__(self, checkpoint: Checkpoint, with_fpn: bool) -> None:
        super().__init__()
        config = checkpoint.config
        self.name = config.backbone
        self.backbone = build_timm_network(config.backbone, config.num_channels, config.backbone_kwargs)
        description = describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)
        self.positions = description.positions[-4:]
        self.fpn = FeaturePyramid(description.channels[-4:], config.fpn_channels) if with_fpn else None
        parts = ("backbone.", "fpn.") if with_fpn else "backbone."
        self.load_state_dict({name: t for name, t in checkpoint.tensors.items() if name.startswith(parts)})
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(N, C, H, W)` -> four maps of strides 4, 8, 16 and 32."""
        maps = run_timm_network(self.backbone, self.name, pixel_values)
        chosen = [maps[position] for position in self.positions]
        return tuple(chosen if self.fpn is None else self.fpn(chosen))


def write_graphs(checkpoint: Checkpoint, folder: Path, kind: str) -> Coverage:
    """`backbone` and, where the checkpoint's FPN is whole, `backbone_fpn`, as `.onnx` or torch's `.pt2`.

    Raises:
        InputError: The packages for ONNX are not installed, or torch cannot trace the network with free sizes.
    """
    check_can_be_traced(checkpoint.config.backbone, kind)
    if kind == "onnx":
        need_onnx()  # before the graphs are traced, which takes minutes
    coverage = Coverage({"onnx": "ONNX", "pt2": "torch.export"}[kind])
    backbone, fpn = (sum(name.startswith(part) for name in checkpoint.tensors) for part in ("backbone.", "fpn."))
    coverage.parts["backbone"] = (backbone, backbone)
    graphs = {"backbone": PyramidGraph(checkpoint, with_fpn=False)}
    if fpn == 48:  # four levels, 2 x 6 tensors each
        graphs["backbone_fpn"] = PyramidGraph(checkpoint, with_fpn=True)
        coverage.parts["FPN"] = (fpn, fpn)
    elif fpn:
        coverage.left_out.append(f"the FPN: {fpn} of 48 tensors are there, its graph is that of P2..P5")
    if checkpoint.detector is not None:
        coverage.left_out.append("the detector's heads: torch.export stops where sizes depend on what is detected")
    for name, graph in graphs.items():
        letter = "p" if graph.fpn is not None else "c"
        # Two different sides and two images, so that no size is taken for a constant.
        inputs = {"pixel_values": torch.zeros(2, checkpoint.config.num_channels, 96, 128)}
        axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
        try:
            program = trace(graph.float(), inputs, axes)
        except (RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"torch.export cannot take {graph.name} with free sizes: {reason}") from error
        if kind == "pt2":
            torch.export.save(program, folder / f"{name}.pt2")
        else:
            write_onnx(program, folder / f"{name}.onnx", axes, [f"{letter}{level}" for level in range(2, 6)])
    return coverage


def can_be_traced(backbone: str) -> bool:
    """Whether torch.export comes to an end with free sizes: not on the families in `_ENDLESS`."""
    family = timm.model_entrypoint(backbone).__module__.rsplit(".", 1)[-1]  # timm's file that defines it
    return family not in _ENDLESS


def check_can_be_traced(backbone: str, kind: str) -> None:
    """InputError for a backbone on which torch.export does not end."""
    if not can_be_traced(backbone):
        raise InputError(
            f"--to {kind} cannot take {backbone}: torch.export does not end on its shifted windows with free sizes; "
            "--to timm takes it"
        )


def need_onnx() -> None:
    """InputError without the packages that write ONNX."""
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise InputError(f"--to onnx needs {name}: pip install 'mcl-hf[onnx]'")


def trace(
    graph: nn.Module, inputs: dict[str, torch.Tensor], axes: dict[str, dict[int, str]]
) -> torch.export.ExportedProgram:
    """A graph in eval mode, traced with free axes (input -> axis -> what it is called), by one example of each input in
    the order of `forward`. RuntimeError: torch cannot trace it."""
    free = tuple(dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in inputs)
    # torch 2.6 traces strictly unless told otherwise, and then fixes the size of the batch
    return torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=free, strict=False)


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, axes: dict[str, dict[int, str]], outputs: list[str]
) -> None:
    """One file, weights inside. InputError: torch's exporter fails, as that of torch 2.6 does on batch norm."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own internals
            written = torch.onnx.export(
                program, input_names=list(axes), output_names=outputs, opset_version=18, dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # torch raises many types, with pages of text
        raise InputError(
            f"torch {torch.__version__} cannot write it as ONNX with onnxscript {version('onnxscript')} "
            f"({type(error).__name__}): take a newer torch"
        ) from error
    finally:
        logger.setLevel(level)
    if written is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    _name_axes(written.model.graph, axes)
    written.save(str(path), external_data=False)


def _name_axes(graph: Any, axes: dict[str, dict[int, str]]) -> None:
    """Call the inputs' free axes as `axes` says, and those of all other values by them: a map of stride 4 has the
    height `(((height - 1)//4)) + 1`."""
    names = {
        value.shape[place].value: name
        for value in graph.inputs
        for place, name in axes[value.name].items()
        if not isinstance(value.shape[place], int)
    }
    values = [*graph.inputs, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        for place, axis in enumerate(value.shape or ()):
            if not isinstance(axis, int) and axis.value is not None:
                value.shape[place] = re.sub(r"\bs\d+\b", lambda found: names.get(found[0], found[0]), axis.value)
