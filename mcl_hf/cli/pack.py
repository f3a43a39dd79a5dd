"""`mcl-hf pack SOURCE OUT`: parquet shards of small images, made once, so that every run after it decodes less."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plain_text import plain_text
from .command import Parser, command, import_torch, say

if TYPE_CHECKING:
    from ..data.packing.pack import PackReport

BROKEN_SHOWN = 10
EXAMPLES = """
Images that are small enough keep their bytes. The others become JPEGs, upright by their EXIF orientation, transparent
parts over white. Broken images are left out and named. The same command again continues an interrupted pack.

examples:
  mcl-hf pack my_photos/ packed/
  mcl-hf pack my_frames/ packed/ --group-column folder --max-side 384
  mcl-hf pretrain --data packed/ --output-dir runs/own
"""


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(
        prog="mcl-hf pack",
        description="Write the images of SOURCE as parquet shards in the folder OUT, none larger than needed.",
        epilog=EXAMPLES,
    )
    parser.add_argument("source", metavar="SOURCE", help="images: whatever --data of pretrain takes, one of it")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write: new, empty, or to be continued")
    parser.add_argument(
        "--max-side", type=int, default=512, metavar="PX", help="cap of the longer side in px (default: 512)"
    )
    parser.add_argument(
        "--jpeg-quality", type=int, default=92, metavar="N", help="of images encoded anew, 1 to 95 (default: 92)"
    )
    parser.add_argument(
        "--images-per-shard", type=int, default=2048, metavar="N", help="images per file (default: 2048)"
    )
    parser.add_argument(
        "--num-workers", type=int, default=num_cores(), metavar="N",
        help="processes that decode and encode; 0: none besides the command's own (default: one a core)",
    )  # fmt: skip
    parser.add_argument(
        "--data-files", nargs="+", metavar="GLOB",
        help="files to take from a folder, a data set on the Hub or hf://datasets/USER/NAME, in place of --split",
    )  # fmt: skip
    parser.add_argument("--image-column", metavar="NAME", help="column of the images, where there are several")
    parser.add_argument("--label-column", metavar="NAME", help="column of labels to carry along")
    parser.add_argument("--group-column", metavar="NAME", help="column of groups to carry along")
    parser.add_argument(
        "--streaming", action="store_true", help="read shards and data sets of the Hub where they lie, without a copy"
    )
    parser.add_argument(
        "--allow-outside-paths",
        action="store_true",
        help="read images outside of the source's folder where paths in tables say so",
    )
    parser.add_argument("--split", default="train", metavar="NAME", help="part of the source (default: train)")
    return parser


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    started = time.monotonic()
    options = {name: value for name, value in vars(arguments).items() if name not in ("source", "out")}

    import_torch()
    from ..data.packing.pack import pack_images

    progress = _Progress()
    try:
        report = pack_images(arguments.source, arguments.out, on_progress=progress, **options)
    finally:
        progress.close()
    say(format_report(report, arguments.source, arguments.out, arguments.max_side, time.monotonic() - started))


class _Progress:
    """A bar from the first report on, so that wrong input is answered without one; images that an earlier call had
    finished do not count as speed.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, unit="image", dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def format_report(report: "PackReport", source: str, out: Path, max_side: int, seconds: float) -> str:
    """The lines that end the command."""
    from ..data.packing.pack_folder import BROKEN_LOG

    total = report.total
    shards = f"{report.num_shards} shard{'s' if report.num_shards != 1 else ''}"
    before, after = total.bytes_before / 1e6, total.bytes_after / 1e6
    lines = [
        f"packed {source} into {out}: {total.images} images, {shards}, in {seconds:.0f} s",
        f"  source      {report.source}",
        *(
            [f"  continued   {report.continued_shards} of the shards were there already"]
            if report.continued_shards
            else []
        ),
        f"  encoded     {total.reencoded} anew (longer side above {max_side} px), "
        f"{total.images - total.reencoded} kept as they are",
        f"  size        {before:.1f} MB before, {after:.1f} MB after ({after / max(before, 1e-9):.0%})",
        f"  broken      {len(total.broken)} left out" + (f", all in {out / BROKEN_LOG}" if total.broken else ""),
        *(plain_text(f"    {name}: {reason}") for name, reason in total.broken[:BROKEN_SHOWN]),
        f"use it with --data {out}",
    ]
    return "\n".join(lines)
