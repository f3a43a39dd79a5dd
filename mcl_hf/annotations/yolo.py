"""YOLO's labels: a text file an image, a line an object, in shares of the image's sides.

Flow: open_data -> **yolo** -> annotation_check. The format: https://docs.ultralytics.com/datasets/detect/ and
https://docs.ultralytics.com/datasets/segment/. A line is `class x y width height` (the box's middle; perhaps a score
or a track's number after it) or `class x0 y0 x1 y1 x2 y2 ...`, a polygon; where the YAML has `kpt_shape`, a box and
points after it, which are left out. An image without a file has no objects. `data.yaml` names classes and, for each
split, a folder of images or a text file that lists them; without splits, those count that folders tell.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..plain_text import plain_text
from ..yaml_text import load_yaml
from .annotation_files import Part, by_split, in_threads, is_image, read_text, refuse_pipe, unique_names, walk
from .detection_data import DetectionData
from .raw_data import RawData, RawImage, shown

_SPLITS = ("train", "val", "test")
_PLACES = (*_SPLITS, "valid")
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_LARGEST_YAML = 10**6  # bytes
_LABELS_LOOKED_AT = 50
_BOX = 5  # numbers, class included
_NULL = ("", "~", "null", "Null", "NULL")


def yolo_parts(folder: Path, files: list[str], allow_outside_paths: bool = False) -> list[Part]:
    """The splits of a folder with a `data.yaml` (of any name), or with a list of class names and labels beside it.

    Raises:
        InputError: several of them say different things, or none of them can be read.
    """
    refused, described = [], {}
    for name in files:
        file = folder / name
        if name.lower().endswith((".yaml", ".yml")) and name.count("/") < 2 and file.stat().st_size < _LARGEST_YAML:
            try:
                content = load_yaml(read_text(file), str(file), as_texts=True)
            except InputError as error:  # perhaps a template of some tool, which has nothing to do with the images
                refused.append(error)
                continue
            if isinstance(content, dict) and isinstance(content.get("names"), list | dict):
                described[name] = [content.get(key) for key in ("names", "path", *_PLACES)]
    # one that tells of images before one that names classes alone
    whole = {name: told for name, told in described.items() if told[2:] != [None] * len(_PLACES)} or described
    if whole:
        name = _agreed(folder, whole, "give one of them as data")
        return yaml_parts(folder / name, None if allow_outside_paths else folder)
    lists = [name for name in files if name.rpartition("/")[2] in _NAME_FILES]
    if refused and not lists and looks_like_labels(folder, files):
        raise refused[0]
    if not lists or not looks_like_labels(folder, files):
        return []
    # programs add a class to the list of the folder that they are at work in: a longer one goes on
    listed = {name: read_text(folder / name).rstrip().splitlines() for name in lists}
    longest = max(listed.values(), key=len)
    _agreed(folder, {name: longest[: len(lines)] == lines or lines for name, lines in listed.items()}, "make them one")
    return _folder_parts(folder, dict(enumerate(map(str.strip, longest))), files)


def _agreed(folder: Path, told: dict[str, Any], then: str) -> str:
    """The first of files that all tell the same; where two do not, `then` is what to do."""
    first, *others = told
    for name in others:
        if told[name] != told[first]:
            both = f"{plain_text(first)} and {plain_text(name)}"
            raise InputError(f"{folder}: {both} describe other data or classes: {then}")
    return first


def yaml_parts(file: Path, root: Path | None = None) -> list[Part]:
    """The splits that a `data.yaml` names.

    Args:
        file: the YAML.
        root: folder that everything must be in, where the YAML was found in it and not named by the user, who may let
            their own point anywhere.

    Raises:
        InputError: it is none, or names no classes.
    """
    content = load_yaml(read_text(file), str(file), as_texts=True)
    content = {key: value for key, value in content.items() if value not in _NULL} if isinstance(content, dict) else {}
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    entries = {place: _listed(content.get(place)) for place in _PLACES}
    values = [content.get("path", ""), *(entry for place in entries.values() for entry in place)]
    values += [*names, *names.values()] if isinstance(names, dict) else []
    if not all(isinstance(value, str | int) for value in values):
        raise InputError(f"{file}: its paths and names are not all texts or numbers")  # aliases may make them endless
    if not isinstance(names, dict) or not names:
        raise InputError(f"{file} names no classes: a list or mapping 'names' belongs there")
    try:
        names = {int(number): name for number, name in names.items()}
    except ValueError as error:
        raise InputError(f"{file}: the classes in 'names' are not numbered: {error}") from error
    base = file.parent / content.get("path", ".")
    poses = "kpt_shape" in content
    parts = []
    for split in _SPLITS:
        if found := entries[split] or (entries["valid"] if split == "val" else []):
            read = partial(_read_entries, file, base, found, names, split, root, poses)
            parts.append(Part(split, f"{file.name}: {', '.join(found)[:100]}", read))
    return parts or _folder_parts(file.parent, names, walk(file.parent), poses)


def _listed(entry: Any) -> list[Any]:
    """A place, or several of them, as a list without what is empty."""
    return [place for place in (entry if isinstance(entry, list) else [entry]) if place not in (None, "")]


def looks_like_labels(folder: Path, files: Sequence[str]) -> bool:
    """Whether text files lie where YOLO's labels would, and one of the first that are not empty holds such lines."""
    stems = {image.rpartition(".")[0] for image in files if is_image(image)}
    looked_at = 0
    for name in files:
        if name.endswith(".txt") and ("labels" in name.split("/")[:-1] or name[:-4] in stems):
            with (folder / name).open(encoding="utf-8", errors="replace") as text:
                words = text.readline().split()
            looked_at += bool(words)
            with suppress(ValueError):  # a list of classes, a readme
                if len([float(word) for word in words]) >= 5:
                    return True
            if looked_at == _LABELS_LOOKED_AT:
                return False
    return False


