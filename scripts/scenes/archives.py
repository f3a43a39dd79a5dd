"""Read the packages: files on disk, and files inside Qt's binary resource archives (``.rcc``).

Flow: fetch -> **archives** + licences -> catalogue. The archive format is Qt's resource format 1 to 3
(https://doc.qt.io/qt-6/rcc.html): a header of offsets, a tree of nodes, names in UTF-16 and zlib-compressed or plain
data, all big-endian.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from mcl_hf.errors import InputError

from .fetch import UNPACKED
from .licences import debian_licence, readme_licence

_COMPRESSED, _FOLDER, _ZSTD = 1, 2, 4


@dataclass(frozen=True)
class SourceFile:
    """One picture of a package."""

    package: str
    path: str
    """Inside the package, or inside its archive."""
    licence: str
    data: bytes

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    def open(self) -> Image.Image:
        """The decoded picture.

        Raises:
            OSError: it cannot be decoded.
        """
        image = Image.open(BytesIO(self.data))
        image.load()
        return image


class Packages:
    """The unpacked packages of a folder that `fetch` filled."""

    def __init__(self, root: Path):
        self.unpacked = root / UNPACKED
        if not self.unpacked.is_dir():
            raise InputError(f"{root} has no folder '{UNPACKED}': fill it by `scripts/make_scenes.py fetch {root}`.")

    def folder(self, package: str) -> Path:
        """Where a package lies.

        Raises:
            InputError: it is not there.
        """
        found = self.unpacked / package
        if not found.is_dir():
            raise InputError(f"{self.unpacked} lacks the package {package}: run `scripts/make_scenes.py fetch` again.")
        return found

    def has_renders(self) -> bool:
        """Whether the rendered objects were fetched."""
        return (self.unpacked / "npm").is_dir()

    def npm(self, name: str) -> Path:
        """Folder of an npm package, whatever its version."""
        found = sorted((self.unpacked / "npm").glob(f"{name}-[0-9]*/package"))
        if not found:
            raise InputError(f"{self.unpacked} lacks the npm package {name}: run `make_scenes.py fetch --renders`.")
        return found[-1]

    def npm_file(self, name: str, path: Path) -> SourceFile:
        """A picture of an npm package, under the licence that its package.json names."""
        folder = self.npm(name)
        licence = json.loads((folder / "package.json").read_text(encoding="utf-8"))["license"]
        return SourceFile(name, path.relative_to(folder).as_posix(), licence, path.read_bytes())

    def files(self, package: str, under: str, suffixes: tuple[str, ...] = (".png",)) -> Iterator[SourceFile]:
        """Pictures of a package below a folder, in the order of their paths."""
        folder = self.folder(package)
        notice = (folder / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8", errors="replace")
        for path in sorted((folder / under).rglob("*")):
            if path.suffix.lower() in suffixes and path.is_file():
                name = path.relative_to(folder).as_posix()
                yield SourceFile(package, name, debian_licence(notice, name), path.read_bytes())

    def archived(self, package: str, archive: str, pattern: str) -> Iterator[SourceFile]:
        """Pictures of an .rcc archive whose paths, from ``resource/`` on, match a regular expression.

        Their licences are those of the nearest README in the archive.
        """
        found = sorted(self.folder(package).rglob(f"{archive}.rcc"))
        if not found:
            raise InputError(f"{self.folder(package)} holds no {archive}.rcc: another release of {package}?")
        content = read_rcc(found[0])
        for path in sorted(content):
            short = path.rpartition("/resource/")[2]
            if re.fullmatch(pattern, short):
                yield SourceFile(package, f"{archive}/{short}", readme_licence(content, path), content[path])


@lru_cache(maxsize=4)
def read_rcc(path: Path) -> dict[str, bytes]:
    """All files of a Qt resource archive by their path.

    Raises:
        InputError: it is no such archive, or compressed by zstd.
    """
    data = path.read_bytes()
    if data[:4] != b"qres":
        raise InputError(f"{path} is no Qt resource archive.")
    version, tree, payload, names = struct.unpack(">4I", data[4:20])
    node_size = 14 if version < 2 else 22
    files: dict[str, bytes] = {}
    waiting = [(0, "")]
    while waiting:
        number, parent = waiting.pop()
        start = tree + number * node_size
        name_offset, flags = struct.unpack(">IH", data[start : start + 6])
        own = parent if number == 0 else f"{parent}/{_name(data, names + name_offset)}"
        if flags & _FOLDER:
            count, first = struct.unpack(">II", data[start + 6 : start + 14])
            waiting += [(first + child, own) for child in range(count)]
            continue
        if flags & _ZSTD:
            raise InputError(f"{path} is compressed by zstd, which is not read: use the release of Debian 12.")
        (offset,) = struct.unpack(">I", data[start + 10 : start + 14])
        (length,) = struct.unpack(">I", data[payload + offset : payload + offset + 4])
        content = data[payload + offset + 4 : payload + offset + 4 + length]
        files[own.lstrip("/")] = zlib.decompress(content[4:]) if flags & _COMPRESSED else content
    return files


def _name(data: bytes, start: int) -> str:
    (length,) = struct.unpack(">H", data[start : start + 2])
    return data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
