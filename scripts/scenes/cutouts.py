"""Cut the objects out, shrink the backgrounds, and write what each is into ``index.json``.

Flow: catalogue + backgrounds -> **cutouts** -> folds -> pool. The folder that comes out::

    index.json                  classes, versions of the packages, and the two tables below
    objects/00017.png           RGBA, cropped to what is opaque, longest side at most 420 px
    backgrounds/003.jpg         RGB, longest side at most 900 px

A row of ``objects`` has ``id``, ``file``, ``label``, ``group``, ``kind`` (photo or render), ``distractor``, ``width``,
``height`` (px), ``package``, ``source_file`` and ``licence``; a row of ``backgrounds`` the same without those that
only objects have.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from mcl_hf.errors import InputError

from .archives import Packages, SourceFile
from .backgrounds import backgrounds
from .catalogue import CLASSES, EXTRA, Entry, catalogue
from .fetch import package_versions

MAX_OBJECT_SIDE_PX = 420
MAX_BACKGROUND_SIDE_PX = 900
MIN_SIDE_PX, MIN_OPAQUE_PX, MIN_FILL = 12, 300, 0.06
OPAQUE = 60
"""Alpha from which a pixel belongs to the crop."""


def prepare(sources: Path, out: Path, renders: bool | None = None) -> dict[str, Any]:
    """Write the folder of cut-outs and backgrounds; returns the content of its index.

    Args:
        sources: a folder that `fetch` filled.
        out: the folder to write; must be empty or absent.
        renders: use the rendered objects too; None uses them where they were fetched.

    Raises:
        InputError: a package is missing, or ``out`` holds something.
    """
    require_empty(out)
    packages = Packages(sources)
    renders = packages.has_renders() if renders is None else renders
    for folder in ("objects", "backgrounds"):
        (out / folder).mkdir(parents=True)
    objects: list[dict[str, Any]] = []
    for entry in catalogue(packages, renders):
        image = cut_out(entry)
        if image is None:
            continue
        row: dict[str, Any] = {"id": len(objects), "file": f"objects/{len(objects):05d}.png"}
        row |= {"label": entry.label, "group": entry.group, "kind": entry.kind, "distractor": entry.distractor}
        row |= {"width": image.width, "height": image.height, **_origin(entry.source)}
        image.save(out / row["file"])
        objects.append(row)
    places: list[dict[str, Any]] = []
    for place in backgrounds(packages):
        image = place.source.open().convert("RGB")
        image.thumbnail((MAX_BACKGROUND_SIDE_PX, MAX_BACKGROUND_SIDE_PX), Image.Resampling.LANCZOS)
        row = {"id": len(places), "file": f"backgrounds/{len(places):03d}.jpg", "group": place.group}
        row |= {"width": image.width, "height": image.height, **_origin(place.source)}
        image.save(out / row["file"], quality=92)
        places.append(row)
    index = {"classes": list(CLASSES), "packages": package_versions(sources), "objects": objects, "backgrounds": places}
    (out / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def require_empty(out: Path) -> None:
    """Raise `InputError` where a folder holds something: no run may mix its files with another's."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder: remove it, or give another --out.")


def cut_out(entry: Entry) -> Image.Image | None:
    """The object as RGBA, cropped to what is opaque; None where too little of it is left to be told."""
    image = entry.source.open()
    image = from_white_ground(image) if entry.white_ground else image.convert("RGBA")
    if entry.left_half:
        image = image.crop((0, 0, image.width // 2, image.height))
    rows, columns = np.nonzero(np.asarray(image)[..., 3] > OPAQUE)
    if len(rows) < MIN_OPAQUE_PX:
        return None
    image = image.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    image.thumbnail((MAX_OBJECT_SIDE_PX, MAX_OBJECT_SIDE_PX), Image.Resampling.LANCZOS)
    filled = float((np.asarray(image)[..., 3] > 127).mean())
    return image if filled >= MIN_FILL and min(image.size) >= MIN_SIDE_PX else None


def from_white_ground(image: Image.Image) -> Image.Image:
    """RGBA of an object that stands on white: what is nearly white and touches the border becomes transparent."""
    rgb = image.convert("RGB")
    pixels = np.asarray(rgb).astype(np.int16)  # (H, W, 3)
    near_white = (pixels.min(axis=2) > 228) & (pixels.max(axis=2) - pixels.min(axis=2) < 18)
    regions, _ = ndimage.label(np.pad(near_white, 1, constant_values=True))
    inside = (regions != regions[0, 0])[1:-1, 1:-1]  # the frame belongs to the ground
    alpha = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(3))
    rgb.putalpha(alpha.filter(ImageFilter.GaussianBlur(0.7)))
    return rgb


def load_index(cutouts: Path) -> dict[str, Any]:
    """The index of a folder of cut-outs.

    Raises:
        InputError: there is none.
    """
    path = cutouts / "index.json"
    if not path.is_file():
        raise InputError(f"{cutouts} has no index.json: make it by `scripts/make_scenes.py prepare`.")
    return json.loads(path.read_text(encoding="utf-8"))


def print_index(index: dict[str, Any]) -> None:
    """The class table: cut-outs and groups by class, photos and renders apart, and the licences."""
    cut: Counter[tuple[str, str]] = Counter()
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in index["objects"]:
        cut[row["label"], row["kind"]] += 1
        groups[row["label"], row["kind"]].add(row["group"])
    print(f"{'class':14s} photos (groups)  renders (groups)")
    for label in (*index["classes"], EXTRA):
        cells = [f"{cut[label, kind]:6d} ({len(groups[label, kind]):3d})" for kind in ("photo", "render")]
        print(f"{label:14s} {cells[0]:>15s}  {cells[1]:>16s}")
    distractors = sum(row["distractor"] for row in index["objects"] if row["kind"] == "photo")
    print(f"distractors among the extra photos: {distractors}")
    places = {row["group"] for row in index["backgrounds"]}
    print(f"backgrounds: {len(index['backgrounds'])} of {len(places)} places")
    for licence, count in Counter(row["licence"] for row in index["objects"]).most_common():
        print(f"  objects under {licence}: {count}")


def _origin(source: SourceFile) -> dict[str, str]:
    return {"package": source.package, "source_file": source.path, "licence": source.licence}
