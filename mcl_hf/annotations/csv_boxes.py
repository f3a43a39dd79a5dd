"""Boxes in CSV: a row an object, with the path of its image, two corners in px, and a class.

Flow: open_data -> **csv_boxes** -> annotation_check. With a header, columns are found by their names in any order
(TensorFlow's, Roboflow's); without one they are `path,x1,y1,x2,y2,class`, as keras-retinanet has them. A row whose box
is empty is an image without objects; a column `split` parts the images. Kaggle's `image_id,width,height,bbox,source`
opens, too: one column of `[x, y, width, height]`, images by their names without ending, and one class.
"""

import csv
import itertools
from pathlib import Path

from ..data.sources.split_column import find_split_column, splits_of_column
from ..errors import InputError
from .annotation_files import by_stem, find_images, is_image, read_text, split_word, walk
from .object_tables import refuse_corners
from .raw_data import RawData, RawImage, Reading, shown, side_in_px

_NAMES = {
    "path": (
        *("filename", "file_name", "image", "image_path", "img_path", "path", "filepath", "image_name", "img"),
        *("image_id", "imageid"),
    ),
    "x1": ("xmin", "x1", "x_min", "left"),
    "y1": ("ymin", "y1", "y_min", "top"),
    "x2": ("xmax", "x2", "x_max", "right"),
    "y2": ("ymax", "y2", "y_max", "bottom"),
    "class": ("class", "class_name", "label", "label_name", "name", "category", "classname", "cell_type"),
    "bbox": ("bbox", "bounding_box", "box"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
_REQUIRED = ("path", "x1", "y1", "x2", "y2", "class")
_IN_ONE_COLUMN = ("path", "bbox")
_ONLY_CLASS = "object"
_SNIFFED = 4096  # bytes


def looks_like_boxes(file: Path) -> bool:
    """Whether a CSV begins with a header that names boxes, or with a row that holds one."""
    try:
        with file.open("rb") as handle:
            lines = handle.read(_SNIFFED).decode("utf-8-sig", errors="replace").splitlines()
    except OSError:
        return False
    first = next(iter(csv.reader(lines[:1], delimiter=_delimiter(lines))), [])
    columns = set(_columns_of(first))
    return set(_REQUIRED) <= columns or set(_IN_ONE_COLUMN) <= columns or _is_row(first)


def splits_in_rows(file: Path) -> list[str]:
    """The splits that a column of a CSV of boxes tells, in its own words; none where it has no such column."""
    return splits_of_column(_split_column(_rows(file))[1], str(file))


def _split_column(rows: list[list[str]]) -> tuple[str | None, list[str]]:
    """Header of the column of splits, and its cells in rows that are not empty; None and none where there is none."""
    header, *filled = [row for row in rows if any(map(str.strip, row))] or [[]]

    def cells_of(name: str) -> list[str]:
        column = header.index(name)
        return [row[column] if column < len(row) else "" for row in filled]

    return find_split_column(header, cells_of)


def read_csv(
    file: Path, how: Reading, split: str | None = None, root: Path | None = None, only: str | None = None
) -> RawData:
    """Images and boxes of a CSV; arguments are those of `coco_format.read_coco`, and `only` is the value of the column
    of splits whose images are wanted. Classes are numbered from 0 in alphabetical order, those of all of the file, and
    images are in the order of their first rows.

    Raises:
        InputError: no such file, neither header nor rows of boxes, or the images are nowhere near it.
    """
    rows = _rows(file)
    place, in_one, header = _places(file, rows, how.group_column)
    is_sides = in_one and how.box_format == "xywh"
    images: dict[str, RawImage] = {}
    split_of: dict[str, str] = {}
    faults: list[str] = []
    ids = itertools.count(1)
    for number, row in enumerate(rows, start=1):
        if row is header or not any(cell.strip() for cell in row):
            continue
        cells = {name: row[column].strip() if column < len(row) else "" for name, column in place.items()}
        path = cells["path"].replace("\\", "/")
        try:
            image = images.get(path)
            if image is None:
                image = RawImage(path, path, side_in_px(cells.get("width")), side_in_px(cells.get("height")))
            if "\0" in path or not path:
                raise ValueError(f"{shown(path)} names no file")
            if split_of.setdefault(path, cells.get("split", "")) != cells.get("split", ""):
                raise ValueError(f"{shown(path)} is in split {shown(split_of[path])} and in {shown(cells['split'])}")
            images[path] = image
            corners = _numbers(cells["bbox"]) if in_one else [cells[name] for name in _REQUIRED[1:5]]
            if any(corners):
                x1, y1, x2, y2 = map(float, corners)
                label = cells.get("class", _ONLY_CLASS)
                if not label:
                    raise ValueError("a box without a class")
                box = [x1, y1, x2, y2] if is_sides else [x1, y1, x2 - x1, y2 - y1]
                image.objects.append({"id": next(ids), "category_id": label, "bbox": box})
            image.group = cells.get("group")
        except ValueError as error:
            faults.append(f"{file}, line {number}: {error}")
    labels = {entry["category_id"] for image in images.values() for entry in image.objects}
    listed = None if only is None else len(images)
    images = {path: image for path, image in images.items() if only in (None, split_of[path])}
    names = list(images)
    if names and not any(map(is_image, names[:10])):  # names without an ending
        folder = how.images or root or file.parent
        found = _by_stem(folder, file, names, split)
    else:
        folder, found = how.images or find_images(file, names, split), {}
    for name, image in images.items():
        image.name = str(folder / found.get(name, name))
    kind = "CSV" if "class" in place else f"CSV without classes, all boxes are '{_ONLY_CLASS}'"
    roots = [root or file.parent, folder]
    raw = RawData(kind, str(file), list(images.values()), {}, faults=faults, roots=roots, listed=listed)
    raw.number_classes(usual=sorted(labels))
    if is_sides:
        refuse_corners(raw)
    return raw


def _places(file: Path, rows: list[list[str]], group: str | None) -> tuple[dict[str, int], bool, list[str] | None]:
    """The place of each column that is known, whether boxes stand in one column, and the header, where there is one."""
    first = rows[0] if rows else []
    place, header = _columns_of(first), first
    in_one = not set(_REQUIRED) <= set(place) and set(_IN_ONE_COLUMN) <= set(place)
    if in_one or set(_REQUIRED) <= set(place):
        told, _ = _split_column(rows)
        place |= {} if told is None else {"split": first.index(told)}
    elif _is_row(first):
        place, header = {name: number for number, name in enumerate(_REQUIRED)}, []
    else:
        lacking = ", ".join(name for name in _REQUIRED if name not in place)
        raise InputError(
            f"{file} holds no boxes that are known: its first line, {shown(','.join(first), 200)}, names no {lacking}; "
            "give it a header such as filename,width,height,class,xmin,ymin,xmax,ymax or image_id,bbox, or rows "
            "path,x1,y1,x2,y2,class"
        )
    if group is not None and group not in header:
        raise InputError(f"{file} has no column '{group}': its columns are {', '.join(header) or 'not named'}")
    place |= {} if group is None else {"group": header.index(group)}
    return place, in_one, header


def _rows(file: Path) -> list[list[str]]:
    lines = read_text(file).split("\n")
    try:
        return list(csv.reader(lines, delimiter=_delimiter(lines), strict=True))  # no quote may swallow rows
    except csv.Error as error:
        raise InputError(f"{file} is no CSV: {error}") from error


def _numbers(text: str) -> list[str]:
    """The four numbers of a box in one cell; none where it is empty."""
    numbers = text.strip("[]() ").replace(",", " ").split()
    if len(numbers) not in (0, 4):
        raise ValueError(f"bbox {shown(text)} is not four numbers")
    return numbers


def _by_stem(folder: Path, file: Path, names: list[str], split: str | None) -> dict[str, str]:
    """Paths in a folder of images that a list names without their ending; those of the list's split where
    several have the name. Raises `InputError` where not one of the first is there."""
    there = by_stem(filter(is_image, walk(folder)))
    found: dict[str, str] = {}
    for name in names:
        candidates = there.get(name.rpartition("/")[2], [])
        of_split = [path for path in candidates if split is not None and split_word(path.rpartition("/")[0]) == split]
        if len(candidates) == 1 or len(of_split) == 1:
            found[name] = (of_split or candidates)[0]
    if not any(name in found for name in names[:10]):
        raise InputError(
            f"{file}: its images are missing (none below {folder}, or several, are called {shown(names[0])}): give "
            "their folder with --image-root"
        )
    return found


def _delimiter(lines: list[str]) -> str:
    first = lines[0] if lines else ""
    return max(",;\t", key=first.count)


def _columns_of(header: list[str]) -> dict[str, int]:
    """What is known among a header's columns -> its place."""
    cells = [cell.strip().lower() for cell in header]
    return {
        meaning: next(cells.index(name) for name in names if name in cells)
        for meaning, names in _NAMES.items()
        if any(name in cells for name in names)
    }


def _is_row(row: list[str]) -> bool:
    """Whether a line is a row without a header: a path of an image, then four numbers and a class, or nothing."""
    if len(row) < 6 or not is_image(row[0].strip()):
        return False
    try:
        return not any(cell.strip() for cell in row[1:6]) or len([float(cell) for cell in row[1:5]]) == 4
    except ValueError:
        return False
