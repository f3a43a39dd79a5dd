"""The second set: objects that touch and cover each other, of no class.

Flow: contact_meshes -> contact_render -> annotations + statistics -> **contact**. Composed scenes are pasted; these
are simulated and rendered, with the library's embedded photos as textures, so that a gain on the first set that came
from traces of pasting would not show on the second. Class-agnostic: the one class is ``object``. What comes out::

    train/ val/ test/
    annotations/instances_{train,val,test}.json
    statistics.json

The 1,000 objects and the photos (all crops of one with it) are divided into six folds, as the cut-outs are: no object
and no photo of the test split is in another. An annotation also has ``touching``, how many objects the object touches.
"""

import json
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from mcl_hf.errors import InputError

from .annotations import area_ranges, encode, write_annotations
from .appearance import finish
from .compose import MIN_VISIBLE_PX
from .contact_meshes import object_folder, object_names
from .contact_render import OBJECTS, drop_objects
from .cutouts import require_empty
from .folds import SPLITS, folds_of, split_of
from .generate import JPEG, SplitSettings
from .statistics import annotation_statistics, print_statistics
from .workers import Record, Workers

PHOTOS = Path(__file__).resolve().parents[2] / "mcl_hf" / "data" / "photos"
CLASSES = ("object",)


@dataclass(frozen=True)
class ContactSettings(SplitSettings):
    """What a set is made of; see `scripts/make_scenes.py contact --help`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.train, self.val, self.test) < 0 or self.train + self.val + self.test == 0:
            raise InputError("--train, --val and --test are numbers of pictures, 0 or more, and not all 0.")


@dataclass(frozen=True)
class ContactJob:
    """What every picture of one split shares."""

    folder: Path
    settings: ContactSettings
    objects: tuple[Path, ...]
    """OBJ files."""
    textures: tuple[Path, ...]
    """Photos."""

    def make(self, number: int) -> Record:
        """Write picture ``number``; returns its file name, its entry and its annotations."""
        settings, name = self.settings, f"{number:06d}.jpg"
        part = zlib.crc32(f"contact:{self.folder.name}".encode())
        rng = np.random.default_rng([settings.seed, settings.fold, part, number])
        count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        objects = [self.objects[place] for place in rng.choice(len(self.objects), count, replace=False)]
        photos = [self.textures[place] for place in rng.choice(len(self.textures), count + 2, replace=False)]
        drop = drop_objects(objects, photos[2:], photos[:2], settings.size, rng)
        finish(drop.pixels, rng).save(self.folder / name, **JPEG)
        annotations = []
        for place, path in enumerate(objects):
            visible = drop.owner == place
            pixels = int(visible.sum())
            if pixels >= MIN_VISIBLE_PX:
                annotations.append(
                    {"category_id": 1, **encode(visible), "cutout_id": int(path.stem), "group": f"object:{path.stem}"}
                    | {"visible": round(min(1.0, pixels / max(1, drop.whole_px[place])), 3)}
                    | {"touching": len(drop.touching[place])}
                )
        return name, {"width": settings.size, "height": settings.size, "distractors": 0}, annotations


def contact(out: Path, settings: ContactSettings, workers: int = 1) -> dict[str, Any]:
    """Write a set; returns the content of its ``statistics.json``.

    Args:
        out: the folder to write; must be empty or absent.
        settings: see `ContactSettings`.
        workers: processes.

    Raises:
        InputError: pybullet is not installed, or ``out`` holds something.
    """
    folder = object_folder()
    require_empty(out)
    own = objects_of(object_names(folder), settings.fold)
    counts = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split)}
    statistics: dict[str, Any] = {"splits": {}}
    with tempfile.TemporaryDirectory() as temporary:
        textures = _write_textures(Path(temporary), settings.fold)
        jobs = {}
        for split in counts:
            objects = tuple(folder / name / f"{name}.obj" for name in own[split])
            jobs[split] = ContactJob(out / split, settings, objects, tuple(textures[split]))
        with Workers(jobs, workers) as made:
            for split, count in counts.items():
                (out / split).mkdir(parents=True)
                start = time.perf_counter()
                info: dict[str, Any] = {"description": f"dropped objects, {split}, fold {settings.fold}"}
                info |= {"area_ranges": area_ranges(settings.size), "seed": settings.seed}
                path = out / "annotations" / f"instances_{split}.json"
                content = write_annotations(path, made.records(split, count), CLASSES, info)
                statistics["splits"][split] = annotation_statistics(content)
                touching = [annotation["touching"] > 0 for annotation in content["annotations"]]
                statistics["splits"][split]["touching"] = round(float(np.mean(touching)), 3) if touching else 0.0
                print_statistics(split, statistics["splits"][split], time.perf_counter() - start)
                print(f"  {statistics['splits'][split]['touching']:.0%} of the objects touch another one", flush=True)
    statistics |= {"settings": asdict(settings), "classes": list(CLASSES)}
    statistics["versions"] = {name: version(name) for name in ("numpy", "pillow", "pybullet", "pycocotools")}
    (out / "statistics.json").write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")
    return statistics


def objects_of(names: Sequence[str], fold: int) -> dict[str, list[str]]:
    """Which objects each split may show."""
    folds = folds_of([{"group": name} for name in names], ())
    return {split: sorted(name for name in names if split_of(folds[name], fold) == split) for split in SPLITS}


def embedded_photos(folder: Path = PHOTOS) -> Iterator[tuple[str, str, str, bytes]]:
    """The library's photos: title, licence, crop and the JPEG's bytes of each."""
    for path in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(path, columns=["image", "source_image", "licence", "crop"])
        for row in table.to_pylist():
            yield row["source_image"], row["licence"], row["crop"], row["image"]["bytes"]


def _write_textures(folder: Path, fold: int) -> dict[str, list[Path]]:
    """Write the embedded photos as files, which is what the renderer reads; their paths by split."""
    photos = list(embedded_photos())
    folds = folds_of([{"group": title} for title, _, _, _ in photos], ())
    textures: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for number, (title, _, _, data) in enumerate(photos):
        path = folder / f"{number:04d}.jpg"
        path.write_bytes(data)
        textures[split_of(folds[title], fold)].append(path)
    return textures
