"""Pictures and archives made by the tests themselves."""

import struct
import zlib
from io import BytesIO

from PIL import Image, ImageDraw


def drawn(shape: str, colour: tuple[int, int, int], side: int = 60) -> Image.Image:
    """A shape on clear ground, RGBA."""
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw_shape = {"disc": draw.ellipse, "box": draw.rectangle}.get(shape, draw.ellipse)
    draw_shape((4, 8, side - 5, side - 9), fill=(*colour, 255))
    draw.line((8, side // 2, side - 9, side // 2), fill=(255, 255, 255, 255), width=5)
    return image


def encoded(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def rcc(files: dict[str, bytes], flags: int = 1) -> bytes:
    """A Qt resource archive, format 1: a folder for each part of a path; flags 1 compresses, 0 does not."""
    root: dict = {}
    for path, data in files.items():
        *folders, name = path.split("/")
        here = root
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = data
    payload, names, nodes = b"", b"", [("", root)]
    records = []
    place = 0
    while place < len(nodes):
        name, content = nodes[place]
        offset = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(content, dict):
            records.append(struct.pack(">IHII", offset, 2, len(content), len(nodes)))
            nodes += list(content.items())
        else:
            packed = struct.pack(">I", len(content)) + zlib.compress(content) if flags & 1 else content
            records.append(struct.pack(">IHHHI", offset, flags, 0, 0, len(payload)))
            payload += struct.pack(">I", len(packed)) + packed
        place += 1
    tree = b"".join(records)
    header = 20
    return (
        b"qres"
        + struct.pack(">4I", 1, header, header + len(tree), header + len(tree) + len(payload))
        + tree
        + payload
        + names
    )
