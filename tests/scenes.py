"""Small annotated scenes, for tests that need a detector or its data: photos of the package with things pasted in.

A thing is a piece of one photo, cut by a shape: a class has its photo and its shape (ellipse, triangle, rectangle,
diamond, ...), so that both texture and outline tell it. Everything follows from the seed.
"""

import io
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image, ImageDraw

from mcl_hf.annotations.detection_data import DetectionData
from mcl_hf.annotations.masks import encode_masks
from mcl_hf.data.sources.local_tables import PHOTOS_FOLDER
from mcl_hf.evaluation.results import ImageDetections

SHAPES = ("ellipse", "triangle", "rectangle", "diamond", "hexagon", "star")
_CATEGORY_STEP = 3  # ids 3, 6, 9, ...: not class indices, so that mixing them up shows


def write_scenes(
    folder: Path,
    num_images: int = 32,
    *,
    width: int = 128,
    height: int = 96,
    num_classes: int = 3,
    most_objects: int = 3,
    size: tuple[float, float] = (0.25, 0.5),
    split: str = "train",
    masks: str | None = "polygon",
    seed: int = 0,
) -> Path:
    """Write `folder/{split}/*.png` and `folder/annotations/instances_{split}.json`, and return the folder.

    Args:
        folder: made if it is not there; several splits may share it.
        num_images: images of `width` x `height` px, each with 1 to `most_objects` things that barely overlap.
        num_classes: up to six, called after their shapes.
        size: smallest and largest side of a thing as a share of the shorter side of the image.
        masks: "polygon", "rle" or None for boxes alone.
        seed: two calls with the same arguments write the same bytes.
    """
    numbers = np.random.default_rng([seed, len(split), *split.encode()])
    photos = _photos()
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        background = photos[len(SHAPES) + int(numbers.integers(len(photos) - len(SHAPES)))]
        scene = background.resize((width, height), Image.Resampling.BICUBIC)
        placed: list[tuple[float, float, float, float]] = []
        for _ in range(int(numbers.integers(1, most_objects + 1))):
            label = int(numbers.integers(num_classes))
            sides = numbers.uniform(*size, 2) * min(width, height)
            corner = numbers.uniform(0, 1, 2) * (np.array([width, height]) - sides)
            texture_corner = numbers.uniform(0, 1, 2)
            box = (*corner.tolist(), *(corner + sides).tolist())
            if any(_overlap(box, other) > 0.1 for other in placed):
                continue
            placed.append(box)
            outline = shape_outline(SHAPES[label], *box)
            _paste(scene, photos[label], outline, box, texture_corner)
            annotations.append(_annotation(len(annotations) + 1, index + 1, label, outline, masks, width, height))
        name = f"{index:04d}.png"
        scene.save(folder / split / name)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
    categories = [
        {"id": _CATEGORY_STEP * (label + 1), "name": SHAPES[label], "supercategory": "shape"}
        for label in range(num_classes)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def shape_outline(shape: str, x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """Polygon [x, y, x, y, ...] of a shape that fills a box, in px."""
    if shape == "rectangle":
        points = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    elif shape == "triangle":
        points = [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0)]
    elif shape == "diamond":
        points = [(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)]
    elif shape == "hexagon":
        points = [(0.25, 0.0), (0.75, 0.0), (1.0, 0.5), (0.75, 1.0), (0.25, 1.0), (0.0, 0.5)]
    else:
        corners = 24 if shape == "ellipse" else 10
        radius = [0.5 if shape == "ellipse" or n % 2 == 0 else 0.22 for n in range(corners)]
        turns = [2 * math.pi * n / corners - math.pi / 2 for n in range(corners)]
        raw = [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radius, turns, strict=True)]
        low = [min(point[axis] for point in raw) for axis in (0, 1)]
        high = [max(point[axis] for point in raw) for axis in (0, 1)]
        points = [tuple((p[axis] - low[axis]) / (high[axis] - low[axis]) for axis in (0, 1)) for p in raw]
    return [round(value, 2) for x, y in points for value in (x0 + x * (x1 - x0), y0 + y * (y1 - y0))]


def _annotation(
    number: int, image: int, label: int, outline: list[float], masks: str | None, width: int, height: int
) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    xs, ys = outline[::2], outline[1::2]
    rle = coco_mask.frPyObjects([outline], height, width)[0]
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": _CATEGORY_STEP * (label + 1),
        "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
    }
    if masks == "polygon":
        annotation["segmentation"] = [outline]
    elif masks == "rle":
        annotation["segmentation"] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return annotation


