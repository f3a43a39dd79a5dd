"""Writes small parquet, arrow and tar shards for tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def jpeg(number: int, size: int = 16) -> bytes:
    """A JPEG that differs for every number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size, size + 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_parquet(path: Path, numbers: range, group_rows: int = 4, **columns: list) -> Path:
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=group_rows)
    return path


def write_tar(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for ending, data in (("txt", b"a caption"), ("jpg", jpeg(number)), ("cls", str(number % 3).encode())):
                member = tarfile.TarInfo(f"folder/{number:05}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def write_shards(root: Path, kind: str, sizes: tuple[int, ...]) -> str:
    """Shards of the given numbers of images; returns the folder."""
    first = 0
    for number, size in enumerate(sizes):
        write = {"parquet": write_parquet, "tar": write_tar}[kind]
        write(root / f"part-{number:03}.{kind}", range(first, first + size))
        first += size
    return str(root)
