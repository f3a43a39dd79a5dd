"""How long an evaluation of many images takes with each back end, and whether all give the same figures.

    python scripts/benchmark_evaluation.py [--images 5000] [--classes 80] [--rounds 1] [--back-ends faster-coco-eval]

The predictions are synthetic, and so is the ground truth: about as many objects of as many classes, and predictions, as
COCO's 5,000 validation images and a detector have (7 objects and 30 predictions an image; half of the predictions are
objects that were shifted, some of them twice or three times). Masks are ellipses. Everything follows from one seed.

A time is that of `evaluate_detections`, boxes alone and then boxes with masks, figures by class and with all classes as
one included; data and predictions lie in memory. Prints each time, its ratio to pycocotools', and the largest
difference of any figure.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import take_turns

from mcl_hf.annotations.detection_data import DetectionData
from mcl_hf.annotations.masks import encode_masks
from mcl_hf.detection import open_detection_data
from mcl_hf.evaluation.coco_metrics import BACKENDS, import_backend
from mcl_hf.evaluation.evaluate import DetectionMetrics, evaluate_detections
from mcl_hf.evaluation.results import Result

WIDTH, HEIGHT = 640, 480
OBJECTS, EXTRA = 7.3, 18  # an image: objects, and predictions of nothing
CROWDS = 0.01


def synthetic(num_images: int, num_classes: int, seed: int = 0) -> tuple[DetectionData, list[Result]]:
    """Ground truth and predictions, both with boxes and masks, that follow from the seed."""
    annotations: list[dict[str, Any]] = []
    results: list[Result] = []
    for index in range(num_images):
        numbers = np.random.default_rng([seed, index])
        count = int(numbers.poisson(OBJECTS))
        # log-normal sides, as COCO has many small objects and few large ones
        sides = np.exp(numbers.normal(4.0, 0.9, (count, 2))).clip(6, [WIDTH - 1, HEIGHT - 1])
        corners = numbers.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - sides)
        # few classes an image, so that several of one stand in it
        own = numbers.integers(0, num_classes, 3)[numbers.integers(0, 3, count)]
        truth = np.concatenate([corners, sides], axis=1).round(2)  # (count, 4), x y width height
        for box, label, rle in zip(truth, own, encode_masks(_ellipses(truth)), strict=True):
            area = float(box[2] * box[3] * np.pi / 4)
            annotation = {"id": len(annotations) + 1, "image_id": index, "category_id": int(label), "area": area}
            annotations.append(annotation | {"bbox": box.tolist(), "segmentation": rle})

        again = np.repeat(np.arange(count), numbers.integers(1, 4, count))
        found = truth[again]
        found[:, :2] += numbers.normal(0, 0.12, (len(again), 2)) * found[:, 2:]
        found[:, 2:] *= np.exp(numbers.normal(0, 0.12, (len(again), 2)))
        extra = int(numbers.poisson(EXTRA))
        invented = numbers.uniform([105, 105, 5, 5], [220, 220, 120, 120], (extra, 4))
        every = np.concatenate([found, invented])
        every[:, :2] = every[:, :2].clip(0, [WIDTH - 8, HEIGHT - 8])
        every[:, 2:] = np.minimum(every[:, 2:], [WIDTH, HEIGHT] - every[:, :2])
        classes = np.concatenate([own[again], numbers.choice(own if count else np.arange(num_classes), extra)])
        scores = np.concatenate([numbers.beta(3, 2, len(again)), numbers.beta(1, 4, extra)])
        kept = np.argsort(-scores)[:100]
        for n, rle in zip(kept, encode_masks(_ellipses(every[kept])), strict=True):
            figures = {"category_id": int(classes[n]), "bbox": every[n].tolist(), "score": float(scores[n])}
            results.append({"image_id": index, **figures, "segmentation": rle})
    for annotation, draw in zip(annotations, np.random.default_rng(seed).random(len(annotations)), strict=True):
        annotation["iscrowd"] = int(draw < CROWDS)
    sizes = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": index, "file_name": f"{index}.jpg", **sizes} for index in range(num_images)]
    categories = [{"id": label, "name": f"class {label}"} for label in range(num_classes)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "synthetic.json"
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return open_detection_data(file, images=folder, check_files=False), results


def largest_difference(one: DetectionMetrics, other: DetectionMetrics) -> float:
    """Of all figures, by class and over all."""
    pairs = []
    for kind in ("box", "mask"):
        left, right = getattr(one, kind), getattr(other, kind)
        if left is None:
            continue
        tables = [(left.figures, right.figures), (left.class_agnostic, right.class_agnostic)]
        tables += [(left.per_class[name], right.per_class[name]) for name in left.per_class]
        pairs += [(a[name], b[name]) for a, b in tables for name in a]
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    return max(abs(a - b) for a, b in pairs if a is not None)


def _ellipses(boxes: np.ndarray) -> np.ndarray:
    """Masks uint8 `(n, HEIGHT, WIDTH)` of the ellipses in boxes `(n, 4)`, x y width height."""
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), np.uint8)
    for mask, (x, y, w, h) in zip(masks, boxes, strict=True):
        x0, y0, x1, y1 = int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h))
        rows = (np.arange(y0, y1) + 0.5 - y - h / 2) / (h / 2)
        columns = (np.arange(x0, x1) + 0.5 - x - w / 2) / (w / 2)
        mask[y0:y1, x0:x1] = (rows[:, None] ** 2 + columns**2 <= 1)[: HEIGHT - y0, : WIDTH - x0]
    return masks


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=1, help="the back ends take turns; the fastest round counts")
    parser.add_argument("--back-ends", nargs="+", default=list(BACKENDS), choices=list(BACKENDS))
    options = parser.parse_args(argv)
    names = list(dict.fromkeys(["pycocotools", *options.back_ends]))
    for name in names:
        import_backend(name)
    data, results = synthetic(options.images, options.classes)
    print(
        f"synthetic data, seed 0: {len(data)} images, {len(data.columns.labels)} objects of {data.num_labels} classes, "
        f"{len(results)} predictions"
    )
    for masks in (False, True):
        metrics: dict[str, DetectionMetrics] = {}

        def evaluate(name: str, masks: bool, metrics: dict[str, DetectionMetrics]) -> None:
            metrics[name] = evaluate_detections(data, results, backend=name, masks=masks)

        taken = take_turns({name: partial(evaluate, name, masks, metrics) for name in names}, options.rounds, warmup=0)
        fastest = {name: min(seconds) for name, seconds in taken.items()}
        record = metrics["pycocotools"]
        print(
            f"{'boxes and masks' if masks else 'boxes alone'}: box AP {100 * record.box.figures['AP']:.1f}"
            + (f", mask AP {100 * record.mask.figures['AP']:.1f}" if record.mask else "")
        )
        for name, seconds in fastest.items():
            print(
                f"  {name:<18}{seconds:8.1f} s  {fastest['pycocotools'] / seconds:6.1f} times as fast as pycocotools, "
                f"largest difference of a figure {largest_difference(record, metrics[name]):.1e}"
            )


if __name__ == "__main__":
    main()
