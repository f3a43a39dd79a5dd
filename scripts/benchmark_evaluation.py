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
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcl_hf.detection.data.detection_data import AnnotationColumns, DetectionData, FileImages
from mcl_hf.detection.evaluation.coco_metrics import BACKENDS, import_backend
from mcl_hf.detection.evaluation.evaluate import DetectionMetrics, evaluate_detections
from mcl_hf.detection.evaluation.results import Result
from mcl_hf.detection.models.masks import encode_masks

WIDTH, HEIGHT = 640, 480
OBJECTS, EXTRA = 7.3, 18  # an image: objects, and predictions of nothing


def synthetic(num_images: int, num_classes: int, seed: int = 0) -> tuple[DetectionData, list[Result]]:
    """Ground truth and predictions, both with boxes and masks, that follow from the seed."""
    boxes, labels, offsets, pieces, areas = [], [], [0], [], []
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
        rles = encode_masks(_ellipses(truth))
        boxes.append(truth)
        labels.append(own)
        offsets.append(offsets[-1] + count)
        pieces += [json.dumps(rle).encode() for rle in rles]
        areas += (truth[:, 2] * truth[:, 3] * np.pi / 4).tolist()

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
            results.append(
                {
                    "image_id": index,
                    "category_id": int(classes[n]),
                    "bbox": every[n].tolist(),
                    "score": float(scores[n]),
                    "segmentation": rle,
                }
            )
    total = offsets[-1]
    crowds = np.random.default_rng(seed).random(total) < 0.01
    columns = AnnotationColumns.of(
        np.diff(offsets), np.concatenate(boxes), np.concatenate(labels), crowds, np.zeros(total), areas, pieces
    )
    data = DetectionData(
        kind="synthetic",
        source="synthetic",
        category_ids=list(range(num_classes)),
        category_names=[f"class {label}" for label in range(num_classes)],
        image_ids=list(range(num_images)),
        names=[f"{index}.jpg" for index in range(num_images)],
        widths=np.full(num_images, WIDTH),
        heights=np.full(num_images, HEIGHT),
        columns=columns,
        reader=FileImages([]),
        positions=np.arange(num_images),
    )
    return data, results


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
        times: dict[str, list[float]] = {name: [] for name in names}
        metrics: dict[str, DetectionMetrics] = {}
        for _ in range(options.rounds):
            for name in names:
                start = time.perf_counter()
                metrics[name] = evaluate_detections(data, results, backend=name, masks=masks)
                times[name].append(time.perf_counter() - start)
        record = metrics["pycocotools"]
        print(
            f"{'boxes and masks' if masks else 'boxes alone'}: box AP {100 * record.box.figures['AP']:.1f}"
            + (f", mask AP {100 * record.mask.figures['AP']:.1f}" if record.mask else "")
        )
        for name in names:
            ratio = min(times["pycocotools"]) / min(times[name])
            print(
                f"  {name:<18}{min(times[name]):8.1f} s  {ratio:6.1f} times as fast as pycocotools, largest difference "
                f"of a figure {largest_difference(record, metrics[name]):.1e}"
            )


if __name__ == "__main__":
    main()