def write_yolo(folder: str | Path, data: DetectionData, results: Iterable[dict[str, Any]] | None = None) -> list[Path]:
    """Write labels, one text file an image, and a `classes.txt` with the names, and return the files.

    Args:
        folder: made if it is not there.
        data: images and, without results, their objects, crowds left out; polygons are written where they have any.
        results: COCO results (`to_results`), of which boxes are written with their scores after them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    label_of = {category: label for label, category in enumerate(data.category_ids)}
    of_image: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in data.image_ids}
    for result in results or ():
        of_image[result["image_id"]].append(result)
    written = [folder / "classes.txt"]
    written[0].write_text("".join(f"{name}\n" for name in data.category_names), encoding="utf-8")
    for item, stem in zip(data, label_stems(data), strict=True):
        width, height = item.width, item.height
        lines = []
        for result in of_image[item.image_id]:
            x, y, w, h = result["bbox"]
            numbers = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height, result["score"]]
            lines.append(_line(label_of[result["category_id"]], numbers))
        for n in np.flatnonzero(~item.iscrowd) if results is None else ():
            box, part, sides = item.boxes[n], item.segmentations[n], [width, height]
            if isinstance(part, list) and len(part) == 1:
                numbers = [side / sides[place % 2] for place, side in enumerate(part[0])]
            else:
                numbers = [*(box[:2] + box[2:]) / 2 / sides, *(box[2:] - box[:2]) / sides]
            lines.append(_line(item.labels[n], numbers))
        written.append(folder / f"{stem}.txt")
        written[-1].write_text("".join(lines), encoding="utf-8")
    return written


def label_stems(data: DetectionData) -> list[str]:
    """What the files of labels of each image are called, without their ending; no two alike, as of a.jpg and a.png."""
    stems = [name.replace("/", "_") for name in unique_names(data.names)]
    count = Counter(stems)
    taken = {stem for stem in stems if count[stem] == 1}
    found = []
    for stem, name in zip(stems, data.names, strict=True):
        if count[stem] > 1:
            stem = first = f"{stem}_{name.rpartition('.')[2]}"
            number = 2
            while stem in taken:
                stem, number = f"{first}_{number}", number + 1
            taken.add(stem)
        found.append(stem)
    return found


def _line(label: int, numbers: Sequence[float]) -> str:
    return " ".join([str(int(label)), *(f"{number:.8g}" for number in numbers)]) + "\n"


def _folder_parts(folder: Path, names: dict[int, str], files: Sequence[str], poses: bool = False) -> list[Part]:
    """Images by the splits that their folders tell; all of them as one part where these tell none."""
    parts = []
    for split, found in by_split(filter(is_image, files)).items():
        paths = [str(folder / name) for name in found]
        read = partial(_read_images, str(folder), paths, paths, names, split, [folder], poses)
        parts.append(Part(split, f"{len(found)} images", read))
    return parts


def _read_entries(
    file: Path, base: Path, entries: list[str], names: dict[int, str], split: str, root: Path | None, poses: bool
) -> RawData:
    """The images of a split: those in its folders, and those that its text files list."""
    images: list[str] = []
    of_folders: list[str] = []
    roots = [file.parent if root is None else root]
    notes = []
    for entry in entries:
        place = _find(file, base, entry, split, root)
        if place.name != entry.rstrip("/").rpartition("/")[2]:
            notes.append((f"{file} names a folder that is not there", [entry], f"{place} is read"))
        if place.is_dir():
            inside = [str(place / name) for name in walk(place) if is_image(name)]
            images += inside
            of_folders += inside
            roots += [place] if root is None else []
            continue
        for number, line in enumerate(read_text(place).splitlines(), start=1):
            name = line.strip().replace("\\", "/")
            if name and not is_image(name):
                raise InputError(f"{place}, line {number}, names no image: paths that end as .jpg, .png, ... belong")
            if name:
                near = [place.parent / name, base / name, file.parent / name]
                images.append(str(next((path for path in near if path.is_file()), near[0])))
        roots += [base, place.parent] if root is None else []
    raw = _read_images(str(file), images, of_folders, names, split, roots, poses)
    raw.notes += notes
    return raw


def _find(file: Path, base: Path, entry: str, split: str, root: Path | None) -> Path:
    """A folder or list of images, from `path` or from the YAML's own folder, in which Roboflow's `../train/images`
    lies too; else the folder of that split in a usual place."""
    inside = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
    words = ("val", "valid", "validation") if split == "val" else (split,)
    usual = [place for word in words for place in (f"images/{word}", f"{word}/images", word)]
    places = [base / entry, *(file.parent / place for place in (entry, inside, *usual))]
    there = [place for place in places if place.is_dir() or (place.is_file() and place.suffix.lower() == ".txt")]
    if not there:
        raise InputError(f"{file} has '{plain_text(entry)}' for {split}, which is no folder and no list of images")
    for place in there:
        if root is None or Path(os.path.abspath(place)).is_relative_to(os.path.abspath(root)):  # noqa: PTH100
            return place
    raise InputError(
        f"{file} names {there[-1]} for {split}, outside of {root}: give the YAML itself as data if this is meant"
    )


def _read_images(
    source: str, paths: Sequence[str], of_folders: Sequence[str], names: dict[int, str], split: str | None,
    roots: list[Path], poses: bool,
) -> RawData:  # fmt: skip
    """Images with what their label files say, of `poses` the box before the points; those `of_folders` are all that
    their folders hold."""
    paths = list(dict.fromkeys(paths))
    kind = ("YOLO, boxes of poses" if poses else "YOLO") + ("" if split is None else f", split {split}")
    images = [RawImage(name, path) for name, path in zip(unique_names(paths), paths, strict=True)]
    raw = RawData(kind, source, images, names, in_shares=True, roots=roots)
    texts = in_threads(_label_text, paths)
    if paths and not any(text is not None for text in texts):
        raise InputError(f"{source}: none of {len(paths)} images has a label file, such as {_label_files(paths[0])[0]}")
    for image, text in zip(images, texts, strict=True):
        for number, line in enumerate((text or "").splitlines(), start=1):
            try:
                image.objects += [_object(line.split()[: _BOX if poses else None])] if line.strip() else []
            except (ValueError, OverflowError) as error:
                raw.faults.append(f"{_label_files(image.name)[0]}, line {number}: {error}")
    raw.number_objects()
    without = [path for path, text in zip(paths, texts, strict=True) if text is None]
    raw.notes.append(("images without a label file", without, "taken as images without objects"))
    raw.notes.append(("label files without an image", _labels_alone(of_folders), "left out"))
    return raw


def _labels_alone(images: Sequence[str]) -> list[str]:
    """Files of labels that belong to none of the images of folders, where they lie in folders of their own."""
    own = {Path(name) for image in images for name in _label_files(image)[:-1]}
    found = [file for folder in {file.parent for file in own} for file in folder.glob("[!.]*.txt")]
    return sorted(str(file) for file in found if file not in own and file.name not in _NAME_FILES)


def _label_files(image: str) -> list[str]:
    """Where the labels of an image may lie: in `labels` in place of the last `images` of its path, or beside it."""
    stem = "/" + image.rpartition(".")[0]
    before, middle, after = stem.rpartition("/images/")
    return ([f"{before}/labels/{after}.txt"[1:]] if middle else []) + [f"{stem}.txt"[1:]]


def _label_text(image: str) -> str | None:
    for name in _label_files(image):
        try:
            refuse_pipe(Path(name))
            return Path(name).read_text(encoding="utf-8-sig", errors="replace")
        except OSError:
            continue
    return None


def _object(words: list[str]) -> dict[str, Any]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError("words that are no numbers") from None
    if len(numbers) not in (5, 6) and (len(numbers) < 7 or len(numbers) % 2 == 0):
        raise ValueError(f"{len(numbers)} numbers, where 5 (a box) or 7, 9, ... (a polygon) belong")
    if not numbers[0].is_integer():
        raise ValueError(f"class {shown(words[0])} is no whole number")
    places = numbers[1:5] if len(numbers) < 7 else numbers[1:]
    if not all(-1 <= place <= 2 for place in places):
        raise ValueError("coordinates that are no shares of the image, from 0 to 1")
    category = int(numbers[0])
    if len(numbers) < 7:
        x, y, w, h = places
        return {"category_id": category, "bbox": [x - w / 2, y - h / 2, w, h]}
    xs, ys = places[::2], places[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {"category_id": category, "bbox": box, "segmentation": [places]}
