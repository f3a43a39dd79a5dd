"""A drawn data set in the layout of `make_scenes.py generate`, so that the smoke scale needs no packages.

Flow: **toy_data** -> the folder that pretrain_job, probe_job and detect_job read. Objects are discs, triangles and
bars, filled with crops of the embedded photos and set on other crops of them; each is a group of its own. Like the real
scenes, a fold's test, validation and training groups are disjoint. Nothing can be claimed from it.

    DATA/pretrain/*.jpg + metadata.jsonl (file_name, label, group)
    DATA/{train,train_5,train_20,val,test}/*.jpg
    DATA/annotations/instances_{train,train_5,train_20,val,test}.json   cut-out and group of every object
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mcl_hf.data import open_source
from mcl_hf.errors import InputError

SHAPES = ("disc", "triangle", "bar")
GROUPS_A_SHAPE, FOLDS = 12, 6


@dataclass(frozen=True)
class Cutout:
    """A shape with a texture; the only member of its group."""

    shape: str
    number: int
    texture: Image.Image

    @property
    def name(self) -> str:
        """Of the cut-out and of its group."""
        return f"{self.shape}-{self.number:02}"

    @property
    def fold(self) -> int:
        """In which the group is tested."""
        return self.number % FOLDS


def draw_data(
    folder: Path, fold: int = 0, size: int = 64, pretrain: int = 64, train: int = 32, val: int = 16, test: int = 24
) -> Path:
    """Draw a fold, unless it is there already.

    Args:
        folder: of the fold; written as a whole.
        fold: 0 to 5: groups of this fold are tested, those of the next one are the validation split.
        size: px of all images.
        pretrain, train, val, test: images; the small training sets have half of `train`.
    """
    if not 0 <= fold < FOLDS:
        raise InputError(f"--fold must be 0 to {FOLDS - 1}, got {fold}")
    if (folder / "statistics.json").exists():
        return folder
    rng = np.random.default_rng([20, fold])
    photos = _photos(96)
    cutouts = [
        Cutout(shape, number, photos[(len(photos) * index + 7 * number) % len(photos)])
        for index, shape in enumerate(SHAPES)
        for number in range(GROUPS_A_SHAPE)
    ]
    training = [c for c in cutouts if c.fold not in (fold, (fold + 1) % FOLDS)]
    splits = {
        "train": (training, train),
        "train_20": (_few(training, 2), max(4, train // 2)),
        "train_5": (_few(training, 1), max(4, train // 2)),
        "val": ([c for c in cutouts if c.fold == (fold + 1) % FOLDS], val),
        "test": ([c for c in cutouts if c.fold == fold], test),
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, (members, count) in splits.items():
        _draw_split(folder, split, members, count, size, photos, rng)
    _draw_pretraining(folder / "pretrain", training, pretrain, size, photos, rng)
    counts = {split: count for split, (_, count) in splits.items()}
    (folder / "statistics.json").write_text(json.dumps({"fold": fold, "images": counts}) + "\n", encoding="utf-8")
    return folder


def _few(cutouts: Sequence[Cutout], most: int) -> list[Cutout]:
    """The first `most` groups of each class."""
    return [c for shape in SHAPES for c in [c for c in cutouts if c.shape == shape][:most]]


def _photos(side: int) -> list[Image.Image]:
    source = open_source("photos")
    images = [Image.open(io.BytesIO(source.sample(index).bytes_)).convert("RGB") for index in range(0, len(source), 5)]
    return [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]


def _draw_split(
    folder: Path,
    split: str,
    cutouts: Sequence[Cutout],
    count: int,
    size: int,
    photos: Sequence[Image.Image],
    rng: np.random.Generator,
) -> None:
    from pycocotools import mask as coco_mask

    (folder / split).mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        scene = _background(photos, size, rng)
        owner = np.full((size, size), -1)
        placed = [cutouts[int(rng.integers(len(cutouts)))] for _ in range(int(rng.integers(1, 4)))]
        for index, cutout in enumerate(placed):
            side = int(rng.uniform(0.25, 0.6) * size)
            left, top = (int(rng.integers(size - side + 1)) for _ in range(2))
            mask = _shape(cutout.shape, side)
            scene.paste(cutout.texture.resize((side, side)), (left, top), mask)
            owner[top : top + side, left : left + side][np.asarray(mask) > 127] = index
        name = f"{split}-{number:05}.jpg"
        scene.save(folder / split / name, quality=92)
        images.append({"id": number + 1, "file_name": name, "width": size, "height": size, "blending": "paste"})
        for index, cutout in enumerate(placed):
            visible = np.asfortranarray((owner == index).astype(np.uint8))
            if visible.sum() < 16:
                continue
            code = coco_mask.encode(visible)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": SHAPES.index(cutout.shape) + 1,
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "area": int(visible.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "cutout_id": cutout.name,
                    "group": cutout.name,
                }
            )
    categories = [{"id": index + 1, "name": shape} for index, shape in enumerate(SHAPES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _draw_pretraining(
    folder: Path,
    cutouts: Sequence[Cutout],
    count: int,
    size: int,
    photos: Sequence[Image.Image],
    rng: np.random.Generator,
) -> None:
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        cutout = cutouts[number % len(cutouts)]
        scene = _background(photos, size, rng)
        side = int(rng.uniform(0.6, 0.95) * size)
        left, top = (int(rng.integers(size - side + 1)) for _ in range(2))
        scene.paste(cutout.texture.resize((side, side)), (left, top), _shape(cutout.shape, side))
        name = f"{number:05}.jpg"
        scene.save(folder / name, quality=92)
        rows.append({"file_name": name, "label": cutout.shape, "group": cutout.name})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _background(photos: Sequence[Image.Image], size: int, rng: np.random.Generator) -> Image.Image:
    return photos[int(rng.integers(len(photos)))].resize((size, size)).copy()


def _shape(shape: str, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    if shape == "disc":
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    elif shape == "triangle":
        draw.polygon([(side // 2, 0), (0, side - 1), (side - 1, side - 1)], fill=255)
    else:
        draw.rectangle((0, side // 3, side - 1, 2 * side // 3), fill=255)
    return mask
