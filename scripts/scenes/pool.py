"""What a split may show: its cut-outs by class and group, its distractors, its backgrounds, and their pixels.

Flow: folds -> **pool** -> compose. Pixels are read once a process and kept at little more than the size that scenes of
the asked side can show, so that small scenes are cheap.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcl_hf.errors import InputError

from .catalogue import EXTRA
from .folds import folds_of, fraction_of, split_of
from .licences import PUBLIC_DOMAIN

Row = Mapping[str, Any]

OBJECT_DETAIL, BACKGROUND_DETAIL = 2.5, 2.25
"""Side that is kept in memory, in sides of a scene: the longest one of a cut-out, the shortest one of a background."""


@dataclass
class Pool:
    """Cut-outs and backgrounds of one split."""

    objects: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    """By class and group; classes that have none are absent."""
    distractors: dict[str, list[Row]] = field(default_factory=dict)
    """By group; unlabelled in scenes."""
    extras: dict[str, list[Row]] = field(default_factory=dict)
    """All objects of no class, by group, the distractors among them; for pre-training."""
    backgrounds: dict[str, list[Row]] = field(default_factory=dict)
    """By place."""

    def num_groups(self) -> dict[str, int]:
        """Groups of each class."""
        return {label: len(groups) for label, groups in self.objects.items()}


def make_pool(
    index: Mapping[str, Any],
    fold: int,
    split: str,
    *,
    renders: bool = False,
    public_domain: bool = False,
    percent: float = 100.0,
    seed: int = 0,
) -> Pool:
    """The pool of a split of a fold.

    Args:
        index: content of ``index.json``.
        fold: 0 to 5; see `folds`.
        split: ``train``, ``val`` or ``test``.
        renders: use rendered objects beside photos.
        public_domain: use only what is in the public domain or CC0, and no people.
        percent: of the groups of each class (at least one each); distractors and backgrounds, which are unlabelled,
            are never cut.
        seed: draws which groups the fraction keeps.

    Raises:
        InputError: nothing is left.
    """
    rows = [row for row in index["objects"] if renders or row["kind"] == "photo"]
    places = list(index["backgrounds"])
    object_fold = folds_of(index["objects"], ("label", "kind"))  # of all, so that the options do not move a group
    place_fold = folds_of(places, ())
    if public_domain:
        rows = [row for row in rows if row["licence"] in PUBLIC_DOMAIN and row["label"] != "person"]
        places = [row for row in places if row["licence"] in PUBLIC_DOMAIN]
    pool = Pool(backgrounds=_by_group([row for row in places if split_of(place_fold[row["group"]], fold) == split]))
    mine = [row for row in rows if split_of(object_fold[row["group"]], fold) == split]
    for label in index["classes"]:
        groups = _by_group([row for row in mine if row["label"] == label])
        kept = fraction_of(groups, percent, seed, f"{fold}:{label}") if groups else []
        if kept:
            pool.objects[label] = {group: groups[group] for group in sorted(kept)}
    pool.extras = _by_group([row for row in mine if row["label"] == EXTRA])
    pool.distractors = _by_group([row for row in mine if row["distractor"]])
    if not pool.objects or not pool.backgrounds:
        raise InputError(f"fold {fold} has no cut-outs or no backgrounds for its {split} split: use more packages.")
    return pool


def draw(groups: Mapping[str, Sequence[Row]], rng: np.random.Generator) -> Row:
    """A group at random, then one of its pictures: a person with ten pictures is not drawn more often than another."""
    rows = groups[list(groups)[int(rng.integers(len(groups)))]]
    return rows[int(rng.integers(len(rows)))]


@lru_cache(maxsize=4096)
def load_object(path: Path, size: int) -> Image.Image:
    """A cut-out (RGBA) for scenes of ``size`` px."""
    with Image.open(path) as image:
        cutout = image.convert("RGBA")
    longest = round(OBJECT_DETAIL * size)
    if max(cutout.size) > longest:  # premultiplied, lest the hidden colour of clear pixels bleeds in
        scale = longest / max(cutout.size)
        target = (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale)))
        cutout = cutout.convert("RGBa").resize(target, Image.Resampling.LANCZOS).convert("RGBA")
    return cutout


@lru_cache(maxsize=1024)
def load_background(path: Path, size: int) -> Image.Image:
    """A background (RGB) for scenes of ``size`` px."""
    with Image.open(path) as image:
        background = image.convert("RGB")
    scale = BACKGROUND_DETAIL * size / min(background.size)
    if scale < 1:
        target = (round(background.width * scale), round(background.height * scale))
        background = background.resize(target, Image.Resampling.LANCZOS)
    return background


def _by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    return dict(sorted(groups.items()))
