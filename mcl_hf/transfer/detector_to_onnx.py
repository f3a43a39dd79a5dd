"""A fine-tuned detector of transformers as one ONNX graph: it takes what the image processor makes and gives what its
`post_process_object_detection` gives without a threshold, for any number of images at once.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.image_transforms import center_to_corners_format

from ..errors import InputError
from ..files import fill_template
from ..models.configuration_mcl import MCLConfig
from ..models.weight_files import read_json_object
from ..version import __version__
from .convert import Coverage
from .to_onnx import check_can_be_traced, need_onnx, trace, write_onnx

PADDED = ("detr", "deformable_detr")
"""Detectors that take images of several sizes as one padded batch, and `pixel_mask`; the others take squares."""
EXPORTED = (*PADDED, "rt_detr_v2", "d_fine", "deimv2")
"""`model_type` of the detectors whose graphs were compared with the model itself."""
_DEFORMABLE_MOST = 100  # detections of an image that the processor of Deformable DETR gives


class DetectorGraph(nn.Module):
    """Detector of transformers, one of `EXPORTED`, and post-processing as one function of the pixels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.kind = model.config.model_type

    def forward(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, pixel_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes, scores and labels of Q detections an image.

        Args:
            pixel_values: `(N, 3, H, W)` float32, normalised.
            target_sizes: `(N, 2)` int64, height and width of each picture in px, which boxes are wanted in.
            pixel_mask: `(N, H, W)` int64, 1 on each image and 0 on its padding; of detectors in `PADDED`.

        Returns:
            `(N, Q, 4)` float32 x0 y0 x1 y1 in px, `(N, Q)` float32 in [0, 1], `(N, Q)` int64 from 0.
        """
        inputs = {} if pixel_mask is None else {"pixel_mask": pixel_mask}
        output = self.model(pixel_values=pixel_values, **inputs)
        height, width = target_sizes.to(pixel_values.dtype).unbind(1)
        boxes = center_to_corners_format(output.pred_boxes)
        boxes = boxes * torch.stack([width, height, width, height], dim=1)[:, None]
        if self.kind == "detr":  # the last class is the background
            scores, labels = output.logits.softmax(-1)[..., :-1].max(-1)
            return boxes, scores, labels
        queries, classes = output.logits.shape[1:]
        most = min(_DEFORMABLE_MOST, queries * classes) if self.kind == "deformable_detr" else queries
        scores, places = output.logits.sigmoid().flatten(1).topk(most, dim=1)
        chosen = (places // classes)[..., None].expand(-1, -1, 4)
        return boxes.gather(1, chosen), scores, places % classes


def write_detector_graph(folder: Path, partial: Path, out: Path) -> Coverage:
    """`detector.onnx`, the image processor's settings and a README.md (`detector_readme.md`) that shows how to run it,
    into the folder `partial`, which is called `out` once it is whole.

    Raises:
        InputError: the packages for ONNX are not installed, the folder is not whole, or torch cannot trace the model.
    """
    need_onnx()
    description = read_json_object(folder / "config.json")
    backbone = description.get("backbone_config") or {}
    if backbone.get("model_type") == MCLConfig.model_type:
        check_can_be_traced(backbone["backbone"], "onnx")
    try:
        model = AutoModelForObjectDetection.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever an odd description leads it to
        raise InputError(f"{folder} cannot be opened as a detector: {' '.join(str(error).split())}") from error
    kind = str(description["model_type"])
    graph = DetectorGraph(model)
    # Two different sides and two images, so that no size is taken for a constant; multiples of the largest stride.
    inputs = {"pixel_values": torch.zeros(2, 3, 192, 256), "target_sizes": torch.full((2, 2), 192)}
    axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "target_sizes": {0: "batch"}}
    if kind in PADDED:
        inputs["pixel_mask"] = torch.ones(2, 192, 256, dtype=torch.int64)
        axes["pixel_mask"] = {0: "batch", 1: "height", 2: "width"}
    try:
        with _free_sizes(sys.modules[type(model).__module__]):
            program = trace(graph, inputs, axes)
        write_onnx(program, partial / "detector.onnx", axes, ["boxes", "scores", "labels"])
    except Exception as error:  # torch's exporters raise many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"torch.onnx.export(dynamo=True) cannot take this {kind}: {reason}") from error
    shutil.copyfile(folder / "preprocessor_config.json", partial / "preprocessor_config.json")
    readme = fill_template(
        Path(__file__).with_name("detector_readme.md"),
        version=__version__,
        kind=kind,
        padded=kind in PADDED,
        names=[model.config.id2label[index] for index in range(model.config.num_labels)],
        out=out,
        size=processor.size,
        mean=list(processor.image_mean) if processor.do_normalize else [0.0, 0.0, 0.0],  # the RT-DETR kind may not
        std=list(processor.image_std) if processor.do_normalize else [1.0, 1.0, 1.0],
    )
    (partial / "README.md").write_text(readme, encoding="utf-8")
    count = len(model.state_dict())
    return Coverage("ONNX", {"detector": (count, count)})


@contextlib.contextmanager
def _free_sizes(module: ModuleType) -> Iterator[None]:
    """Keep transformers' code from making sizes constants while it is traced: Python's `len` and `int` do,
    `torch.as_tensor` of a list, and `torch.linspace` from cell to cell. Checks have no form in ONNX."""
    free: dict[str, Any] = {
        "len": lambda of: of.shape[0] if torch.is_tensor(of) else len(of),
        "torch_int": lambda number: number,
    }
    as_tensor = torch.as_tensor
    with (
        mock.patch.multiple(module, create=True, **free),
        mock.patch.object(
            torch, "as_tensor", lambda of, **kw: (torch.tensor if isinstance(of, list) else as_tensor)(of, **kw)
        ),
        mock.patch.object(torch, "linspace", lambda start, end, steps, **kwargs: torch.arange(steps, **kwargs) + start),
        mock.patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1"),
    ):
        yield
