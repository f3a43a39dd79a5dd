"""From results to figures: COCO's twelve for boxes and for masks, by class and over all objects, and Pascal VOC's AP50.

Flow: predict_data -> results -> **evaluate** (coco_metrics, voc_metrics) -> metrics JSON, pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations.detection_data import DetectionData
from ..annotations.masks import mask_boxes, to_rle
from ..errors import InputError
from ..plain_text import plain_text
from .coco_metrics import RECALLS, Backend, CocoArrays, count_matches
from .results import Result, check_results, image_sizes, read_results
from .voc_metrics import voc_average_precision

Figures = dict[str, float | None]


@dataclass(frozen=True)
class KindMetrics:
    """Figures of boxes or of masks, in [0, 1], None where there is no object of that size or class.

    Attributes:
        figures: COCO's twelve over all classes (`coco_metrics.FIGURES`).
        per_class: the twelve of each class, by name.
        class_agnostic: the twelve with every class taken as one.
        arrays: what they were read from.
    """

    figures: Figures
    per_class: dict[str, Figures]
    class_agnostic: Figures
    arrays: CocoArrays = field(repr=False)

    def curves(self, threshold: float = 0.5) -> dict[str, np.ndarray]:
        """Precision at recalls 0, 0.01, ... 1 of each class that has objects, float64 `(101,)`."""
        found = {name: self.arrays.curve(label, threshold) for label, name in enumerate(self.per_class)}
        return {name: curve for name, curve in found.items() if curve is not None}


@dataclass(frozen=True)
class DetectionMetrics:
    """All figures of one evaluation; `mask` is None where data or results have no masks, `voc` for other data than
    VOC's."""

    backend: str
    num_images: int
    num_objects: int
    num_results: int
    box: KindMetrics
    mask: KindMetrics | None
    voc: dict[str, Any] | None

    @property
    def kinds(self) -> dict[str, KindMetrics]:
        """The figures of boxes and, where there are any, of masks, by name."""
        return {"box": self.box} | ({} if self.mask is None else {"mask": self.mask})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, texts and None."""
        content: dict[str, Any] = {"backend": self.backend, "images": self.num_images}
        content |= {"objects": self.num_objects, "results": self.num_results}
        for name, kind in self.kinds.items():
            curves = {"recalls": RECALLS.round(2)} | kind.curves()
            content[name] = {
                **kind.figures,
                "class_agnostic": kind.class_agnostic,
                "per_class": kind.per_class,
                "precision_at_recalls": {title: curve.tolist() for title, curve in curves.items()},
            }
        if self.voc is not None:
            content["voc"] = self.voc
        return content

    def lines(self, most_classes: int = 20) -> list[str]:
        """A table for the terminal, figures times 100; of classes, the first that have objects, in the data's order."""
        lines = [f"{self.num_images} images, {self.num_objects} objects, {self.num_results} results ({self.backend})"]
        for name, kind in self.kinds.items():
            measured = [entry for entry in kind.per_class.items() if any(v is not None for v in entry[1].values())]
            rows = [(name, kind.figures), (f"{name}, one class", kind.class_agnostic)]
            rows += [(f"  {plain_text(title)}", figures) for title, figures in measured[:most_classes]]
            lines.append(_row("", list(kind.figures)))
            lines += [_row(title, list(map(_percent, figures.values()))) for title, figures in rows]
            if len(measured) > most_classes:
                lines.append(f"  ... {len(measured) - most_classes} more classes in the JSON")
            if len(kind.per_class) > len(measured):
                lines.append(f"  classes without objects: {len(kind.per_class) - len(measured)}, left out")
        if self.voc is not None:
            lines.append(
                f"Pascal VOC AP50: {_percent(self.voc['AP50'])} by area, {_percent(self.voc['AP50_11'])} by 11 points"
            )
        return lines


def evaluate_detections(
    data: DetectionData,
    predictions: Sequence[Result] | str | Path,
    *,
    backend: Backend = "pycocotools",
    masks: bool | None = None,
) -> DetectionMetrics:
    """Score predictions.

    With score ties inside a class, the image with the smaller id comes first, as in pycocotools; within an image, the
    order of `predictions` counts. Sizes (APs, APm, APl) of predicted masks are those of the masks.

    Args:
        data: the annotations, all images of which are counted, predicted or not.
        predictions: COCO results (`results.to_results`), or the path of a results JSON.
        backend: pycocotools is the number of record. faster-coco-eval gives the same figures sooner.
        masks: whether masks are scored; None: where data and predictions have them. Say it where there may be no
            predictions at all.

    Raises:
        InputError: results that do not fit the data, or a back end that is not installed.
    """
    if isinstance(predictions, str | Path):
        results = read_results(predictions, data)
    else:
        results = check_results(predictions, data)
    with_masks = sum("segmentation" in result for result in results)
    if masks is None:
        masks = data.has_masks and with_masks > 0
    if masks and (not data.has_masks or with_masks < len(results)):
        lacking = f"{len(results) - with_masks} of {len(results)} predictions" if data.has_masks else data.source
        raise InputError(f"masks cannot be scored: {lacking} have none")
    sizes = image_sizes(data)
    for n, result in enumerate(results):
        if "bbox" not in result:
            mask = to_rle(result["segmentation"], *sizes[result["image_id"]])
            results[n] = {**result, "bbox": mask_boxes([mask])[0].tolist()}
    return DetectionMetrics(
        backend=backend,
        num_images=len(data),
        num_objects=int(data.num_objects.sum()),
        num_results=len(results),
        box=_kind_metrics(data, results, "bbox", backend),
        mask=_kind_metrics(data, results, "segm", backend) if masks else None,
        voc=_voc_figures(data, results) if data.is_voc else None,
    )


def _kind_metrics(data: DetectionData, results: list[Result], kind: Any, backend: Backend) -> KindMetrics:
    arrays = count_matches(data, results, kind, backend)
    agnostic = count_matches(data, results, kind, backend, class_agnostic=True) if data.num_labels > 1 else arrays
    return KindMetrics(
        figures=arrays.figures(),
        per_class={name: arrays.figures(label) for label, name in enumerate(data.category_names)},
        class_agnostic=agnostic.figures(),
        arrays=arrays,
    )


def _voc_figures(data: DetectionData, results: list[Result]) -> dict[str, Any]:
    found = voc_average_precision(data, results)
    counted = {name: [value for value in values if value is not None] for name, values in found.items()}
    of_class = (dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True))
    figures: dict[str, Any] = {name: float(np.mean(values)) if values else None for name, values in counted.items()}
    return figures | {"per_class": dict(zip(data.category_names, of_class, strict=True))}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<18.18}" + "".join(f"{cell:>7}" for cell in cells)
