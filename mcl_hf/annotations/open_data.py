"""One way in for annotated images: `open_detection_data`, whatever their format.

Flow: **open_data** -> annotation_files, coco_format | yolo | voc | cityscapes | csv_boxes | object_tables ->
annotation_check -> detection_data.
"""

import gc
import glob
from collections import Counter
from functools import partial
from pathlib import Path

from ..data.sources.addresses import is_hub_name
from ..data.sources.local_tables import (
    SPLIT_OF,
    canonical_split,
    embedded_folder,
    files_table,
    hub_table,
    matching,
    splits_of_files,
    without_caches,
)
from ..data.sources.split_column import rows_of_split, split_cells, split_meant, splits_of_column
from ..errors import InputError
from ..plain_text import plain_text
from .annotation_check import check_annotations
from .annotation_files import Part, choose_part, is_image, split_word, walk
from .cityscapes import cityscapes_parts, is_cityscapes
from .coco_format import looks_like_coco, read_coco
from .csv_boxes import looks_like_boxes, read_csv, splits_in_rows
from .detection_data import DetectionData
from .object_tables import metadata_parts, read_object_table
from .raw_data import BoxFormat, RawData, Reading
from .voc import voc_parts
from .yolo import looks_like_labels, yaml_parts, yolo_parts

__all__ = ["list_splits", "open_detection_data"]

_TABLES = (".parquet", ".arrow")
_LISTS = {".json": (looks_like_coco, read_coco), ".csv": (looks_like_boxes, read_csv)}
"""Files that list images which lie in folders: ending -> how one in a folder is told, and read."""
_NAMED_FILES = (*_LISTS, ".yaml", ".yml")
_DEEPEST = 3  # folders that lists are looked for in, the given one included


def open_detection_data(
    spec: str | Path,
    *,
    split: str | None = "train",
    images: str | Path | None = None,
    image_column: str | None = None,
    objects_column: str = "objects",
    box_format: BoxFormat = "xywh",
    group_column: str | None = None,
    skip_broken: bool = False,
    check_files: bool = True,
    allow_outside_paths: bool = False,
) -> DetectionData:
    """Open and check annotated images.

    Args:
        spec: one of

            * `bccd-mini`, which comes with the package,
            * a COCO JSON, or a folder that holds one (`annotations/instances_*.json` with `train2017/`, Roboflow's
              `train/_annotations.coco.json`),
            * YOLO: a `data.yaml`, or a folder that holds one, or `images` and `labels` with a `classes.txt`,
            * Pascal VOC: VOCdevkit (all of its years that list the split), one year's folder, or any folder with XML
              files in VOC's format and their images,
            * a CSV with a box a row, or a folder that holds one,
            * Cityscapes: the folder of `leftImg8bit` and `gtFine`,
            * parquet or arrow files, a folder of them or a glob, or a folder of images with a metadata.jsonl, with
              columns `image` and `objects`,
            * the name of a data set on the Hub in that layout, `user/name`.
        split: `train`, `validation` (also `val`), `test`, VOC's `trainval`, or the name of a Hub split. Data
            without splits of their own (`list_splits`) are `train` or None, as a whole; of a file that was named, all
            is read, and the description says so.
        images: folder of the images of a COCO JSON or a CSV; found beside it where left out. Refused for other formats.
        image_column, objects_column: of tables; the first is found by itself where only one can be it.
        box_format: of tables, and of a CSV with boxes in one column: `xywh` (x, y, width, height, as COCO and most of
            the Hub) or `xyxy` (two corners), both in px.
        group_column: column of a table or CSV, or entry of COCO's images, that names the group of each image.
        skip_broken: leave out, and name, what would be refused.
        check_files: read the header and the end of each image file first (some seconds for a hundred thousand on a
            local disk).
        allow_outside_paths: take images outside of the data's folder, which paths in the data may name. A
            `data.yaml` that is given itself may name any folders.

    Raises:
        InputError: nothing there, no such split, or what `check_annotations` refuses.
    """
    folder = None if images is None else Path(images)
    how = Reading(folder, image_column, objects_column, box_format, group_column, allow_outside_paths)
    collects = gc.isenabled()
    gc.disable()  # it would look through a million annotations again and again, none of which is garbage yet
    try:
        raw = _read(embedded_folder(str(spec)), split, how)
        raw.roots = [] if allow_outside_paths else raw.roots
        return check_annotations(raw, skip_broken, check_files)
    finally:
        if collects:
            gc.enable()


