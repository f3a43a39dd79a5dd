"""Annotations in COCO's JSON, and folders that hold one: COCO itself, exports of Roboflow and Label Studio.

Flow: open_data -> **coco_format** -> annotation_check. The format: https://cocodataset.org/#format-data
"""

import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from .annotation_files import find_images, is_file, parse_json, refuse_pipe
from .raw_data import RawData, RawImage, Reading, image_id_of, shown, side_in_px

_NOT_BOXES = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")  # COCO's other files


def looks_like_coco(file: Path) -> bool:
    """Whether a JSON file starts as an object with one of COCO's lists; only its first and last 64 kB are read. One
    that is read whole so has to list images: Label Studio leaves a list of categories beside YOLO's labels."""
    if file.name.startswith(_NOT_BOXES):
        return False
    try:
        with file.open("rb") as handle:
            start = handle.read(65536)
            size = handle.seek(0, 2)
            handle.seek(max(0, size - 65536))
            text = start + handle.read()
    except OSError:
        return False
    keys = (b"images",) if size <= 2 * 65536 else (b"images", b"annotations", b"categories")
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and any(
        re.search(rb'"%s"\s*:\s*\[' % key, text) for key in keys
    )


def read_coco(file: Path, how: Reading, split: str | None = None, root: Path | None = None) -> RawData:
    """Images and annotations of a COCO JSON.

    Args:
        file, how: the JSON, and how it is to be read.
        split: that the file belongs to, whose folder is a usual place of images.
        root: folder that images must be in; that of the JSON where left out, or the one above `annotations`.

    Raises:
        InputError: no such file, another format, or the images are nowhere near it.
    """
    content = load_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} is no COCO annotation file: it holds a {type(content).__name__}, not an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{file} is no COCO annotation file: it has no list of {key}")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f"{file} is no COCO annotation file: its {key} are not all objects")
    first: dict[str, Any] = next(iter(content["annotations"]), {})
    if "segments_info" in first:
        raise InputError(f"{file} is panoptic COCO, which has no objects of its own: use the instances file")
    try:
        categories = _categories(file, content)
        images = [_image(entry, how) for entry in content["images"]]
    except KeyError as error:
        raise InputError(f"{file}: an image or category lacks {error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{file}: an image or category cannot be read: {error}") from error
    whole = [image.name for image in images if image.fault is None]
    folder = how.images or find_images(file, [name.replace("\\", "/") for name in whole[:10]], split)
    for image in images:
        if "\\" in image.name and not is_file(folder / image.name):  # as Windows writes it
            image.name = image.name.replace("\\", "/")
        image.name = str(folder / image.name)
    if root is None:
        root = file.parent.parent if file.parent.name.lower() in ("annotations", "annotation") else file.parent
    raw = RawData("COCO format", str(file), images, categories, roots=[root, folder])
    image_of = {image.image_id: image for image in images}
    unlisted: list[str] = []
    for annotation in content["annotations"]:
        image_id = annotation.get("image_id")
        try:
            image_of[image_id].objects.append(annotation)
        except KeyError:
            unlisted.append(f"annotation {shown(annotation.get('id', '?'))} of image {shown(image_id)}")
        except TypeError:
            name = f"annotation {shown(annotation.get('id', '?'))}"
            raw.faults.append(f"{file}, {name}: image_id {shown(image_id)} is no id")
    raw.notes.append(("annotations of images that are not listed", unlisted, "left out"))
    return raw


def load_json(file: Path) -> Any:
    """What a JSON file holds; an `InputError` where it cannot be read or gives a key twice."""
    try:
        refuse_pipe(file)
        return parse_json(file.read_bytes(), str(file))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{file} nests too deeply to be annotations or results") from error


def _image(entry: dict[str, Any], how: Reading) -> RawImage:
    name, fault = entry["file_name"], None
    image_id = image_id_of(entry["id"])
    if not isinstance(name, str) or not name or "\0" in name:
        name, fault = f"image {image_id}", f"file_name {shown(name)} cannot name a file"
    width = height = None
    try:
        width, height = side_in_px(entry.get("width")), side_in_px(entry.get("height"))
    except ValueError as error:
        fault = fault or str(error)
    return RawImage(image_id, name, width, height, how.group_column and entry.get(how.group_column), fault)


def _categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names by id, without the parent category that Roboflow writes: id 0, of no object, the others' supercategory."""
    listed = content["categories"]
    names: dict[Any, str] = {}
    for category in listed:
        if not isinstance(category["name"], str | int | float):
            raise ValueError(f"category {shown(category['id'])} has the name {shown(category['name'])}")
        names[image_id_of(category["id"])] = str(category["name"])
    if len(names) < len(listed):
        raise InputError(f"{file}: two categories share an id")
    if len({type(number) for number in names}) > 1:
        raise InputError(f"{file}: some ids of categories are numbers and some are texts: {shown(list(names))}")
    used = {str(annotation.get("category_id")) for annotation in content["annotations"]} if 0 in names else set()
    parents = {shown(category.get("supercategory")) for category in listed if category["id"] != 0}
    if 0 in names and "0" not in used and shown(names[0]) in parents:
        del names[0]
    return names
