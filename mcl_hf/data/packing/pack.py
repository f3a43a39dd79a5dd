"""Any source of images as parquet shards of small images, so that every later run reads and decodes less.

Flow: sources -> decode -> **pack** (pack_folder says what it writes); what comes out is a source again. Decoding a JPEG
of 4000 px takes some ninety times as long as one of 500 px (108 and 1.2 ms on one core), reading it thirty times as
many bytes; views of 224 px need neither. Images are shrunk in parallel processes and written in the source's order, so
that equal input and settings give equal bytes, however many processes worked and however often it was interrupted.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image

from ...errors import InputError
from ..decode import BrokenImage, as_picture, open_image
from ..open import open_source
from ..sources.image_source import ImageSource
from ..sources.local_tables import embedded_folder
from ..sources.remote_files import shown_data
from ..workers import each_of
from .pack_folder import PackFolder, ShardReport, check_folder, explain_disk_errors

IMAGE_COLUMN, NAME_COLUMN = "image", "name"
MAX_JPEG_SIDE = 65_500
"""Longest side that libjpeg writes, in px."""

_GRAY_MODES = ("1", "L", "LA", "La", "F")
_ROW_WITH_FILE_NAME = re.compile(r"(?:.* )?row \d+ \((.+)\)")
_MOST_IMAGES_PER_TASK = 128  # a worker that reads shards on a server fetches whole blocks of about as many rows


@dataclass
class PackReport:
    """What a finished pack holds, how many of its shards an earlier, interrupted pack had finished, and the kind of its
    source."""

    total: ShardReport
    num_shards: int
    continued_shards: int
    source: str


@dataclass(frozen=True)
class ShrunkImage:
    """The bytes to store, and whether they are new ones."""

    data: bytes
    reencoded: bool


@dataclass(frozen=True)
class _PackedImage:
    """One image, or no data and the reason in its report; travels from a worker process."""

    index: int
    name: str
    data: bytes | None
    report: ShardReport


def pack_images(
    data: str,
    out: Path,
    *,
    max_side: int = 512,
    jpeg_quality: int = 92,
    images_per_shard: int = 2048,
    num_workers: int = 0,
    data_files: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split: str = "train",
    streaming: bool = False,
    allow_outside_paths: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Write the images of a source as parquet shards, or continue where an interrupted call stopped.

    Labels keep their column's name and their class names; groups keep their column's name and their texts, or become
    numbers from 0 where they are numbers. Columns that were not asked for stay behind.

    Args:
        data, data_files, image_column, label_column, group_column, split, streaming, allow_outside_paths: what to pack,
            as for `open_source`.
        out: folder to write; new, empty, or an unfinished pack of the same data with the same settings.
        max_side: the longer side of larger images becomes this, in px; smaller images keep their bytes.
        jpeg_quality: 1 to 95, for images that have to be encoded anew.
        images_per_shard: images that one file is made from.
        num_workers: processes that decode and encode; 0 does it in the caller. No influence on what is written.
        on_progress: called with (images done, images in all), at first with what an earlier call had finished.

    Raises:
        InputError: data, settings or a folder that cannot be used, a full disk, or not one image that can be decoded.
    """
    _check_settings(max_side, jpeg_quality, images_per_shard, num_workers)
    check_folder(data, out)
    source = open_source(
        data,
        data_files=data_files,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        split=split,
        streaming=streaming,
        allow_outside_paths=allow_outside_paths,
    )
    columns, schema = _columns(source, label_column, group_column)
    settings = {
        "data": {"fingerprint": source.fingerprint, "images": len(source), "columns": sorted(columns)},
        "settings": {"max_side": max_side, "jpeg_quality": jpeg_quality, "images_per_shard": images_per_shard},
    }
    images = range(len(source))
    blocks = [images[first : first + images_per_shard] for first in images[::images_per_shard]]
    folder = PackFolder(out, num_shards=len(blocks))
    with explain_disk_errors(out):
        folder.start(settings)
        found = {shard: folder.report(shard) for shard in range(len(blocks))}
        reports = {shard: report for shard, report in found.items() if report is not None}
        continued = len(reports)
        done = sum(len(blocks[shard]) for shard in reports)
        waiting = [shard for shard in found if shard not in reports]
        pack_one = partial(_packed, source, data, max_side, jpeg_quality)
        left = [index for shard in waiting for index in blocks[shard]]
        per_task = min(_MOST_IMAGES_PER_TASK, 1 + len(left) // (4 * max(1, num_workers)))
        results = each_of(pack_one, left, per_task, num_workers)
        if on_progress:
            on_progress(done, len(source))

        def rows_of(shard: int) -> Iterator[dict[str, Any]]:
            for at, image in enumerate(islice(results, len(blocks[shard])), done + 1):
                reports[shard].add(image.report)
                if image.data is not None:
                    yield _row(columns, image)
                if on_progress:
                    on_progress(at, len(source))

        for shard in waiting:
            reports[shard] = ShardReport()
            folder.write(shard, reports[shard], schema, rows_of(shard))
            done += len(blocks[shard])
        total = ShardReport()
        for shard in sorted(reports):
            total.add(reports[shard])
        folder.finish(total)
    if not total.images:
        examples = "; ".join(f"{name}: {reason}" for name, reason in total.broken[:3])
        raise InputError(
            f"not one of the {len(source)} images of {shown_data(data)} can be decoded, for example {examples}"
        )
    return PackReport(total, folder.num_shards, continued, source.description.partition("\n")[0])


def _columns(
    source: ImageSource, label_column: str | None, group_column: str | None
) -> tuple[dict[str, tuple[Any, list[str] | None]], pyarrow.Schema]:
    """Column's name -> its number for every image of the source, int64 `(num_images,)`, and the texts that stand for
    the numbers in a row, where it has any; and the types of all columns of a shard."""
    from datasets import ClassLabel, Features, Value
    from datasets import Image as ImageFeature

    columns: dict[str, tuple[Any, list[str] | None]] = {}
    features = {IMAGE_COLUMN: ImageFeature(), NAME_COLUMN: Value("string")}
    if source.groups is not None:
        name = group_column or "group"
        columns[name] = source.groups, source.group_names
        features[name] = Value("string" if source.group_names else "int64")
    if source.labels is not None:
        name = label_column or "label"
        columns[name] = source.labels, None
        features[name] = Value("int64") if source.label_names is None else ClassLabel(names=source.label_names)
    for name in (IMAGE_COLUMN, NAME_COLUMN):
        if name in columns:
            raise InputError(
                f"column '{name}' cannot be carried along as labels or groups, because packed shards have a column of "
                "that name themselves: rename it in the source"
            )
    return columns, Features(features).arrow_schema


def _row(columns: dict[str, Any], image: _PackedImage) -> dict[str, Any]:
    in_row = _ROW_WITH_FILE_NAME.fullmatch(image.name)  # "row 3 (cat.jpg)": whoever reads the shard counts other rows
    file_name = in_row[1] if in_row else image.name
    row: dict[str, Any] = {IMAGE_COLUMN: {"bytes": image.data, "path": file_name}, NAME_COLUMN: image.name}
    for name, (numbers, texts) in columns.items():
        number = int(numbers[image.index])
        row[name] = texts[number] if texts else number
    return row


def shrink_image(data: bytes, max_side: int, jpeg_quality: int) -> ShrunkImage:
    """Cap the longer side of an encoded image at `max_side` px; raises `BrokenImage` where it cannot be decoded.

    An image that is small enough keeps its bytes; it is decoded nevertheless, so that a damaged one is found here. A
    larger one becomes a baseline JPEG (4:2:0, gray where it was gray) of what training would see of it (`decode`),
    without EXIF and colour profile, as the pixels no longer need the one and training does not read the other."""
    image = open_image(data)
    channels = 1 if image.mode in _GRAY_MODES or image.mode.startswith("I") else 3
    if max(image.width, image.height) <= max_side:
        image.decode(channels)
        return ShrunkImage(data, reencoded=False)
    width, height = capped_size(image.width, image.height, max_side)
    # at least twice the wanted size is left for the resampling filter
    pixels = image.decode(channels, image.shrink_for(max(image.width, image.height) // (2 * max_side)))  # (H, W, C)
    buffer = io.BytesIO()
    as_picture(pixels).resize((width, height), Image.Resampling.LANCZOS).save(
        buffer, "JPEG", quality=jpeg_quality, subsampling="4:2:0"
    )
    return ShrunkImage(buffer.getvalue(), reencoded=True)


def capped_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Width and height in px with the longer one at most `max_side` and the shape kept, each at least 1."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _packed(source: ImageSource, data: str, max_side: int, jpeg_quality: int, index: int) -> _PackedImage:
    try:
        sample = source.sample(index)
        shrunk = shrink_image(sample.bytes_, max_side, jpeg_quality)
    except BrokenImage as error:
        name = _relative(source.name(index), data)
        return _PackedImage(index, name, None, ShardReport(broken=[(name, str(error))]))
    report = ShardReport(1, int(shrunk.reencoded), len(sample.bytes_), len(shrunk.data))
    return _PackedImage(index, _relative(sample.name, data), shrunk.data, report)


def _relative(name: str, data: str) -> str:
    """A name without the folder of what is packed: shards do not tell where they were made."""
    path = Path(embedded_folder(data))
    folder = path if os.path.isdir(path) else path.parent  # noqa: PTH112 - Path's own finds a signed address too long
    for prefix in (f"{folder}/", f"{folder.absolute()}/"):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def _check_settings(max_side: int, jpeg_quality: int, images_per_shard: int, num_workers: int) -> None:
    if not 1 <= max_side <= MAX_JPEG_SIDE:
        raise InputError(f"max_side is {max_side} px; it lies between 1 and {MAX_JPEG_SIDE}")
    if not 1 <= jpeg_quality <= 95:
        raise InputError(f"jpeg_quality is {jpeg_quality}; it lies between 1 and 95")
    if images_per_shard < 1:
        raise InputError(f"images_per_shard is {images_per_shard}; it has to be at least 1")
    if num_workers < 0:
        raise InputError(f"num_workers is {num_workers}; it has to be at least 0")
