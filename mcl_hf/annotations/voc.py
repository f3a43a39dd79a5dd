"""Pascal VOC: one XML an image, boxes only, in VOC's own folders or in any others.

Flow: open_data -> **voc** -> annotation_check. The format:
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html. Its boxes count pixels from 1 and include both
ends: xmin 1, xmax 10 is ten pixels wide, here x 0, width 10. labelImg and other programs write the XML files beside
their images or in folders of any names, with or without lists of the images of a split.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import InputError
from .annotation_files import (
    Part,
    by_split,
    by_stem,
    in_threads,
    is_image,
    read_text,
    refuse_pipe,
    split_word,
    unique_names,
)
from .raw_data import RawData, RawImage, side_in_px

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")
_ROOT = b"<annotation"


def voc_parts(folder: Path, files: list[str]) -> list[Part]:
    """The splits that lists (`ImageSets/Main/train.txt`) or folders tell, or all XML files as one part.

    Args:
        folder: VOCdevkit (a list counts for all of its years that have it), a year of it, any folder with XML files in
            VOC's format, or one above it.
        files: all that it holds.
    """
    named_so = [name for name in files if name.lower().endswith(".xml")]
    images = [name for name in files if is_image(name)]
    lists: dict[str, list[str]] = defaultdict(list)
    for name in files:
        parts = name.split("/")
        is_list = parts[-2:-1] == ["ImageSets"] or parts[-3:-1] == ["ImageSets", "Main"]
        if is_list and name.endswith(".txt") and "_" not in parts[-1]:  # the others are of one class each
            lists[parts[-1][:-4]].append(name)
    if not lists and not any(_is_voc(folder / name) for name in named_so[:50]):
        return []
    found = []
    for split, names in sorted(lists.items()):
        told = None if [*lists] == ["default"] else split  # as CVAT calls what has no splits
        found.append(Part(told, ", ".join(names), partial(_read_listed, folder, names, named_so, images, split)))
    for told, names in {} if lists else by_split(named_so).items():
        read = partial(_read_unlisted, folder, names, named_so, images, told)
        found.append(Part(told, f"{len(names)} .xml files", read))
    return found


def _read_unlisted(folder: Path, found: list[str], files: list[str], images: list[str], split: str | None) -> RawData:
    """The images that XML files name; those that none of the data's names are told."""
    raw = _read(folder, found, images, "Pascal VOC" if split is None else f"Pascal VOC, split {split}")
    named = {Path(path).stem for path in (*files, *filter(None, raw.reader.paths))}
    here = [path for path in images if split is None or split_word(path.rpartition("/")[0]) == split]
    without = [path for path in here if Path(path).stem not in named]
    raw.notes.append(("images without an .xml file", without, "left out"))
    return raw


def _is_voc(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return _ROOT in handle.read(2000)
    except OSError:
        return False


def _read_listed(folder: Path, lists: list[str], files: list[str], images: list[str], split: str) -> RawData:
    """The images that lists name, list after list: a name a line, perhaps with a flag after it (-1, 0 or 1)."""
    chosen: list[str] = []
    years = []
    stems = {Path(image).stem for image in images}
    for listed in lists:
        year = listed.partition("ImageSets/")[0]
        of_name = {name.rpartition("/")[2][:-4]: name for name in files if name.startswith(year)}
        for line in read_text(folder / listed).splitlines():
            name = line.strip()
            bare = name if name in stems else re.sub(r"\s+(-1|0|1)$", "", name)
            if name:
                stem = Path(bare).stem if is_image(bare) or bare.endswith(".xml") else bare
                chosen.append(of_name.get(name) or of_name.get(stem) or f"{year}Annotations/{stem}.xml")
        years.append(year.rstrip("/").rpartition("/")[2] or folder.resolve().name)
    if not chosen:
        raise InputError(f"{folder} has no images of split '{split}': {', '.join(lists)} names none")
    return _read(folder, chosen, images, f"Pascal VOC, {', '.join(dict.fromkeys(years))}, split {split}")


def _read(folder: Path, files: Sequence[str], images: list[str], kind: str) -> RawData:
    """Images and objects of XML files; categories get the ids 1 to 20 in VOC's order, other names theirs in
    alphabetical order. Raises `InputError` where not one of the files belongs to an image."""
    parsed = in_threads(partial(_read_xml, folder), files)
    there, unmatched = by_stem(images), 0
    for file, image_id, image in zip(files, unique_names(files), parsed, strict=True):
        image.image_id = image_id
        stem, listed = file.rpartition("/")[2][:-4], image.name.replace("\\", "/").rpartition("/")[2]
        candidates = there.get(stem) or there.get(listed.rpartition(".")[0], [])
        beside = f"{file.rpartition('/')[0]}/{listed or f'{stem}.jpg'}"
        image.name = str(folder / (min(candidates, key=partial(_distance, file)) if candidates else beside))
        unmatched += not candidates
    if unmatched == len(files):
        raise InputError(f"{folder}: {len(files)} VOC .xml files, but no image has the name of any")
    raw = RawData(kind, str(folder), parsed, {}, is_voc=True, roots=[folder])
    raw.number_classes(1, VOC_CLASSES)
    raw.number_objects()
    return raw


def _distance(file: str, image: str) -> tuple[int, bool, int, str]:
    """How far an image of the same name lies from an XML file: VOC has masks of that name, other splits too."""
    one, other = file.split("/")[:-1], image.split("/")[:-1]
    shared = len([*takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))])
    usual = one == other or any(part.lower() in _IMAGE_FOLDERS for part in other)
    alike = len(set(one) & set(other))  # annotations/train and images/train
    return -shared - alike, not usual, len(other), image


def _read_xml(folder: Path, name: str) -> RawImage:
    """An image, called as the file says, with its objects; what is wrong with the file is the image's fault."""
    file = folder / name
    try:
        refuse_pipe(file)
        root = ElementTree.parse(file).getroot()
        if root.tag.lower() != "annotation":
            raise ValueError(f"it holds <{root.tag[:60]}>, not <annotation>")
        size = root.find("size")
        width, height = (side_in_px(size.findtext(side)) if size is not None else None for side in ("width", "height"))
        listed = root.findtext("filename") or ""
        return RawImage(name, listed, width or None, height or None, objects=list(_objects(root)))
    except OSError as error:
        fault = f"{file} cannot be read: {error.strerror or error}"
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        fault = f"{file} is not in Pascal VOC's format: {error}"
    return RawImage(name, "", fault=fault)


def _objects(root: ElementTree.Element) -> Iterator[dict[str, Any]]:
    def text(entry: ElementTree.Element | None, name: str) -> str:
        found = entry.findtext(name) if entry is not None else None
        if found is None or not found.strip():
            raise ValueError(f"there is no <{name}> where one belongs")
        return found.strip()

    for entry in root.iter("object"):
        x0, y0, x1, y1 = (float(text(entry.find("bndbox"), side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (entry.findtext("difficult") or "").strip()
        yield {
            "category_id": text(entry, "name"),
            "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1],
            "difficult": 0 if difficult.lower() == "unspecified" else difficult,
        }
