"""`mcl-hf pack SOURCE OUT`: parquet shards of small images, made once, so that every run after it decodes less."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engine.options import Options, group, options_class
from ..plain_text import plain_text
from .command import command, import_torch, progress_bar, say
from .options import ARGUMENTS, read_options

BROKEN_SHOWN = 10
EXAMPLES = """
Images that are small enough keep their bytes. The others become JPEGs, upright by their EXIF orientation, transparent
parts over white. Broken images are left out and named. The same command again continues an interrupted pack.

examples:
  mcl-hf pack my_photos/ packed/
  mcl-hf pack my_frames/ packed/ --group-column folder --max-side 384
  mcl-hf pretrain --data packed/ --output-dir runs/own
"""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_argument, _option = group(ARGUMENTS), group("how")


@options_class
class PackOptions(Options):
    """What the command can be told."""

    source: str = _argument(..., "images: whatever --data of pretrain takes, one of it")
    out: Path = _argument(..., "folder to write: new, empty, or to be continued")
    max_side: int = _option(512, "cap of the longer side in px")
    jpeg_quality: int = _option(92, "of images encoded anew, 1 to 95")
    images_per_shard: int = _option(2048, "images per file")
    num_workers: int = _option(
        num_cores(), "processes that decode and encode; 0: none besides the command's own; one a core where left out"
    )
    data_files: list[str] | None = _option(
        None, "files to take from a folder, a data set on the Hub or hf://datasets/USER/NAME, in place of --split",
        whole=True,
    )  # fmt: skip
    image_column: str | None = _option(None, "column of the images, where there are several")
    label_column: str | None = _option(None, "column of labels to carry along")
    group_column: str | None = _option(None, "column of groups to carry along")
    streaming: bool = _option(False, "read shards and data sets of the Hub where they lie, without a copy")
    allow_outside_paths: bool = _option(
        False, "read images outside of the source's folder where paths in tables say so"
    )
    split: str = _option("train", "part of the source")


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = "Write the images of SOURCE as parquet shards in the folder OUT, none larger than needed."
    given = read_options(PackOptions, argv, prog="mcl-hf pack", description=description, epilog=EXAMPLES)
    options: dict[str, Any] = asdict(given)
    source, out = options.pop("source"), options.pop("out")
    started = time.monotonic()

    import_torch()
    from ..data.packing.pack import pack_images
    from ..data.packing.pack_folder import BROKEN_LOG

    with progress_bar("image") as progress:
        report = pack_images(source, out, on_progress=progress, **options)
    total, seconds = report.total, time.monotonic() - started
    shards = f"{report.num_shards} shard{'s' if report.num_shards != 1 else ''}"
    before, after = total.bytes_before / 1e6, total.bytes_after / 1e6
    continued = [f"  continued   {report.continued_shards} of the shards were there already"]
    lines = [
        f"packed {source} into {out}: {total.images} images, {shards}, in {seconds:.0f} s",
        f"  source      {report.source}",
        *(continued if report.continued_shards else []),
        f"  encoded     {total.reencoded} anew (longer side above {options['max_side']} px), "
        f"{total.images - total.reencoded} kept as they are",
        f"  size        {before:.1f} MB before, {after:.1f} MB after ({after / max(before, 1e-9):.0%})",
        f"  broken      {len(total.broken)} left out" + (f", all in {out / BROKEN_LOG}" if total.broken else ""),
        *(plain_text(f"    {name}: {reason}") for name, reason in total.broken[:BROKEN_SHOWN]),
        f"use it with --data {out}",
    ]
    say("\n".join(lines))