def list_splits(spec: str | Path) -> list[str]:
    """The splits that annotated data tell, in its own words (val2017, valid, trainval); none where all of it is one.

    Raises:
        InputError: nothing there that `open_detection_data` would open.
    """
    data = embedded_folder(str(spec))
    if _is_on_hub(data):
        from datasets import get_dataset_split_names

        try:
            return [str(name) for name in get_dataset_split_names(data)]
        except Exception:  # whatever keeps it from being listed keeps it from being opened, where it is named
            return []
    return list(dict.fromkeys(part.split for part in _parts(data, Reading()) if part.split))


def has_split(spec: str | Path, split: str) -> bool:
    """Whether annotated data on this machine tell a split of this name, or of another name for the same."""
    if not Path(embedded_folder(str(spec))).exists():
        return False
    return any(split_meant(word) == canonical_split(split) for word in list_splits(spec))


def _read(data: str, split: str | None, how: Reading) -> RawData:
    if how.images is not None and not how.images.is_dir():
        raise InputError(f"--image-root {how.images} is no folder")
    if _is_on_hub(data):
        _refuse_images(data, how)
        return _hub(data, split or "train", how)
    parts = _parts(data, how)
    if Path(data).is_file() and len(parts) == 1 and parts[0].split is None:
        raw = parts[0].read()
        own = split_meant(split_word(Path(data).stem) or "")
        if split is not None and canonical_split(split) not in ("train", own) and split_meant(split) != own:
            raw.kind += f" (split '{split}' has no effect: one file was named)"
        return raw
    part = choose_part(data, parts, split)
    raw = part.read()
    if part.split is not None and raw.listed is not None:
        raw.kind += f", rows of split {plain_text(part.split)}, {len(raw.images)} of {raw.listed} images"
    elif part.split is not None and "split" not in raw.kind and not Path(raw.source).is_file():  # whose name tells it
        raw.kind += f", split {plain_text(part.split)}"
    return raw


def _parts(data: str, how: Reading) -> list[Part]:
    """What a local file, folder or glob holds, by split."""
    path, suffix = Path(data), Path(data).suffix.lower()
    if path.is_dir():
        return _folder_parts(path, how)
    if path.is_file() and suffix in _LISTS:
        return _list_parts(path, data, how, split_word(path.stem))
    if not path.exists() and suffix in _NAMED_FILES:  # which the Hub need not be asked about
        raise InputError(f"{path} is not there: name an annotation file, or the folder that holds it")
    if not path.is_file() and not glob.has_magic(data):
        raise InputError(f"data '{data}' is no local file or folder and no name of a data set on the Hub")
    _refuse_images(data, how)
    if suffix in _NAMED_FILES:
        return yaml_parts(path)
    return _table_parts(data, [path] if path.is_file() else [Path(file) for file in matching(data)], how)


def _folder_parts(folder: Path, how: Reading) -> list[Part]:
    if is_cityscapes(folder):
        _refuse_images(str(folder), how)
        return cityscapes_parts(folder)
    files = walk(folder)
    if how.images is not None:
        found = _listed(folder, files, ".json", how) or _listed(folder, files, ".csv", how)
        if not found:
            _refuse_images(str(folder), how)
        return found
    # a folder may hold its annotations in several formats: the one that says the most is read
    is_voc = any("ImageSets" in name.split("/")[:-1] for name in files)
    found = (
        (voc_parts(folder, files) if is_voc else [])
        or _listed(folder, files, ".json", how)
        or yolo_parts(folder, files, how.allow_outside_paths)
        or metadata_parts(folder, files, how)
        or voc_parts(folder, files)
        or _listed(folder, files, ".csv", how)
    )
    shards = [name for end in _TABLES for name in files if name.lower().endswith(end)]
    if not found and shards:
        return _table_parts(str(folder), [folder / name for name in shards], how)
    if not found:
        raise InputError(f"{folder} holds no annotations that are known: {_seen(folder, files)}")
    return found


