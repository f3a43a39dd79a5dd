"""Make a data set of one fold: scenes with annotations, and object-centred pictures for pre-training.

Flow: compose -> annotations + statistics -> **generate**. What comes out::

    pretrain/000000.jpg ...  metadata.jsonl      file_name, label (a class or "extra"), group (cut-out id), object_group
    train/ val/ test/                            scenes
    train_5/ train_20/                           scenes of 5 and 20 % of the training groups of each class
    annotations/instances_{train,val,test,train_5,train_20}.json
    statistics.json                              counts, and the settings and versions that made the set

``pretrain/`` shows all training groups and the extra objects of the training folds; ``mcl-hf pretrain --data
DATA/pretrain --group-column group --label-column label`` reads it. A label fraction has scenes of its own, as many as
``train/``, because every scene holds objects of several groups; its backgrounds and distractors, which carry no label,
are those of the whole training split.

Every picture draws from a generator of its own, seeded by (seed, fold, folder, number): the bytes do not depend on the
number of workers, nor a picture on how many there are.
"""

import json
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mcl_hf.errors import InputError

from .annotations import area_ranges, scene_record, write_annotations
from .blending import BLENDINGS
from .compose import compose_scene, compose_single
from .cutouts import load_index, require_empty
from .folds import NUM_FOLDS
from .pool import Pool, make_pool
from .statistics import annotation_statistics, print_metadata, print_statistics
from .workers import Record, Workers

PRETRAIN = "pretrain"
JPEG: dict[str, Any] = {"quality": 92, "subsampling": 0}
"""Full colour resolution: halving it would show at 48 px."""
MIN_SIZE_PX = 24


@dataclass(frozen=True)
class SplitSettings:
    """What every set has: the side of its pictures in px, its fold and seed, and the number of scenes of each split.

    Raises:
        InputError: size, fold or seed is out of its range.
    """

    size: int = 128
    fold: int = 0
    seed: int = 0
    train: int = 2000
    val: int = 300
    test: int = 600

    def __post_init__(self) -> None:
        if self.size < MIN_SIZE_PX:
            raise InputError(f"--size {self.size} is too small: objects cannot be told below {MIN_SIZE_PX} px.")
        if not 0 <= self.fold < NUM_FOLDS:
            raise InputError(f"--fold {self.fold} does not exist: folds are 0 to {NUM_FOLDS - 1}.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative.")


@dataclass(frozen=True)
class Settings(SplitSettings):
    """What a data set is made of; see `scripts/make_scenes.py generate --help`."""

    pretrain: int = 12000
    """Pictures for pre-training; 0 leaves them, or a split, out. A label fraction has as many scenes as `train`."""
    fractions: tuple[float, ...] = (5.0, 20.0)
    """Label fractions, per cent of the training groups of each class, beside the whole."""
    distractors: float = 0.3
    """Mean number of unlabelled objects for each labelled one."""
    renders: bool = False
    public_domain: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.train, self.val, self.test, self.pretrain) < 0:
            raise InputError("--train, --val, --test and --pretrain are numbers of pictures, 0 or more.")
        if not all(0 < percent < 100 for percent in self.fractions) or len(set(self.fractions)) < len(self.fractions):
            raise InputError(f"--fractions {self.fractions} are to be different per cents between 0 and 100.")
        if not 0 <= self.distractors <= 1:
            raise InputError(f"--distractors {self.distractors} is to be between 0 and 1.")


