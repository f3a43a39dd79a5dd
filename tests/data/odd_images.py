"""Image files of every odd kind, made in memory: each with the picture that should come out, or the reason why none."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image


def smooth_picture(width: int = 48, height: int = 32) -> np.ndarray:
    """A picture that survives JPEG: a bright top left corner, red growing to the right, blue to the bottom."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([40 + 180 * across, 90 + 0 * across, 40 + 180 * down], axis=-1)
    pixels[: height // 3, : width // 3] = 220
    return pixels.astype(np.uint8)


def encode(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """Encode uint8 `(height, width[, 3])` with Pillow."""
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def good_files() -> Iterator[tuple[str, bytes, np.ndarray, int]]:
    """(name, bytes, expected RGB pixels, tolerated mean difference in gray levels)."""
    pixels = smooth_picture()
    gray = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)
    for kind, tolerance in (("PNG", 0), ("BMP", 0), ("TIFF", 0), ("PPM", 0), ("TGA", 0), ("JPEG", 4), ("WEBP", 6)):
        yield f"rgb.{kind}", encode(pixels, kind), pixels, tolerance
        if kind != "WEBP":
            yield f"gray.{kind}", encode(pixels, kind, "L"), gray, tolerance
    for kind in ("AVIF", "JPEG2000"):
        yield f"rgb.{kind}", encode(pixels, kind, quality=95) if kind == "AVIF" else encode(pixels, kind), pixels, 8
    yield "progressive.jpg", encode(pixels, "JPEG", progressive=True, quality=95), pixels, 4
    yield "444.jpg", encode(pixels, "JPEG", subsampling=0, quality=95), pixels, 3
    yield "cmyk.jpg", encode(pixels, "JPEG", "CMYK", quality=95), pixels, 6
    yield "cmyk.tif", encode(pixels, "TIFF", "CMYK"), pixels, 2
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        yield f"palette.{kind}", encode(pixels, kind, "P"), pixels, 30
    black_white = np.where(gray[..., :1] > 127, 255, 0).astype(np.uint8).repeat(3, axis=2)
    for kind in ("PNG", "TIFF", "BMP"):
        yield f"one-bit.{kind}", encode(black_white, kind, "1"), black_white, 0
    yield from _transparent(pixels)
    yield from _animated(pixels)
    yield from _sixteen_bit(gray)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield (
            f"exif{orientation}.jpg",
            encode(_turn_back(pixels, orientation), "JPEG", exif=exif, quality=95),
            pixels,
            4,
        )
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif6.png", encode(_turn_back(pixels, 6), "PNG", exif=exif), pixels, 0
    exif[0x0112] = 77
    yield "exif77.jpg", encode(pixels, "JPEG", exif=exif, quality=95), pixels, 4
    yield "bad-exif.jpg", encode(pixels, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk", quality=95), pixels, 4
    for width, height in ((1, 1), (1, 40), (40, 1), (2, 500)):
        thin = smooth_picture(width, height)
        yield f"{width}x{height}.png", encode(thin, "PNG"), thin, 0
        yield f"{width}x{height}.jpg", encode(thin, "JPEG", subsampling=0, quality=98), thin, 12
    yield "trailing-junk.jpg", encode(pixels, "JPEG", quality=95) + b"\0" * 500, pixels, 4
    yield "wrong-name-png-as.jpg", encode(pixels, "PNG"), pixels, 0


def _transparent(pixels: np.ndarray) -> Iterator[tuple[str, bytes, np.ndarray, int]]:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        yield f"opaque-alpha.{kind}", encode(np.concatenate([pixels, alpha], 2), kind, **options), pixels, 0
    alpha[:, 24:] = 0
    over_white = pixels.copy()
    over_white[:, 24:] = 255
    for kind in ("PNG", "TIFF"):
        yield f"alpha.{kind}", encode(np.concatenate([pixels, alpha], 2), kind), over_white, 0
    gray_alpha = Image.fromarray(np.concatenate([pixels, alpha], 2)).convert("LA")
    buffer = io.BytesIO()
    gray_alpha.save(buffer, "PNG")
    expected = np.repeat(np.asarray(gray_alpha)[..., :1], 3, 2)
    expected[:, 24:] = 255
    yield "gray-alpha.png", buffer.getvalue(), expected, 0
    flat = np.zeros((32, 48), np.uint8)
    flat[:, 24:] = 1
    palette = Image.fromarray(flat, "P")
    palette.putpalette([10, 200, 30, 0, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    expected = np.full((32, 48, 3), 255, np.uint8)
    expected[:, :24] = (10, 200, 30)
    yield "palette-transparency.png", buffer.getvalue(), expected, 0


def _animated(pixels: np.ndarray) -> Iterator[tuple[str, bytes, np.ndarray, int]]:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    for kind, tolerance in (("GIF", 12), ("WEBP", 6), ("PNG", 0), ("TIFF", 0)):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield f"animated.{kind}", buffer.getvalue(), pixels, tolerance


def _sixteen_bit(gray: np.ndarray) -> Iterator[tuple[str, bytes, np.ndarray, int]]:
    values = gray[..., 0].astype(np.uint16) * 257
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, kind)
        yield f"16-bit.{kind}", buffer.getvalue(), gray, 0
    for name, array in (
        ("int32-16-bit-range", values.astype(np.int32)),
        ("int32-8-bit-range", gray[..., 0].astype(np.int32)),
        ("float-0-1", gray[..., 0].astype(np.float32) / 255),
        ("float-0-255", gray[..., 0].astype(np.float32)),
        ("float-0-65535", values.astype(np.float32)),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "TIFF")
        yield f"{name}.tif", buffer.getvalue(), gray, 1


def _turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels that a reader of this EXIF orientation turns into `pixels` (EXIF 2.3, tag 0x0112)."""
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    return np.ascontiguousarray(turned)


def broken_files() -> Iterator[tuple[str, bytes, str]]:
    """(name, bytes, a part of the reason)."""
    pixels = smooth_picture(200, 150)
    yield "empty.jpg", b"", "zero bytes"
    yield "html.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "DOCTYPE"
    yield "text.png", b"version https://git-lfs.github.com/spec/v1\n", "not an image"
    yield "zeros.jpg", bytes(3000), "not an image"
    yield "random.png", np.random.default_rng(0).bytes(3000), "not an image"
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF"):
        whole = encode(pixels, kind)
        yield f"half.{kind}", whole[: len(whole) // 2], ""
        yield f"head.{kind}", whole[:12], ""
    yield "bomb.png", _png_header(60_000, 60_000), "bomb"
    yield "large.png", _png_header(10_000, 10_000), "bomb"
    yield "nan.tif", _float_tiff(np.full((4, 4), np.nan, np.float32)), "finite"
    yield "negative.tif", _float_tiff(np.full((4, 4), -3, np.float32)), "outside"


def _float_tiff(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any data."""
    chunks = [b"\x89PNG\r\n\x1a\n"]
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ):
        chunks.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(chunks)
