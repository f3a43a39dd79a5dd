"""Compose one scene, or one object-centred picture for pre-training.

Flow: pool -> appearance + blending -> **compose** -> annotations + statistics -> generate. Everything that a picture
depends on is the pool, the size, the options and its own generator: no state is kept between pictures.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .appearance import MIN_TARGET_PX, OPAQUE, background_crop, finish, posed
from .blending import Window, cast_shadow, feather, paste, window
from .catalogue import EXTRA
from .pool import Pool, Row, draw, load_background, load_object

SIZE_RANGES = ((0.09, 0.18), (0.18, 0.38), (0.38, 0.68))
SIZE_SHARES = (0.34, 0.42, 0.24)
"""Root of the area of an object's box, in sides of the scene: three ranges and how often each is drawn."""
MAX_OBJECTS = 8
TRIES = 8
MIN_ON_CANVAS, MIN_LEFT_VISIBLE = 0.55, 0.4
"""Least part of an object that lies in the picture, and that objects above it leave visible."""
MIN_VISIBLE_PX = 16


@dataclass
class Instance:
    """One pasted object."""

    row: Row
    """Of the index."""
    visible: np.ndarray
    """bool ``(S, S)``: what no later object covers."""
    whole_px: int
    """Its opaque pixels, outside of the picture and covered ones included."""
    labelled: bool


@dataclass
class Scene:
    """A composed picture."""

    image: Image.Image
    instances: list[Instance] = field(default_factory=list)
    background: Row = field(default_factory=dict)
    blending: str = "feathered"


def compose_scene(
    pool: Pool,
    folder: Path,
    size: int,
    rng: np.random.Generator,
    blending: str = "feathered",
    distractor_rate: float = 0.0,
) -> Scene:
    """A scene of up to eight labelled objects, and distractors without labels.

    Args:
        pool: what it may show.
        folder: the folder of cut-outs.
        size: side, px.
        rng: source of all choices.
        blending: a name of `blending.BLENDINGS`.
        distractor_rate: mean number of distractors for each labelled object drawn.
    """
    background = draw(pool.backgrounds, rng)
    canvas = background_crop(load_background(folder / background["file"], size), size, rng)
    side = rng.choice([-1.0, 1.0])
    light = (0.06 * side, 0.05 * rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.5))
    count = min(MAX_OBJECTS, max(1, int(rng.triangular(1, 3, 9))))
    drawn: list[tuple[float, Row, bool]] = []
    for _ in range(count):
        drawn.append((_target(size, rng), draw(_class(pool, rng), rng), True))
    for _ in range(int(rng.binomial(count, distractor_rate)) if pool.distractors else 0):
        drawn.append((_target(size, rng), draw(pool.distractors, rng), False))
    scene = Scene(Image.new("RGB", (1, 1)), background=background, blending=blending)
    for target, row, labelled in sorted(drawn, key=_by_size):  # large first: what is small stands in front
        cutout = load_object(folder / row["file"], size)
        for _ in range(TRIES):
            if _try(scene, canvas, cutout, row, labelled, target, light, rng):
                break
    scene.image = finish(canvas, rng)
    return scene


def compose_single(pool: Pool, folder: Path, size: int, rng: np.random.Generator) -> tuple[Image.Image, Row]:
    """One object near the middle of a background, as in pictures that photographers take of one thing.

    Half of the pictures draw a class first (the extras being one), half a group of all; so every class and every group
    occurs often.

    Returns:
        The picture, and the object's row of the index.
    """
    everything = {EXTRA: pool.extras, **pool.objects} if pool.extras else dict(pool.objects)
    if rng.random() < 0.5:
        groups = everything[list(everything)[rng.integers(len(everything))]]
    else:
        groups = {group: rows for part in everything.values() for group, rows in part.items()}
    background = draw(pool.backgrounds, rng)
    canvas = background_crop(load_background(folder / background["file"], size), size, rng)
    object_ = None
    while object_ is None:  # a thin object may lose its last opaque pixel: draw another one
        row = draw(groups, rng)
        object_ = posed(load_object(folder / row["file"], size), row["label"], size * rng.uniform(0.35, 0.78), rng)
    colours, alpha = object_
    alpha = feather(alpha, size, rng)
    height, width = alpha.shape
    left, top = (
        round(float(np.clip(rng.normal(middle, 0.09), 0.2, 0.8)) * size - extent / 2)
        for middle, extent in ((0.5, width), (0.52, height))
    )
    part = window(size, alpha.shape, left, top)
    if part is not None:
        if rng.random() < 0.7:
            cast_shadow(canvas, alpha, left, top, (0.05 * rng.choice([-1.0, 1.0]), 0.05, rng.uniform(0.25, 0.5)))
        paste(canvas, colours, alpha, part, "feathered", rng)
    return finish(canvas, rng), row


def _try(
    scene: Scene,
    canvas: np.ndarray,
    cutout: Image.Image,
    row: Row,
    labelled: bool,
    target: float,
    light: tuple[float, float, float],
    rng: np.random.Generator,
) -> bool:
    """Pose and place an object at random; paste it and return True where it covers too little of the others."""
    size = canvas.shape[0]
    object_ = posed(cutout, row["label"], target, rng)
    if object_ is None:
        return False
    colours, alpha = object_
    alpha = feather(alpha, size, rng)
    height, width = alpha.shape
    # From a fifth outside on one side to a fifth outside on the other; what is longer than the picture sticks out.
    left, top = (round(rng.random() * (size - 0.6 * extent) - 0.2 * extent) for extent in (width, height))
    part = window(size, alpha.shape, left, top)
    if part is None:
        return False
    mask, whole = _mask(alpha, part, size), int((alpha > OPAQUE).sum())
    if mask.sum() < max(MIN_VISIBLE_PX, MIN_ON_CANVAS * whole):
        return False
    if any((other.visible & ~mask).sum() < MIN_LEFT_VISIBLE * other.whole_px for other in scene.instances):
        return False
    if rng.random() < 0.7:
        cast_shadow(canvas, alpha, left, top, light)
    paste(canvas, colours, alpha, part, scene.blending, rng)
    for other in scene.instances:
        other.visible &= ~mask
    scene.instances.append(Instance(row, mask, whole, labelled))
    return True


def _mask(alpha: np.ndarray, part: Window, size: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[part.canvas] = alpha[part.patch] > OPAQUE
    return mask


def _class(pool: Pool, rng: np.random.Generator) -> dict[str, list[Row]]:
    return pool.objects[list(pool.objects)[rng.integers(len(pool.objects))]]


def _target(size: int, rng: np.random.Generator) -> float:
    low, high = SIZE_RANGES[rng.choice(len(SIZE_RANGES), p=SIZE_SHARES)]
    return max(MIN_TARGET_PX, size * rng.uniform(low, high))


def _by_size(drawn: tuple[float, Row, bool]) -> float:
    return -drawn[0]
