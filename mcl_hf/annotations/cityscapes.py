"""Cityscapes: pictures whose pixels are instance ids become boxes and masks of the eight classes that have instances.

Flow: open_data -> **cityscapes** -> annotation_check. The format: cityscapesScripts, helpers/labels.py and
preparation/json2instanceImg.py: a pixel is `label id x 1000 + number`, or the label id alone where single objects could
not be told apart (a crowd).
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..errors import InputError
from .annotation_files import Part, in_threads
from .raw_data import RawData, RawImage

_NAMES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
INSTANCE_CLASSES = dict(zip((24, 25, 26, 27, 28, 31, 32, 33), _NAMES, strict=True))
"""Label id -> name; the ids are those of results files too."""

_IMAGE_END, _IDS_END = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def is_cityscapes(folder: Path) -> bool:
    """Whether a folder has Cityscapes' two folders."""
    return (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir()


def cityscapes_parts(folder: Path) -> list[Part]:
    """One part for each folder of splits, in Cityscapes' own names: train, val, test."""
    splits = sorted(path.name for path in (folder / "leftImg8bit").iterdir() if path.is_dir())
    return [
        Part(name, f"leftImg8bit/{name}", partial(read_cityscapes, folder, name)) for name in splits if name[0] != "."
    ]


def read_cityscapes(folder: Path, split: str) -> RawData:
    """Images and instances of a split; an `InputError` where it has no images, or a picture of ids is missing."""
    root = folder / "leftImg8bit" / split
    files = sorted(root.glob(f"*/*{_IMAGE_END}"))
    if not files:
        raise InputError(f"{folder} has no images of split '{split}': {root}/CITY/*{_IMAGE_END} matches nothing")
    images = [RawImage(file.name.removesuffix(_IMAGE_END), str(file)) for file in files]
    cities = (folder / "gtFine" / split / file.parent.name for file in files)
    ids = [city / f"{image.image_id}{_IDS_END}" for city, image in zip(cities, images, strict=True)]
    for image, file, found in zip(images, ids, in_threads(_instances, ids), strict=True):
        if isinstance(found, str):
            image.fault = f"{file} cannot be read: {found}"
        else:
            image.objects = found
    raw = RawData(f"Cityscapes, split {split}", str(folder), images, dict(INSTANCE_CLASSES))
    raw.number_objects()
    return raw


def _instances(file: Path) -> list[dict[str, Any]] | str:
    """The objects of a picture of ids, or what is wrong with it."""
    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
        if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or not 0 <= pixels.min() <= pixels.max() < 2**16:
            return f"its pixels ({picture.mode}) are no ids of 16 bits"
        return instances_of(pixels.astype(np.int32))
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: unpack gtFine_trainvaltest.zip beside leftImg8bit") from error
    except Exception as error:  # as in `decode`: Pillow raises whatever damaged data lead it to
        return " ".join(str(error).split()) or type(error).__name__


def instances_of(pixels: np.ndarray) -> list[dict[str, Any]]:
    """COCO annotations of one picture of ids, `(height, width)`, in ascending order of ids."""
    found = []
    for value in np.flatnonzero(np.bincount(pixels.ravel())):
        label = int(value) // 1000 if value >= 1000 else int(value)
        if label not in INSTANCE_CLASSES:
            continue
        rle = coco_mask.encode(np.asfortranarray(pixels == value).view(np.uint8))
        found.append(
            {
                "category_id": label,
                "bbox": [float(side) for side in coco_mask.toBbox(rle)],
                "area": float(coco_mask.area(rle)),
                "iscrowd": int(value < 1000),
                "segmentation": {"size": list(pixels.shape), "counts": rle["counts"].decode("ascii")},
            }
        )
    return found
