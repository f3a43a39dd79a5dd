"""Annotations in COCO's JSON, and folders that hold one: COCO itself, Roboflow's exports, and their like.

Flow: datasets -> **coco_format** -> annotation_check. The format: https://cocodataset.org/#format-data
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcl_hf.data.local_tables import canonical_split
from mcl_hf.detection.annotation_check import RawData, RawImage
from mcl_hf.detection.detection_data import FileImages
from mcl_hf.errors import InputError

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_NOT_BOXES = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")  # COCO's other files


def find_annotations(folder: Path, split: str) -> Path | None:
    """The JSON of a folder that belongs to a split; None where no JSON of the folder is COCO's.

    Raises:
        InputError: there are such files, but none or several of the split.
    """
    files = [file for file in _json_files(folder) if looks_like_coco(file)]
    if not files:
        return None
    if len(files) == 1 and _split_of(files[0], folder) is None:
        return files[0]
    matching = [file for file in files if _split_of(file, folder) == canonical_split(split)]
    exact = [file for file in matching if re.search(rf"(^|[_/.-]){re.escape(split)}([_/.-]|$)", _inside(file, folder))]
    matching = exact or matching
    listed = ", ".join(_inside(file, folder) for file in files)
    if not matching:
        raise InputError(f"{folder} has no annotations of split '{split}': its files are {listed}")
    if len(matching) > 1:
        names = ", ".join(_inside(file, folder) for file in matching)
        raise InputError(f"{folder}: {names} could all be the annotations of split '{split}': give one of them as data")
    return matching[0]


def looks_like_coco(file: Path) -> bool:
    """Whether a JSON file starts as an object with one of COCO's lists; only its first and last 64 kB are read."""
    if file.name.startswith(_NOT_BOXES):
        return False
    with file.open("rb") as handle:
        start = handle.read(65536)
        handle.seek(0, 2)
        handle.seek(max(0, handle.tell() - 65536))
        text = start + handle.read()
    return start.lstrip().startswith(b"{") and any(
        re.search(rb'"%s"\s*:\s*\[' % key, text) for key in (b"images", b"annotations", b"categories")
    )


def read_coco(file: Path, image_folder: Path | None = None) -> RawData:
    """Images and annotations of a COCO JSON.

    Args:
        file: the JSON.
        image_folder: where ``file_name`` starts from; found beside the JSON where left out.

    Raises:
        InputError: no such file, another format, or the images are nowhere near it.
    """
    content = _load(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{file} is no COCO annotation file: it has no list of {key}")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f"{file} is no COCO annotation file: its {key} are not all objects")
    try:
        categories = _categories(file, content)
        images = [
            RawImage(entry["id"], entry["file_name"], _px(entry.get("width")), _px(entry.get("height")))
            for entry in content["images"]
        ]
    except KeyError as error:
        raise InputError(f"{file}: an image or category lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: an image or category cannot be read: {error}") from error
    folder = image_folder if image_folder is not None else _find_images(file, images)
    for image in images:
        image.name = str(folder / image.name)
    position_of = {image.image_id: position for position, image in enumerate(images)}
    annotations, unlisted = [], []
    for annotation in content["annotations"]:
        position = position_of.get(annotation.get("image_id"))
        if position is None:
            unlisted.append(f"annotation {annotation.get('id', '?')} of image {annotation.get('image_id')!r}")
        else:
            annotations.append((position, annotation))
    reader = FileImages([image.name for image in images])
    return RawData("COCO format", str(file), images, annotations, categories, reader, unlisted)


def _px(value: Any) -> int | None:
    """A side as a whole number; some exports write it as text."""
    return None if value is None else int(value)


def _categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names by id, without the parent category that Roboflow writes: id 0, of no object, the others' supercategory."""
    listed = content["categories"]
    names = {category["id"]: str(category["name"]) for category in listed}
    if len(names) < len(listed):
        raise InputError(f"{file}: two categories share an id")
    used = {annotation.get("category_id") for annotation in content["annotations"]}
    parents = {category.get("supercategory") for category in listed if category["id"] != 0}
    if 0 in names and 0 not in used and names[0] in parents:
        del names[0]
    return names


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as handle:
            content = json.load(handle)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is no COCO annotation file: it holds a {type(content).__name__}, not an object")
    return content


def _find_images(file: Path, images: list[RawImage]) -> Path:
    """The folder that ``file_name`` starts from: the first of the usual places where the first images lie."""
    name = file.stem.removeprefix("instances_")
    splits = [name, re.sub(r"\d+$", "", name), *_SPLIT_NAMES.get(_split_of(file, file.parent) or "", ())]
    places = [file.parent, file.parent / "images", file.parent.parent, file.parent.parent / "images"]
    places += [place / split for place in (places[2], places[3], places[0], places[1]) for split in splits if split]
    for place in dict.fromkeys(places):
        if any((place / image.name).is_file() for image in images[:10]):
            return place
    if not images:
        return file.parent
    looked = ", ".join(dict.fromkeys(str(place) for place in places[:6]))
    raise InputError(
        f"{file}: its images are missing ('{images[0].name}' is not below {looked}): give their folder with --images"
    )


def _json_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.json", "*/*.json", "*/*/*.json"):
        yield from sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))


def _inside(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _split_of(file: Path, folder: Path) -> str | None:
    """The split that a file's name or a folder's name tells: instances_val2017.json, valid/_annotations.coco.json."""
    for part in reversed(file.relative_to(folder).with_suffix("").parts):
        for word in re.split(r"[_.-]", part.lower()):
            for split, names in _SPLIT_NAMES.items():
                if re.sub(r"\d+$", "", word) in names:
                    return split
    return None
