"""Pictures to look at: what detectors of each arm find in one scene, and where each arm finds a region again.

Flow: WORK/detect-ARM-f0-s0-.../ and WORK/starts/ -> **pictures** -> OUT/predictions.png, OUT/similarity.png. Only the
first fold's detectors are kept, so these are what is drawn. Make the scenes with `make_scenes.py generate
--only-public-domain` where the pictures are to be shown to others.

A region is looked for at three scales, each of them read from its own level: in a picture in which it is as large as a
full view, and in that picture at a half and a quarter of its size with boxes at a half and a quarter. What pre-training
asks for is one bright spot at the same place in all of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mcl_hf.detection.datasets import open_detection_data
from mcl_hf.detection.detection_data import DetectionItem
from mcl_hf.detection.predict import open_detector, predict
from mcl_hf.errors import InputError
from mcl_hf.models import MCLModel
from mcl_hf.viz.detections import DrawnObjects, draw_objects
from mcl_hf.viz.figure import INK, figure_to_image, new_figure
from mcl_hf.viz.montage_grid import GAP, MARGIN, PAPER
from mcl_hf.viz.montage_grid import INK as TEXT
from mcl_hf.viz.similarity import similarity_map, to_pixel_values

from .arms import find_arm
from .detector_tables import main_detection
from .jobs import Bench, Job
from .pretrain_job import make_start

FOLD = SEED = 0
SCORE = 0.3
"""Predictions below it are not drawn."""
SCALES = (1.0, 0.5, 0.25)
_PANEL, _HEAD = 168, 28  # px
_LOOKED_AT = 60  # scenes, for one with a region that can be seen and moved
Box = tuple[float, float, float, float]


def draw_pictures(bench: Bench, arms: Sequence[str], scenes: Path, count: int = 5) -> list[Path]:
    """Draw both pictures; their paths.

    Args:
        bench: whose detectors and starts are on this machine.
        arms: to draw, those without a detector left out.
        scenes: COCO-format JSON of scenes to look at.
        count: of scenes.

    Raises:
        InputError: no arm has a detector here, or the scenes cannot be read.
    """
    data = open_detection_data(scenes, check_files=False)
    items = [data[int(index)] for index in np.linspace(0, len(data) - 1, count).round()]
    bench.out.mkdir(parents=True, exist_ok=True)
    written = [bench.out / "predictions.png", bench.out / "similarity.png"]
    _predictions(bench, arms, items, data.category_names).save(written[0])
    looked_at = (data[index] for index in range(min(len(data), _LOOKED_AT)))
    _similarities(bench, arms, min(looked_at, key=_misfit)).save(written[1])
    return written


def _predictions(
    bench: Bench, arms: Sequence[str], items: Sequence[DetectionItem], names: Sequence[str]
) -> Image.Image:
    """One column a scene; a row of what is there, then a row an arm."""
    annotated = [DrawnObjects(item.boxes, item.labels, [names[label] for label in item.labels]) for item in items]
    rows = [("annotated", annotated)]
    for name in arms:
        folder = bench.work / Job("detect", name, FOLD, SEED, main_detection(bench), bench.split).name
        if (folder / "model.safetensors").exists():
            rows.append((find_arm(name).title, _found(folder, items, names)))
    if len(rows) == 1:
        raise InputError(f"{bench.work} holds no detector of fold {FOLD}, seed {SEED}: run the benchmark first")
    width = 2 * MARGIN + len(items) * (_PANEL + GAP)
    page = Image.new("RGB", (width, 2 * MARGIN + len(rows) * (_PANEL + GAP + _HEAD)), PAPER)
    draw = ImageDraw.Draw(page)
    for row, (title, of_row) in enumerate(rows):
        top = MARGIN + row * (_PANEL + GAP + _HEAD)
        note = "" if row == 0 else f": predictions of score {SCORE:g} or more"
        draw.text((MARGIN, top), f"{title}{note}", TEXT, ImageFont.load_default(16))
        for column, (item, objects) in enumerate(zip(items, of_row, strict=True)):
            panel = draw_objects(item.decode(), objects, (_PANEL, _PANEL))
            page.paste(panel, (MARGIN + column * (_PANEL + GAP), top + _HEAD))
    return page


def _found(folder: Path, items: Sequence[DetectionItem], names: Sequence[str]) -> list[DrawnObjects]:
    model, processor = open_detector(str(folder))
    drawn = []
    for found in predict(model, processor, items):
        kept = found.scores >= SCORE
        labels = found.labels[kept]
        texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, found.scores[kept], strict=True)]
        drawn.append(DrawnObjects(found.boxes[kept], labels, texts))
    return drawn


def _query_box(item: DetectionItem) -> Box:
    """The square around the first object that lies inside of the picture with it; empty where there is none."""
    for x0, y0, x1, y1 in item.boxes.tolist():
        side = max(x1 - x0, y1 - y0)
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
        if left >= 0 and top >= 0 and left + side <= item.width and top + side <= item.height:
            return left, top, left + side, top + side
    return 0.0, 0.0, 0.0, 0.0


def _misfit(item: DetectionItem) -> float:
    """How far the region is from a third of the picture: large enough to be seen, small enough to be moved."""
    x0, _, x1, _ = _query_box(item)
    return abs((x1 - x0) / item.width - 1 / 3)


def _similarities(bench: Bench, arms: Sequence[str], item: DetectionItem) -> Image.Image:
    """A row an arm: the picture with its region, and the heat at each scale."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = _query_box(item)
    if x1 <= x0:
        raise InputError("no scene holds an object that lies inside with a square around it: give other scenes")
    shown = [name for name in arms if (bench.work / "starts" / f"{name}-f{FOLD}-s{SEED}" / "config.json").exists()]
    if not shown:
        raise InputError(f"{bench.work} holds no start of fold {FOLD}, seed {SEED}: run the benchmark first")
    figure = new_figure(250 * (1 + len(SCALES)), 262 * len(shown))
    grid = figure.subplots(len(shown), 1 + len(SCALES), squeeze=False)
    for row, name in zip(grid, shown, strict=True):
        model = MCLModel.from_pretrained(make_start(bench, name, FOLD, SEED), dtype=torch.float32).eval()
        factor = model.config.image_size / (x1 - x0)  # the region becomes a full view, read from P5
        size = (round(item.width * factor), round(item.height * factor))
        picture = Image.fromarray(item.decode()).resize(size, Image.Resampling.BICUBIC)
        box = (x0 * factor, y0 * factor, min(x1 * factor, size[0]), min(y1 * factor, size[1]))
        side = box[2] - box[0]
        row[0].imshow(picture)
        row[0].add_patch(Rectangle(box[:2], side, side, fill=False, ec="#d7191c", lw=2))
        row[0].set_title(find_arm(name).title, loc="left", fontsize=10, color=INK)
        for axis, scale in zip(row[1:], SCALES, strict=True):
            _heat(axis, model, picture, box, scale)
        for axis in row:
            axis.set_axis_off()
    return figure_to_image(figure)


def _heat(axis: Any, model: MCLModel, picture: Image.Image, box: Sequence[float], scale: float) -> None:
    """Cosines of the region to boxes slid over the picture at one scale, over the picture in gray."""
    size = (round(picture.width * scale), round(picture.height * scale))
    searched = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
    heat = similarity_map(
        model, to_pixel_values(picture, model), box, searched=to_pixel_values(searched, model), scale=scale
    )
    edge = (box[2] - box[0]) * scale
    axis.imshow(searched.convert("L"), cmap="gray", vmin=0, vmax=255)
    extent = (edge / 2, size[0] - edge / 2, size[1] - edge / 2, edge / 2)  # centres of the boxes
    axis.imshow(heat.numpy(), extent=extent, cmap="inferno", alpha=0.72, interpolation="bilinear")
    axis.set_xlim(0, size[0])
    axis.set_ylim(size[1], 0)
    place = tuple(scale * (low + high) / 2 for low, high in ((box[0], box[2]), (box[1], box[3])))
    axis.plot(*place, "+", color="white", markersize=12)
    axis.set_title(f"boxes of {edge:.0f} px, {heat.min():.2f} to {heat.max():.2f}", loc="left", fontsize=9, color=INK)
