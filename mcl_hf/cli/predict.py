"""`mcl-hf predict`: what a detector finds in images, as annotations, pictures and a table."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..new_folder import kept_if_used
from ..plain_text import plain_text
from .command import Parser, import_torch, run_command

EXAMPLES = """
examples:
  mcl-hf predict my-detector photos
  mcl-hf predict my-detector 'shots/*.jpg' --threshold 0.3 --tile 640 --format yolo --output-dir labels
"""
_MOST_NAMED = 10


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(
        prog="mcl-hf predict",
        description="Detect objects in images without annotations; what is written can be fine-tuned on.",
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("detector", metavar="DETECTOR", help="a detector's folder or Hub repository, also one of transformers")
    add("images", metavar="IMAGES", nargs="+", help="folders, files, patterns, or - for a list of files on stdin")
    add("--output-dir", type=Path, default=Path("predictions"), metavar="DIR", help="(default: predictions)")
    add("--threshold", type=float, default=0.5, metavar="X", help="smallest score, 0 to 1 (default: 0.5)")
    add(
        "--tile",
        type=int,
        default=0,
        metavar="N",
        help="also look at tiles of N px, for small objects (default: 0, none)",
    )
    add(
        "--overlap",
        type=float,
        default=0.2,
        metavar="X",
        help="share that neighbouring tiles have in common (default: 0.2)",
    )
    add("--format", nargs="+", default=["coco"], choices=["coco", "yolo", "voc"], dest="formats",
        help="of annotations (default: coco)")  # fmt: skip
    add("--pictures", type=int, default=20, metavar="N", help="images to draw, the first ones (default: 20)")
    add("--batch-size", type=int, default=1, metavar="N", help="tiles at a time (default: 1)")
    add("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="arithmetic (default: fp32)")
    add("--device", default="auto", choices=["auto", "cpu"], help="auto takes the accelerator where there is one")
    add("--resume", action="store_true", help="go on where the same command was interrupted")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for exit codes."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> None:
    options = vars(build_parser().parse_args(argv))
    import_torch()
    from tqdm import tqdm

    from ..detection.prediction.predict_images import predict
    from ..detection.prediction.prediction_files import images_folder

    detector, images = options.pop("detector"), options.pop("images")
    with kept_if_used(options["output_dir"]), ExitStack() as ending:
        bar: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:  # wrong input is answered without one
                bar = ending.enter_context(tqdm(total=total, unit="image", leave=False))
            bar.update(done - bar.n)

        found = predict(detector, images, progress=progress, **options)
    scores: dict[int, list[float]] = defaultdict(list)
    for result in found.results:
        scores[result["category_id"]].append(result["score"])
    print(f"{len(found.results)} objects in {len(found.data)} images")
    for category, name in zip(found.data.category_ids, found.data.category_names, strict=True):
        if scores[category]:
            mean = sum(scores[category]) / len(scores[category])
            print(f"  {plain_text(name):<24} {len(scores[category]):>7}   mean score {mean:.2f}")
    for name, reason in list(found.broken.items())[:_MOST_NAMED]:
        print(f"broken, left out: {plain_text(name)}: {reason}")
    if len(found.broken) > _MOST_NAMED:
        print(f"broken, left out: {len(found.broken) - _MOST_NAMED} more images")
    print(f"written: {' '.join(map(str, found.files))}")
    if len(found.data) and not found.results:
        print(f"no detection has a score of {options['threshold']:g}: a lower --threshold shows what comes closest")
    elif "coco" in options["formats"] and len(found.data):
        print(f"to train on them: mcl-hf finetune --data {found.files[0]} --images {images_folder(found.data)} ...")
    if not len(found.data):
        raise InputError("none of the images can be read")
