"""Tables with a column of images and a column of objects: the usual layout of detection data sets on the Hub.

Flow: datasets -> **object_tables** -> annotation_check. `objects` holds, for each image, a list of `bbox` and one of
`category` (or a list of objects with both); `id`, `area`, `iscrowd` and `segmentation` are taken where they are there.
Layout: https://huggingface.co/docs/datasets/image_dataset#object-detection
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcl_hf.data.columns import find_image_column
from mcl_hf.data.image_source import row_name
from mcl_hf.data.local_tables import LocalTable
from mcl_hf.detection.annotation_check import RawData, RawImage
from mcl_hf.detection.detection_data import TableImages
from mcl_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

BoxFormat = Literal["xywh", "xyxy"]

_CATEGORY_NAMES = ("category", "category_id", "label", "labels", "categories")
_BOX_NAMES = ("bbox", "bboxes", "boxes")
_OPTIONAL = ("id", "bbox_id", "area", "iscrowd", "is_crowd", "segmentation", "difficult")
_RENAMED = {"bbox_id": "id", "is_crowd": "iscrowd"}


def metadata_folder_table(folder: Path, split: str) -> LocalTable:
    """A folder of images with a metadata.jsonl (or .csv, .parquet) whose rows have `file_name` and `objects`.

    Raises:
        InputError: `datasets` cannot read it as such.
    """
    from datasets import load_dataset

    try:
        table = load_dataset("imagefolder", data_dir=str(folder.resolve()), split=split)
    except Exception as error:  # `datasets` wraps whatever the reader met; its cause names what is wrong
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{folder} cannot be read as a folder of images with metadata: {reason}") from error
    return LocalTable(table, "folder of images with metadata", [])


def read_object_table(
    opened: LocalTable,
    data: str,
    *,
    image_column: str | None = None,
    objects_column: str = "objects",
    box_format: BoxFormat = "xywh",
) -> RawData:
    """Images and objects of a table.

    Args:
        opened: from `mcl_hf.data.local_tables`.
        data: what the user gave, for messages.
        image_column: found by itself where there is only one candidate.
        objects_column: as above.
        box_format: ``xywh`` (x, y, width, height, as COCO and most of the Hub) or ``xyxy`` (two corners), both in px.

    Raises:
        InputError: a column or a part of one is missing, or the boxes are evidently of the other format.
    """
    from datasets import Image
    from pyarrow import compute

    table = opened.table
    image_column = find_image_column(table, data, image_column)
    if objects_column not in table.column_names:
        raise InputError(
            f"{data} has no column '{objects_column}': its columns are {', '.join(table.column_names)}; detection "
            "needs one with bbox and category for each image"
        )
    parts = _parts(table, objects_column)
    box_name = _first(parts, _BOX_NAMES, data, objects_column)
    category_name = _first(parts, _CATEGORY_NAMES, data, objects_column)
    pictures = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    others = table.select_columns(
        [name for name in ("image_id", "width", "height", objects_column) if name in table.column_names]
    )
    names = _class_names(parts[category_name])
    stored = pictures.with_format("arrow")[:].column(image_column)  # chunks of the file, of which no bytes are copied
    paths = compute.struct_field(stored, "path").to_pylist()
    has_bytes = compute.is_valid(compute.struct_field(stored, "bytes")).to_pylist()
    images: list[RawImage] = []
    annotations: list[tuple[int, dict[str, Any]]] = []
    texts: set[str] = set()
    for position, row in enumerate(_rows(others)):
        path = {"path": paths[position], "bytes": b"" if has_bytes[position] else None}
        image_id = row.get("image_id")
        images.append(
            RawImage(
                position if image_id is None else image_id,
                row_name(path, f"row {position}"),
                row.get("width"),
                row.get("height"),
            )
        )
        for entry in _entries(row[objects_column], f"{data}, {images[-1].name}"):
            annotation = {_RENAMED.get(name, name): entry[name] for name in _OPTIONAL if entry.get(name) is not None}
            annotation["category_id"] = entry.get(category_name)
            annotation["bbox"] = _xywh(entry.get(box_name), box_format)
            if isinstance(annotation["category_id"], str):
                texts.add(annotation["category_id"])
            annotations.append((position, annotation))
    if texts:
        names = sorted(texts)
        number = {name: index for index, name in enumerate(names)}
        for _, annotation in annotations:
            annotation["category_id"] = number.get(annotation["category_id"], annotation["category_id"])
    if names is not None:
        categories = dict(enumerate(names))
    else:  # plain numbers: their own names
        numbers = {entry["category_id"] for _, entry in annotations} - {None}  # one without is refused by name later
        categories = {number: str(number) for number in sorted(numbers)}
    if box_format == "xywh":
        _refuse_corners(data, images, annotations)
    reader = TableImages(pictures, image_column)
    return RawData(opened.kind, data, images, annotations, categories, reader)


def _rows(table: "Dataset") -> Iterator[dict[str, Any]]:
    """Rows as plain Python, a thousand at a time."""
    plain = table.with_format("arrow")
    for start in range(0, len(table), 1000):
        yield from plain[start : min(start + 1000, len(table))].to_pylist()


def _parts(table: "Dataset", column: str) -> dict[str, Any]:
    """Name -> feature of the parts of an object, for a struct of lists and for a list of structs."""
    feature = table.features[column]
    feature = getattr(feature, "feature", feature)  # List, LargeList
    if isinstance(feature, list):
        feature = feature[0]
    if not isinstance(feature, dict):
        raise InputError(f"Column '{column}' holds {feature}, not objects with bbox and category")
    return {name: getattr(part, "feature", part) for name, part in feature.items()}


def _first(parts: dict[str, Any], names: tuple[str, ...], data: str, column: str) -> str:
    name = next((name for name in names if name in parts), None)
    if name is None:
        raise InputError(f"{data}: column '{column}' has no {names[0]}: its parts are {', '.join(parts)}")
    return name


def _class_names(feature: Any) -> list[str] | None:
    if isinstance(feature, list):
        feature = feature[0]
    names = getattr(feature, "names", None)
    return None if names is None else list(names)


def _entries(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """One dict an object, from a list of them or from a dict of lists.

    Raises:
        InputError: lists of different lengths; `name` says where.
    """
    if value is None:
        return
    if isinstance(value, list):
        yield from value
        return
    lists = {part_name: part for part_name, part in value.items() if part is not None}
    if len({len(part) for part in lists.values()}) > 1:
        counts = ", ".join(f"{len(part)} {part_name}" for part_name, part in lists.items())
        raise InputError(f"{name}: the parts of its objects are not equally many: {counts}")
    for parts in zip(*lists.values(), strict=True):
        yield dict(zip(lists, parts, strict=True))


def _xywh(box: Any, box_format: str) -> Any:
    if box_format == "xyxy" and box is not None and len(box) == 4:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return box


def _refuse_corners(data: str, images: list[RawImage], annotations: list[tuple[int, dict[str, Any]]]) -> None:
    """Boxes of which most, read as x y width height, leave the image, and none does as two corners, are corners."""
    leaving = total = 0
    for position, annotation in annotations:
        image, box = images[position], annotation["bbox"]
        if image.width is None or image.height is None or box is None or len(box) != 4:
            continue
        if box[2] > image.width + 1 or box[3] > image.height + 1 or box[2] < box[0] or box[3] < box[1]:
            return
        total += 1
        leaving += box[0] + box[2] > image.width + 1 or box[1] + box[3] > image.height + 1
    if total and leaving > 0.3 * total:
        raise InputError(
            f"{data}: {leaving} of {total} boxes leave their image when read as x, y, width, height, and none as two "
            "corners: give --box-format xyxy"
        )