def _listed(folder: Path, files: list[str], suffix: str, how: Reading) -> list[Part]:
    """The COCO JSONs or the CSVs of boxes of a folder, one part each."""
    is_list, _ = _LISTS[suffix]
    found = []
    for name in files:
        if name.lower().endswith(suffix) and name.count("/") < _DEEPEST and is_list(folder / name):
            split = split_word(name.removesuffix(Path(name).suffix))
            found += _list_parts(folder / name, name, how, split, folder)
    return found


def _list_parts(file: Path, name: str, how: Reading, split: str | None, root: Path | None = None) -> list[Part]:
    """A COCO JSON or a CSV of boxes; where a column of it tells splits, each of them is a part."""
    read = _LISTS[file.suffix.lower()][1]
    if read is read_csv and (words := splits_in_rows(file)):
        return [Part(word, f"{name}, '{word}'", partial(read_csv, file, how, split, root, word)) for word in words]
    # a file that was named is read whichever split is asked for
    return [Part(split if root else None, name, partial(read, file, how, split, root))]


def _refuse_images(data: str, how: Reading) -> None:
    if how.images is not None:
        raise InputError(
            f"--image-root {how.images} belongs to a COCO JSON or a CSV, which {data} is not and does not hold"
        )


def _seen(folder: Path, files: list[str]) -> str:
    """What a folder holds in place of annotations."""
    if looks_like_labels(folder, files):
        return "its labels look like YOLO's, but no data.yaml or classes.txt names the classes"
    other = next((name for name in files if name.rpartition("/")[2].startswith("panoptic_")), None)
    if other is not None:
        return f"{other} is panoptic COCO: use the instances file"
    ends = Counter("images" if is_image(name) else f"{Path(name).suffix or 'other'} files" for name in files)
    listed = ", ".join(f"{count} {end}" for end, count in ends.most_common(4)) or "nothing"
    known = "no COCO JSON, no VOC, YOLO or Cityscapes files, no CSV of boxes, no parquet files and no metadata.jsonl"
    return f"{known}; it has {listed}"


def _table_parts(data: str, files: list[Path], how: Reading) -> list[Part]:
    suffix = files[0].suffix.lower() if files else ""
    if suffix not in ("", *_TABLES):
        raise InputError(
            f"{data} is no annotated data that is known: give a COCO .json, data.yaml, .csv, .parquet or .arrow"
        )

    def read(split: str | None, word: str | None = None) -> RawData:
        return read_object_table(files_table(data, files, split), data, how, word)

    files = without_caches(files)
    told = splits_of_files(files, Path(data))
    splits = sorted({split for split in told if split})
    if not splits or (None in told and len(splits) == 1) or len(files) == 1:
        words: list[str] = splits_of_column(split_cells(files_table(data, files, None).table), data)
        return [Part(word, data, partial(read, None, word)) for word in (words or (None,))]
    return [Part(split, data, partial(read, split)) for split in splits]


def _is_on_hub(data: str) -> bool:
    path = Path(data)
    is_local = path.exists() or path.suffix.lower() in _NAMED_FILES or glob.has_magic(data)
    return not is_local and is_hub_name(data)


def _hub(data: str, split: str, how: Reading) -> RawData:
    """A data set of the Hub; where it has no split of this name, that of another name for the same."""
    alike = [name for name, of in SPLIT_OF.items() if of == canonical_split(split)]
    refused: list[InputError] = []
    for name in dict.fromkeys([split, *alike]):
        try:
            return read_object_table(rows_of_split(hub_table(data, name), split, data), data, how)
        except InputError as error:
            refused.append(error)
            if "split" not in str(error).lower():
                break
    raise refused[0]
