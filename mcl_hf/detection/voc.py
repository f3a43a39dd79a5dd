"""Pascal VOC: one XML an image, lists of images by split, boxes only.

Flow: datasets -> **voc** -> annotation_check. The format: the VOC devkit's readme
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html). Its boxes count pixels from 1 and include both
ends: xmin 1, xmax 10 is ten pixels wide, here x 0, width 10.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mcl_hf.detection.annotation_check import RawData, RawImage
from mcl_hf.detection.detection_data import FileImages
from mcl_hf.errors import InputError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def voc_years(folder: Path) -> list[Path]:
    """Folders in VOC's layout: ``folder`` itself, or those in it or in its VOCdevkit (VOC2007, VOC2012), sorted."""
    places = [folder, *sorted(folder.glob("VOC*")), *sorted((folder / "VOCdevkit").glob("VOC*"))]
    return [place for place in places if (place / "Annotations").is_dir() and (place / "JPEGImages").is_dir()]


def read_voc(folder: Path, split: str) -> RawData:
    """Images of a split, from all years below the folder that list it (VOCdevkit: 2007 and 2012; VOC2007: one).

    Categories get the ids 1 to 20 in VOC's order; data with other names, theirs in alphabetical order.

    Raises:
        InputError: no list of this split, or an XML that is missing or not in VOC's format.
    """
    split = "val" if split == "validation" else split
    lists = [(year, year / "ImageSets" / "Main" / f"{split}.txt") for year in voc_years(folder)]
    files: list[tuple[Path, str]] = []
    for year, listed in lists:
        if listed.is_file():
            files += [
                (year, line.split()[0]) for line in listed.read_text(encoding="utf-8").splitlines() if line.split()
            ]
        elif not (year / "ImageSets" / "Main").is_dir():  # exports of annotation tools come without lists
            files += [(year, file.stem) for file in sorted((year / "Annotations").glob("*.xml"))]
    if not files:
        known = sorted(
            {file.stem for _, listed in lists for file in listed.parent.glob("*.txt") if "_" not in file.stem}
        )
        raise InputError(f"{folder} has no images of split '{split}': its lists are {', '.join(known) or 'empty'}")
    with ThreadPoolExecutor(8) as pool:
        parsed = list(pool.map(_read_xml, files))
    found = {annotation["category"] for _, annotations in parsed for annotation in annotations}
    names = list(VOC_CLASSES) if found <= set(VOC_CLASSES) else sorted(found)
    number = {name: index for index, name in enumerate(names, start=1)}
    annotations = [
        (position, {**annotation, "id": count, "category_id": number[annotation["category"]]})
        for position, (_, listed_here) in enumerate(parsed)
        for count, annotation in enumerate(listed_here, start=1)
    ]
    images = [image for image, _ in parsed]
    years = ", ".join(dict.fromkeys(year.name for year, _ in files))
    return RawData(
        kind=f"Pascal VOC, {years}, split {split}",
        source=str(folder),
        images=images,
        annotations=annotations,
        categories={index: name for name, index in number.items()},
        reader=FileImages([image.name for image in images]),
        is_voc=True,
    )


def _read_xml(where: tuple[Path, str]) -> tuple[RawImage, list[dict[str, Any]]]:
    year, stem = where
    file = year / "Annotations" / f"{stem}.xml"
    try:
        root = ElementTree.parse(file).getroot()
        size = root.find("size")
        width, height = (int(_text(size, side)) for side in ("width", "height")) if size is not None else (0, 0)
        annotations = list(_objects(root))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{file} is not in Pascal VOC's format: {error}") from error
    folder = year / "JPEGImages"
    image = next((folder / f"{stem}{end}" for end in _IMAGE_SUFFIXES if (folder / f"{stem}{end}").is_file()), None)
    name = image or folder / (root.findtext("filename") or f"{stem}.jpg")
    return RawImage(stem, str(name), width or None, height or None), annotations


def _objects(root: ElementTree.Element) -> Iterator[dict[str, Any]]:
    for entry in root.iter("object"):
        box = entry.find("bndbox")
        x0, y0, x1, y1 = (float(_text(box, side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        yield {
            "category": _text(entry, "name").strip(),
            "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1],
            "difficult": int(entry.findtext("difficult") or 0),
        }


def _text(entry: ElementTree.Element | None, name: str) -> str:
    text = entry.findtext(name) if entry is not None else None
    if text is None:
        raise ValueError(f"there is no <{name}> where one belongs")
    return text
