"""One way in for annotated images: `open_detection_data`, whatever their format.

Flow: **datasets** -> coco_format | voc | cityscapes | object_tables -> annotation_check -> detection_data.
"""

import glob
from pathlib import Path

from mcl_hf.data.addresses import is_hub_name
from mcl_hf.data.local_tables import LocalTable, arrow_table, hub_table, parquet_table
from mcl_hf.detection.annotation_check import RawData, check_annotations
from mcl_hf.detection.cityscapes import is_cityscapes, read_cityscapes
from mcl_hf.detection.coco_format import find_annotations, read_coco
from mcl_hf.detection.detection_data import DetectionData
from mcl_hf.detection.object_tables import BoxFormat, metadata_folder_table, read_object_table
from mcl_hf.detection.voc import read_voc, voc_years
from mcl_hf.errors import InputError

__all__ = ["open_detection_data"]


def open_detection_data(
    spec: str | Path,
    *,
    split: str = "train",
    images: str | Path | None = None,
    image_column: str | None = None,
    objects_column: str = "objects",
    box_format: BoxFormat = "xywh",
    skip_broken: bool = False,
    check_files: bool = True,
) -> DetectionData:
    """Open and check annotated images.

    Args:
        spec: one of

            * a COCO JSON, or a folder that holds one (``annotations/instances_*.json`` with ``train2017/``, Roboflow's
              ``train/_annotations.coco.json``),
            * Pascal VOC: VOCdevkit (all of its years that list the split), or one year's folder,
            * Cityscapes: the folder of ``leftImg8bit`` and ``gtFine``,
            * parquet or arrow files, a folder of them or a glob, or a folder of images with a metadata.jsonl, with
              columns ``image`` and ``objects``,
            * the name of a data set on the Hub in that layout, ``user/name``.
        split: ``train``, ``validation`` (also ``val``), ``test``, VOC's ``trainval``, or the name of a Hub split.
        images: folder of the images of a COCO JSON; found beside it where left out. Refused for other formats.
        image_column, objects_column, box_format: of tables; see `read_object_table`.
        skip_broken: leave out, and name, what would be refused.
        check_files: read the header of each image file first (some seconds for a hundred thousand on a local disk).

    Raises:
        InputError: nothing there, or what `check_annotations` refuses.
    """
    raw = _read(str(spec), split, images, image_column, objects_column, box_format)
    return check_annotations(raw, skip_broken=skip_broken, check_files=check_files)


def _read(
    data: str,
    split: str,
    images: str | Path | None,
    image_column: str | None,
    objects_column: str,
    box_format: BoxFormat,
) -> RawData:
    path = Path(data)
    image_folder = None if images is None else Path(images)
    if image_folder is not None and not image_folder.is_dir():
        raise InputError(f"--images {image_folder} is no folder")
    if path.suffix.lower() == ".json" and path.is_file():
        return read_coco(path, image_folder)
    if path.suffix.lower() == ".json" and not path.exists():  # a file's name, which the Hub need not be asked about
        raise InputError(f"{path} is not there: name a COCO JSON, or the folder that holds it")
    is_other = path.is_dir() and (is_cityscapes(path) or bool(voc_years(path)))
    found = find_annotations(path, split) if path.is_dir() and not is_other else None
    if found is not None:
        return read_coco(found, image_folder)
    if image_folder is not None:
        raise InputError(f"--images {image_folder} belongs to a COCO JSON, which {data} is not and does not hold")
    if is_other:
        return read_cityscapes(path, split) if is_cityscapes(path) else read_voc(path, split)
    table = _table(data, split)
    return read_object_table(
        table, data, image_column=image_column, objects_column=objects_column, box_format=box_format
    )


def _table(data: str, split: str) -> LocalTable:
    path = Path(data)
    if path.is_dir():
        if any(path.glob("metadata.*")) or any(path.glob("*/metadata.*")):
            return metadata_folder_table(path, split)
        shards = [file for end in ("parquet", "arrow") for file in sorted(path.rglob(f"*.{end}"))]
        if shards:
            return _shards(data, shards, split)
        raise InputError(
            f"{data} holds no annotations that are known: no COCO JSON, no VOC or Cityscapes folders, no parquet files "
            "and no metadata.jsonl"
        )
    if path.is_file():
        return _shards(data, [path], split)
    if glob.has_magic(data):
        files = sorted(glob.glob(data, recursive=True))  # noqa: PTH207 - Path.glob knows no absolute patterns
        return _shards(data, [Path(file) for file in files], split)
    if not is_hub_name(data):
        raise InputError(f"Data '{data}' is no local file or folder and no name of a data set on the Hub")
    return hub_table(data, split)


def _shards(data: str, files: list[Path], split: str) -> LocalTable:
    suffix = files[0].suffix.lower() if files else ""
    if suffix not in ("", ".parquet", ".arrow"):
        raise InputError(f"{data} is no annotated data that is known: give a COCO .json, .parquet or .arrow files")
    return (arrow_table if suffix == ".arrow" else parquet_table)(data, files, split)