def generate(cutouts: Path, out: Path, settings: Settings, workers: int = 1) -> dict[str, Any]:
    """Write a data set; returns the content of its ``statistics.json``.

    Args:
        cutouts: a folder that `prepare` wrote.
        out: the folder to write; must be empty or absent.
        settings: see `Settings`.
        workers: processes.

    Raises:
        InputError: no cut-outs there, none left by the settings, or ``out`` holds something.
    """
    index = load_index(cutouts)
    parts = [part for part in _parts(settings) if part.count]
    if not parts:
        raise InputError("--train, --val, --test and --pretrain are all 0: there is nothing to make.")
    classes = tuple(index["classes"])
    # All pools first: what is missing shows before anything is written.
    jobs = {part.name: Job(cutouts, out / part.name, settings, _pool(index, settings, part), classes) for part in parts}
    require_empty(out)
    statistics: dict[str, Any] = {"splits": {}}
    with Workers(jobs, workers) as made:
        for part in parts:
            (out / part.name).mkdir(parents=True)
            start = time.perf_counter()
            records = made.records(part.name, part.count)
            if part.name == PRETRAIN:
                statistics[PRETRAIN] = write_metadata(out / PRETRAIN / "metadata.jsonl", records)
                print_metadata(statistics[PRETRAIN], time.perf_counter() - start)
                continue
            info: dict[str, Any] = {"description": f"composed scenes, {part.name}, fold {settings.fold}"}
            info |= {"area_ranges": area_ranges(settings.size), "seed": settings.seed, "percent": part.percent}
            path = out / "annotations" / f"instances_{part.name}.json"
            counts = annotation_statistics(write_annotations(path, records, classes, info))
            statistics["splits"][part.name] = counts | {"groups_of_pool": jobs[part.name].pool.num_groups()}
            print_statistics(part.name, counts, time.perf_counter() - start)
    statistics |= {"settings": asdict(settings), "classes": list(classes), "packages": index["packages"]}
    statistics["versions"] = {name: version(name) for name in ("numpy", "pillow", "pycocotools", "scipy")}
    (out / "statistics.json").write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")
    return statistics


def write_metadata(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Write the table of the pictures for pre-training; returns how many images, cut-outs and groups it has, and how
    many images of each label."""
    rows = [{"file_name": name, **row} for name, row, _ in records]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    cutouts, groups = {row["group"] for row in rows}, {row["object_group"] for row in rows}
    labels = dict(sorted(Counter(row["label"] for row in rows).items()))
    return {"images": len(rows), "cutouts": len(cutouts), "groups": len(groups), "labels": labels}


@dataclass(frozen=True)
class Part:
    """One folder of pictures."""

    name: str
    split: str
    percent: float
    """Of the groups of each class."""
    count: int
    """Pictures."""


def _parts(settings: Settings) -> Iterator[Part]:
    yield Part("train", "train", 100.0, settings.train)
    for percent in settings.fractions:
        yield Part(f"train_{percent:g}", "train", percent, settings.train)
    yield Part("val", "val", 100.0, settings.val)
    yield Part("test", "test", 100.0, settings.test)
    yield Part(PRETRAIN, "train", 100.0, settings.pretrain)


def _pool(index: dict[str, Any], settings: Settings, part: Part) -> Pool:
    return make_pool(
        index,
        settings.fold,
        part.split,
        renders=settings.renders,
        public_domain=settings.public_domain,
        percent=part.percent,
        seed=settings.seed,
    )


@dataclass(frozen=True)
class Job:
    """What every picture of one folder shares; sent to each process once."""

    cutouts: Path
    folder: Path
    settings: Settings
    pool: Pool
    classes: tuple[str, ...]

    def make(self, number: int) -> Record:
        """Write picture ``number``; returns its file name, its entry and its annotations."""
        settings, name = self.settings, f"{number:06d}.jpg"
        part = zlib.crc32(self.folder.name.encode())
        rng = np.random.default_rng([settings.seed, settings.fold, part, number])
        if self.folder.name == PRETRAIN:
            image, row = compose_single(self.pool, self.cutouts, settings.size, rng)
            image.save(self.folder / name, **JPEG)
            return name, {"label": row["label"], "group": row["id"], "object_group": row["group"]}, []
        # Exactly half of the test scenes, and none of the others.
        blending = BLENDINGS[number % 2] if self.folder.name == "test" else BLENDINGS[0]
        scene = compose_scene(self.pool, self.cutouts, settings.size, rng, blending, settings.distractors)
        scene.image.save(self.folder / name, **JPEG)
        return name, *scene_record(scene, self.classes)
