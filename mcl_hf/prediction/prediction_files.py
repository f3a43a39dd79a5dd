"""Predictions as annotations that fine-tuning reads back, and as pictures.

    OUTPUT_DIR/
        annotations.json                     COCO's format; images relative to the folder that they share; with `score`
        yolo/data.yaml, images/, labels/     YOLO's; the score is the last number of a line
        voc/Annotations/, JPEGImages/        Pascal VOC's
        pictures/                            boxes, names, scores and masks drawn in

Images of YOLO's and VOC's folders are links to the originals where the disk allows it, else copies.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

import yaml

from ..annotations.detection_data import DetectionData, ImageId
from ..annotations.masks import mask_area
from ..annotations.yolo import label_stems, write_yolo
from ..errors import InputError
from ..evaluation.evaluation_files import predicted_objects
from ..evaluation.results import Result, by_image
from ..plain_text import plain_text
from ..viz.detections import draw_objects, none_found

FORMATS = ("coco", "yolo", "voc")
LABELS = "annotations.json"
WRITTEN = ("yolo", "voc", "pictures")
"""Folders with images that are written."""


def write_predictions(
    folder: Path, data: DetectionData, results: Sequence[Result], formats: Sequence[str], pictures: int,
    threshold: float, highest: Mapping[ImageId, float],
) -> list[Path]:  # fmt: skip
    """Write them and return the files that one names to `finetune --data`, and the folder of pictures, which say where
    nothing scores `threshold`, and what the `highest` score of the image is.

    Raises:
        InputError: the folder cannot be written.
    """
    of_image = by_image(results, data.image_ids)
    writers = {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}
    try:
        written = [writers[name](folder, data, of_image) for name in formats]
        if pictures and len(data):
            empty = {image_id for image_id, found in of_image.items() if not found}
            notes = {image_id: none_found(threshold, highest.get(image_id)) for image_id in empty}
            written.append(_draw(folder / "pictures", data, of_image, notes, pictures))
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; choose another --output-dir") from error
    return written


def images_folder(data: DetectionData) -> Path:
    """The folder that all images share."""
    folders = [os.path.abspath(Path(name).parent) for name in data.names]  # noqa: PTH100 - links stay as they are
    return Path(os.path.commonpath(folders)) if folders else Path()


def _write_coco(folder: Path, data: DetectionData, of_image: dict[ImageId, list[Result]]) -> Path:
    root = images_folder(data)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for item in data:
        inside = Path(os.path.relpath(os.path.abspath(item.name), root)).as_posix()  # noqa: PTH100
        images.append({"id": item.image_id, "file_name": inside, "width": item.width, "height": item.height})
        for result in of_image[item.image_id]:
            mask, (_, _, w, h) = result.get("segmentation"), result["bbox"]
            area = w * h if mask is None else mask_area(mask, item.height, item.width)
            annotations.append({"id": len(annotations) + 1, "area": area, "iscrowd": 0, **result})
    categories = [{"id": n, "name": name} for n, name in zip(data.category_ids, data.category_names, strict=True)]
    path = folder / LABELS
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _write_yolo(folder: Path, data: DetectionData, of_image: dict[ImageId, list[Result]]) -> Path:
    root = folder / "yolo"
    shutil.rmtree(root, ignore_errors=True)
    _link_images(root / "images", data)
    write_yolo(root / "labels", data, [result for found in of_image.values() for result in found])
    (root / "labels" / "classes.txt").unlink()  # data.yaml names them
    content = {"path": ".", "train": "images", "names": dict(enumerate(data.category_names))}
    (root / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return root / "data.yaml"


def _write_voc(folder: Path, data: DetectionData, of_image: dict[ImageId, list[Result]]) -> Path:
    root = folder / "voc"
    shutil.rmtree(root, ignore_errors=True)
    images = _link_images(root / "JPEGImages", data)
    (root / "Annotations").mkdir()
    name_of = dict(zip(data.category_ids, data.category_names, strict=True))
    for item, image in zip(data, images, strict=True):
        tree = ElementTree.Element("annotation")
        SubElement(tree, "filename").text = plain_text(image.name)  # of bytes that are no UTF-8, too
        size = SubElement(tree, "size")
        for side, value in (("width", item.width), ("height", item.height), ("depth", 3)):
            SubElement(size, side).text = str(value)
        for result in of_image[item.image_id]:
            entry = SubElement(tree, "object")
            SubElement(entry, "name").text = name_of[result["category_id"]]
            SubElement(entry, "score").text = repr(result["score"])
            x, y, w, h = result["bbox"]
            box = SubElement(entry, "bndbox")
            for side, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):  # counted from 1
                SubElement(box, side).text = f"{value:.10g}"
        ElementTree.ElementTree(tree).write(root / "Annotations" / f"{image.stem}.xml", encoding="utf-8")
    return root


def _link_images(folder: Path, data: DetectionData) -> list[Path]:
    """The images in one folder, called as `write_yolo` calls their labels."""
    folder.mkdir(parents=True)
    placed = []
    for name, stem in zip(data.names, label_stems(data), strict=True):
        placed.append(folder / f"{stem}{Path(name).suffix}")
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(name), placed[-1])
            continue
        shutil.copyfile(name, placed[-1])
    return placed


def _draw(
    folder: Path, data: DetectionData, of_image: dict[ImageId, list[Result]], notes: dict[ImageId, str], count: int
) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for item, stem in zip(data, label_stems(data)[:count], strict=False):
        objects = predicted_objects(of_image[item.image_id], item, data)
        picture = draw_objects(item.decode(), objects, (item.width, item.height), notes.get(item.image_id, ""))
        picture.save(folder / f"{stem}.jpg", quality=90)
    return folder
