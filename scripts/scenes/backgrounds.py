"""Which pictures serve as backgrounds: places and grounds on which none of the classes is the subject.

Flow: archives + licences -> catalogue + **backgrounds** -> cutouts. Pictures of one place form a group, as cut-outs do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from .archives import Packages, SourceFile
from .catalogue import GCOMPRIS

PICTURES = (".jpg", ".png", ".gif", ".webp")


@dataclass(frozen=True)
class BackgroundEntry:
    """One picture of a place."""

    group: str
    source: SourceFile


class Folder(NamedTuple):
    """Files of a package's folder whose path below it matches a regular expression from the start."""

    package: str
    folder: str
    names: str


FOLDERS = (
    Folder("lomiri-wallpapers-16.04", "usr/share/backgrounds", "aitz|Bridge|life|picos|sunset|Wine|Picture_1A"),
    Folder("lomiri-wallpapers-20.04", "usr/share/backgrounds", "Infinite|Kleiber"),
    Folder("mate-backgrounds", "usr/share/backgrounds/mate/nature", "Aqua|Blinds|Dune|GreenM|RainD|Storm|Wood"),
    Folder("gnome-backgrounds", "usr/share/backgrounds/gnome", "wood-"),
    Folder(
        "plasma-workspace-wallpapers", "usr/share/wallpapers",
        r"(FallenLeaf|Path|DarkestHour|Volna|EveningGlow|Grey|BytheWater|ColdRipple|summer_1am|Kite)/contents/images/\d",
    ),
    Folder("palapeli-data", "usr/share/palapeli/collection", "castle|cincin"),
    Folder(
        "scratch", "usr/share/scratch/Media/Backgrounds",
        r"Indoors/(chalkboard|hall|kitchen|the-movies)|Nature/(beach|canyon|forest|garden-rock|grand-canyon|gravel|hill"
        r"|lake|moon|pathway|tree|water-and|wave|woods-and-bench)|Outdoors/(atom|bench|boardwalk|brick|building|castle"
        r"|city-with-water|graffiti|hallway|hay|houses|mansion|pool|route|silos|the-movies|train-tracks[12]|village"
        r"|wooden)|Sports/(basketball-court1|playing|tennis-b)",
    ),
)  # fmt: skip
ARCHIVES = (  # archive, path from resource/ on
    ("explore_monuments", r"\w+/(?!christ|statue|mountR|brandenburg|fortSumter|castleClinton)\w+\.webp"),
    ("categorization", r"images/renewable/\w+\.webp"),
    ("categorization", r"images/monuments/(?!christ|statue|mountR|brandenburg|monument3)\w+\.webp"),
    ("clickgame", r"sea\d\.webp"),
)
SAME_PLACE = {
    "greatpyramidofgiza": "greatpyramid", "greatwallofchina": "greatwall", "kutubminar": "qutubminar",
}  # fmt: skip
_SERIES = re.compile("(brick-wall|train-tracks|building-at|city-with-water|basketball-court|the-movies).*")


def backgrounds(packages: Packages) -> Iterator[BackgroundEntry]:
    """Every background, in an order that depends on the packages alone.

    Raises:
        InputError: a package is missing.
    """
    for package, folder, names in FOLDERS:
        found = [
            file
            for file in packages.files(package, folder, PICTURES)
            if re.match(names, file.path.removeprefix(f"{folder}/"))
        ]
        for file in _largest_of_each(found) if package.startswith("plasma") else found:
            yield BackgroundEntry(place(_title(file)), file)
    for archive, pattern in ARCHIVES:
        for file in packages.archived(GCOMPRIS, archive, pattern):
            yield BackgroundEntry(place(file.stem), file)


def place(title: str) -> str:
    """The group of a background by its title: the place, or the series it belongs to."""
    name = _SERIES.sub(r"\1", title.lower())
    return SAME_PLACE.get(name, name)


def _title(file: SourceFile) -> str:
    """Wallpapers of Plasma are named by their folder, and the file by its size."""
    return file.path.split("/contents/")[0].rpartition("/")[2] if "/contents/" in file.path else file.stem


def _largest_of_each(files: list[SourceFile]) -> list[SourceFile]:
    best: dict[str, tuple[int, SourceFile]] = {}
    for file in files:
        with Image.open(BytesIO(file.data)) as image:  # the header only
            pixels = image.width * image.height
        if _title(file) not in best or pixels > best[_title(file)][0]:
            best[_title(file)] = (pixels, file)
    return [file for _, file in best.values()]