def _paste(
    scene: Image.Image, photo: Image.Image, outline: list[float], box: tuple[float, ...], texture_corner: np.ndarray
) -> None:
    """Lay a piece of the photo, as large as the box, over the scene within the outline; edges are smoothed."""
    mask = Image.new("L", (scene.width * 4, scene.height * 4))
    ImageDraw.Draw(mask).polygon([4 * value for value in outline], fill=255)
    sides = [math.ceil(box[2] - box[0]) + 2, math.ceil(box[3] - box[1]) + 2]
    x, y = (int(part * (whole - side)) for part, whole, side in zip(texture_corner, photo.size, sides, strict=True))
    texture = Image.new("RGB", scene.size)
    texture.paste(photo.crop((x, y, x + sides[0], y + sides[1])), (int(box[0]), int(box[1])))
    scene.paste(texture, mask=mask.resize(scene.size, Image.Resampling.BOX))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Shared area as a share of the smaller box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)


@cache
def _photos() -> list[Image.Image]:
    """One 208 px crop of each photo of a shard; first those with the most detail in every part, which classes take."""
    file = sorted(PHOTOS_FOLDER.glob("*.parquet"))[0]
    table = parquet.read_table(file, columns=["image", "source_image"]).to_pylist()
    crops: dict[str, Image.Image] = {}
    for row in table:
        if row["source_image"] not in crops:
            crops[row["source_image"]] = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    by_texture = sorted(crops, key=lambda name: (-_texture(crops[name]), name))
    return [crops[name] for name in by_texture]


def _texture(photo: Image.Image) -> float:
    """The standard deviation of gray in the plainest of 16 blocks: large where every piece of the photo has detail."""
    gray = np.asarray(photo.convert("L"), np.float32)[:208, :208]
    blocks = gray.reshape(4, 52, 4, 52).transpose(0, 2, 1, 3)  # (4, 4, 52, 52)
    return float(blocks.std(axis=(2, 3)).min())


def add_crowds(file: Path, every: int = 4) -> None:
    """Turn every so manyth annotation of a JSON into a crowd, with run lengths as counts, as COCO writes them."""
    from pycocotools import mask as coco_mask

    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"][::every]:
        annotation["iscrowd"] = 1
        pixels = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], *sizes[annotation["image_id"]]))
        column = pixels[:, :, 0].ravel(order="F")
        ends = np.flatnonzero(np.diff(column)) + 1
        counts = np.diff(np.concatenate([[0], ends, [len(column)]])).tolist()
        counts = counts if column[0] == 0 else [0, *counts]
        annotation["segmentation"] = {"size": list(pixels.shape[:2]), "counts": counts}
    file.write_text(json.dumps(content))


def noisy_detections(data: DetectionData, seed: int = 0, masks: bool = True) -> list[ImageDetections]:
    """What a middling detector might say of each image: shifted boxes and masks, some classes wrong, some things twice,
    some missed, some invented, with scores of one digit so that many are equal."""
    found = []
    for item in data:
        numbers = np.random.default_rng([seed, item.position])
        boxes, labels = [], []
        for box, label in zip(item.boxes, item.labels, strict=True):
            for _ in range(int(numbers.integers(0, 3))):
                sides = np.tile(box[2:] - box[:2], 2)
                boxes.append(box + numbers.normal(0, 0.06, 4) * sides)
                labels.append(int(label) if numbers.random() < 0.85 else int(numbers.integers(data.num_labels)))
        for _ in range(int(numbers.integers(0, 3))):
            corner = numbers.uniform(0, 0.7, 2) * [item.width, item.height]
            boxes.append(np.concatenate([corner, corner + numbers.uniform(8, 40, 2)]))
            labels.append(int(numbers.integers(data.num_labels)))
        limits = [item.width, item.height, item.width, item.height]
        pixels = np.zeros((len(boxes), item.height, item.width), np.uint8)
        for mask, box in zip(pixels, boxes, strict=True):
            x0, y0, x1, y1 = np.clip(box, 0, limits).round().astype(int)
            mask[y0 : y1 + 1, x0 : x1 + 1] = 1
        found.append(
            ImageDetections(
                item.image_id,
                np.clip(np.array(boxes).reshape(-1, 4), 0, limits).astype(np.float32),
                numbers.uniform(0, 1, len(boxes)).round(1).astype(np.float32),
                np.array(labels, np.int64),
                encode_masks(pixels) if masks and boxes else ([] if masks else None),
            )
        )
    return found
