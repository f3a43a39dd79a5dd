"""Cityscapes: pictures whose pixels are instance ids become boxes and masks of the eight classes that have instances.

Flow: open_data -> **cityscapes** -> annotation_check. The format: cityscapesScripts, helpers/labels.py and
preparation/json2instanceImg.py: a pixel is `label id x 1000 + number`, or the label id alone where single objects could
not be told apart (a crowd).
"""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from .annotation_files import Part, in_threads
from .masks import encode_masks, mask_area, mask_boxes
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
    in_threads(_read_instances, zip(images, ids, strict=True))
    raw = RawData(f"Cityscapes, split {split}", str(folder), images, dict(INSTANCE_CLASSES))
    raw.number_objects()
    return raw


def _read_instances(image_and_ids: tuple[RawImage, Path]) -> None:
    """Give an image the objects of its picture of ids, in ascending order of ids, or what is wrong with that."""
    image, file = image_and_ids
    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
        if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or not 0 <= pixels.min() <= pixels.max() < 2**16:
            raise ValueError(f"its pixels ({picture.mode}) are no ids of 16 bits")
        for value in np.flatnonzero(np.bincount(pixels.astype(np.int32).ravel())).tolist():
            label, is_crowd = (value, 1) if value < 1000 else (value // 1000, 0)
            if label in INSTANCE_CLASSES:
                rle = encode_masks([pixels == value])[0]
                found = {"category_id": label, "bbox": mask_boxes([rle])[0].tolist(), "iscrowd": is_crowd}
                image.objects.append(found | {"area": mask_area(rle, *pixels.shape), "segmentation": rle})
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: unpack gtFine_trainvaltest.zip beside leftImg8bit") from error
    except Exception as error:  # as in `decode`: Pillow raises whatever damaged data lead it to
        image.fault = f"{file} cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
