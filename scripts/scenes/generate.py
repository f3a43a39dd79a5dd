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
import multiprocessing
import time
import zlib
from collections.abc import Iterator
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
from .statistics import annotation_statistics, print_statistics

JPEG = {"quality": 92, "subsampling": 0}
"""Full colour resolution: halving it would show at 48 px."""
MIN_SIZE_PX = 24
_CHUNK = 32


@dataclass(frozen=True)
class Settings:
    """What a data set is made of; see `scripts/make_scenes.py generate --help`."""

    size: int = 128
    """Side of every picture, px."""
    fold: int = 0
    seed: int = 0
    train: int = 2000
    val: int = 300
    test: int = 600
    pretrain: int = 12000
    """Numbers of pictures; `train` also of each label fraction. 0 leaves a part out."""
    fractions: tuple[float, ...] = (5.0, 20.0)
    """Label fractions, per cent of the training groups of each class, beside the whole."""
    distractors: float = 0.3
    """Mean number of unlabelled objects for each labelled one."""
    renders: bool = False
    public_domain: bool = False

    def __post_init__(self) -> None:
        if self.size < MIN_SIZE_PX:
            raise InputError(f"--size {self.size} is too small: objects cannot be told below {MIN_SIZE_PX} px.")
        if not 0 <= self.fold < NUM_FOLDS:
            raise InputError(f"--fold {self.fold} does not exist: folds are 0 to {NUM_FOLDS - 1}.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative.")
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
    if workers < 1:
        raise InputError(f"--workers {workers} is to be 1 or more.")
    index = load_index(cutouts)
    parts = [(name, split, percent, count) for name, split, percent, count in _parts(settings) if count]
    pools = {name: _pool(index, settings, split, percent) for name, split, percent, _ in parts}  # fails before writing
    if settings.pretrain:
        pools["pretrain"] = _pool(index, settings, "train", 100.0)
    require_empty(out)
    statistics: dict[str, Any] = {"splits": {}}
    for name, split, percent, count in parts:
        start = time.perf_counter()
        (out / name).mkdir(parents=True)
        info = {"description": f"composed scenes, {name}, fold {settings.fold}, seed {settings.seed}"}
        info |= {"area_ranges": area_ranges(settings.size), "split": split, "percent": percent}
        records = _in_order(Job(cutouts, out / name, settings, pools[name], tuple(index["classes"])), count, workers)
        path = out / "annotations" / f"instances_{name}.json"
        content = write_annotations(path, records, index["classes"], info)
        statistics["splits"][name] = annotation_statistics(content) | {"groups_of_pool": pools[name].num_groups()}
        print_statistics(name, statistics["splits"][name], time.perf_counter() - start)
    if settings.pretrain:
        start = time.perf_counter()
        (out / "pretrain").mkdir(parents=True)
        job = Job(cutouts, out / "pretrain", settings, pools["pretrain"], tuple(index["classes"]))
        rows = [{"file_name": name, **row} for name, row, _ in _in_order(job, settings.pretrain, workers)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / "pretrain" / "metadata.jsonl").write_text(text, encoding="utf-8")
        statistics["pretrain"] = {
            "images": len(rows),
            "cutouts": len({row["group"] for row in rows}),
            "groups": len({row["object_group"] for row in rows}),
            "labels": {label: sum(row["label"] == label for row in rows) for label in (*index["classes"], "extra")},
        }
        print(
            f"pretrain: {len(rows)} images ({len(rows) / (time.perf_counter() - start):.0f}/s) of "
            f"{statistics['pretrain']['cutouts']} cut-outs, {statistics['pretrain']['groups']} groups; by label: "
            + ", ".join(f"{label} {count}" for label, count in statistics["pretrain"]["labels"].items()),
            flush=True,
        )
    statistics["settings"] = asdict(settings)
    statistics["classes"] = list(index["classes"])
    statistics["packages"] = index["packages"]
    statistics["versions"] = {name: version(name) for name in ("numpy", "pillow", "pycocotools", "scipy")}
    text = json.dumps(statistics, indent=1) + "\n"
    (out / "statistics.json").write_text(text, encoding="utf-8")
    return statistics


def _parts(settings: Settings) -> Iterator[tuple[str, str, float, int]]:
    """Folder, split, per cent of the groups, and number of scenes."""
    yield "train", "train", 100.0, settings.train
    for percent in settings.fractions:
        yield f"train_{percent:g}", "train", percent, settings.train
    yield "val", "val", 100.0, settings.val
    yield "test", "test", 100.0, settings.test


def _pool(index: dict[str, Any], settings: Settings, split: str, percent: float) -> Pool:
    return make_pool(
        index,
        settings.fold,
        split,
        renders=settings.renders,
        public_domain=settings.public_domain,
        percent=percent,
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

    def make(self, number: int) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        """Write picture ``number``; returns its file name, its entry and its annotations."""
        settings, name = self.settings, f"{number:06d}.jpg"
        part = zlib.crc32(self.folder.name.encode())
        rng = np.random.default_rng([settings.seed, settings.fold, part, number])
        if self.folder.name == "pretrain":
            image, row = compose_single(self.pool, self.cutouts, settings.size, rng)
            image.save(self.folder / name, **JPEG)
            return name, {"label": row["label"], "group": row["id"], "object_group": row["group"]}, []
        # Exactly half of the test scenes, and none of the others.
        blending = BLENDINGS[number % 2] if self.folder.name == "test" else BLENDINGS[0]
        scene = compose_scene(self.pool, self.cutouts, settings.size, rng, blending, settings.distractors)
        scene.image.save(self.folder / name, **JPEG)
        return name, *scene_record(scene, self.classes)


_JOB: Job | None = None


def _start(job: Job) -> None:
    global _JOB
    _JOB = job


def _make(number: int) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    assert _JOB is not None
    return _JOB.make(number)


def _in_order(job: Job, count: int, workers: int) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    if workers == 1:
        yield from map(job.make, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start, (job,)) as processes:
        yield from processes.imap(_make, range(count), _CHUNK)
