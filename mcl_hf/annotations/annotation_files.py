"""Files of annotated data: which there are, which split their names tell, and where the images of a list lie.

Flow: open_data -> **annotation_files** + a reader (coco_format, yolo, voc, csv_boxes, ...) -> annotation_check.
"""

import errno
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.sources.local_tables import IMAGE_SUFFIXES, SPLIT_OF, canonical_split
from ..data.sources.split_column import split_meant
from ..errors import InputError
from ..plain_text import plain_text
from .raw_data import RawData

_LEFTOVERS = ("__MACOSX", "@eaDir")  # of macOS' archives and of network drives


@dataclass(frozen=True)
class Part:
    """A part of annotated data that is read on its own: the word that tells its split, such as val2017, or None where
    nothing does; what messages call it; and what gives its images and annotations."""

    split: str | None
    name: str
    read: Callable[[], RawData]


def choose_part(where: str, parts: Sequence[Part], split: str | None) -> Part:
    """The part of a split: of its very name before one that means the same (val2017 for validation). Data that tell no
    splits are one part, which is that of `train` and of None, and of no other split.

    Raises:
        InputError: no such split, or several files could be it.
    """
    named, whole = [part for part in parts if part.split], [part for part in parts if not part.split]
    found = [part for part in named if part.split == split] or [
        part for part in named if split is not None and split_meant(part.split or "") == canonical_split(split)
    ]
    if not found and (split is None or canonical_split(split) == "train"):
        found = whole if split is not None or not named else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(part.name for part in found)
        raise InputError(f"{where}: {listed} could all be the annotations of split '{split}': give one of them as data")
    if not named:
        raise InputError(
            f"{where} has no split '{split}': nothing in it tells splits apart; without a split all of it is taken, "
            "and fine-tuning holds images out with --val-fraction"
        )
    listed = ", ".join(dict.fromkeys(f"{part.split} ({part.name})" for part in named))
    if split is None:
        raise InputError(f"{where} has several splits: choose one of {listed}")
    raise InputError(f"{where} has no annotations of split '{split}': its splits are {listed}")


def split_word(path: str) -> str | None:
    """The word of a path that tells a split, the last one first: val2017 of annotations/instances_val2017."""
    for part in reversed(path.replace("\\", "/").split("/")):
        for word in re.split(r"[_.\- ]", part):
            if re.sub(r"\d+$", "", word.lower()) in SPLIT_OF:
                return word
    return None


def by_split(files: Iterable[str]) -> dict[str | None, list[str]]:
    """Files by the split that their folders tell; None: those that tell none."""
    told: dict[str | None, list[str]] = defaultdict(list)
    for name in files:
        told[split_word(name.rpartition("/")[0])].append(name)
    return told


def by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """Files by their names without folders and ending."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in files:
        found[stem_of(name)].append(name)
    return found


def stem_of(path: str) -> str:
    """A file's name without folders and ending."""
    return path.rpartition("/")[2].rpartition(".")[0]


def walk(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it, with /, sorted; links are followed, each folder once. Hidden
    ones, what macOS leaves in archives, pipes, devices and what cannot be read are passed over."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFTOVERS)
        inside = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        # images are looked at one by one, when they are checked
        found += [prefix + n for n in files if n[0] != "." and (is_image(n) or is_file(Path(place, n)))]
    return sorted(found)


def is_image(path: str) -> bool:
    """Whether a path ends as files of images do."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_file(path: Path) -> bool:
    """Whether there is such a file; names that no file can have are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def refuse_pipe(file: Path) -> None:
    """Raise `OSError` where a path is there and no regular file: a pipe or a device may never end."""
    if not file.is_file() and file.exists():
        raise OSError(errno.EINVAL, "is no regular file")


def in_threads(read: Callable[[Any], Any], files: Iterable[Any]) -> list[Any]:
    """`map`, for functions that wait for the disk."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read, files))


def read_text(file: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark, or an `InputError`. Its lines end in line feeds,
    whatever they end in there; to `splitlines` a caption's U+2028 would be an end, too."""
    try:
        refuse_pipe(file)
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file} is no text in UTF-8") from error


def parse_json(text: str | bytes, told: str) -> Any:
    """`json.loads`, but for an object that gives a key twice with different values, of which `json` would keep the last
    in silence: an `InputError`, in which the JSON is called `told`."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next((key for key, value in pairs if found[key] != value), None)
            if twice is not None:
                raise InputError(f"{told} gives '{plain_text(twice)}' twice, with different values: leave one of them")
        return found

    return json.loads(text, object_pairs_hook=build)


def find_images(file: Path, names: Sequence[str], split: str | None) -> Path:
    """The folder that the names of a list, `file`, start from: the first of the usual places beside, above or below it
    where any of the first images lies; the folder of its split is one, too. An `InputError` where none is."""
    stem = file.stem.removeprefix("instances_")
    meant = split_meant(split or "")
    splits = [stem, re.sub(r"\d+$", "", stem), *(word for word, of in SPLIT_OF.items() if of == meant)]
    places = [file.parent, file.parent / "images", file.parent.parent, file.parent.parent / "images"]
    places += [place / word for place in (places[2], places[3], places[0], places[1]) for word in splits if word]
    for place in dict.fromkeys(places):
        if any(is_file(place / name) for name in names[:10]):
            return place
    if not names:
        return file.parent
    looked = ", ".join(dict.fromkeys(str(place) for place in places[:6]))
    raise InputError(
        f"{file}: its images are missing ('{plain_text(names[0])}' is not below {looked}): give their folder with "
        "--image-root"
    )


def unique_names(paths: Iterable[str]) -> list[str]:
    """Short ids of files: their names without folders and ending, or their whole paths where names come twice."""
    paths = list(paths)
    stems = [stem_of(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [path.rpartition(".")[0] for path in paths]
