"""`mcl-hf predict`: what a detector finds in images, as annotations, pictures and a table."""

import os
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..engine.options import Options, Precision, group, options_class
from ..errors import InputError
from ..new_folder import kept_if_used
from ..plain_text import plain_text
from .command import command, import_torch, progress_bar, say, say_left_out
from .options import ARGUMENTS, read_options

EXAMPLES = """
examples:
  mcl-hf predict my-detector photos
  mcl-hf predict my-detector 'shots/*.jpg' --threshold 0.3 --tile 640 --format yolo --output-dir labels
"""


_argument, _option = group(ARGUMENTS), group("how")


@options_class
class PredictOptions(Options):
    """What the command can be told."""

    detector: str = _argument(..., "a detector's folder or Hub repository, also one of transformers")
    images: list[str] = _argument(..., "folders, files, patterns, or - for a list of files on stdin", whole=True)
    output_dir: Path = _option(Path("predictions"), "folder to write")
    threshold: float = _option(0.5, "smallest score, 0 to 1")
    tile: int = _option(0, "also look at tiles of N px, for small objects; 0: none")
    overlap: float = _option(0.2, "share that neighbouring tiles have in common")
    format: list[Literal["coco", "yolo", "voc"]] = _option(["coco"], "of annotations (coco)")
    pictures: int = _option(20, "images to draw, the first ones")
    batch_size: int = _option(1, "tiles at a time")
    precision: Precision = _option("fp32", "arithmetic; auto is what the device is fastest in")
    device: Literal["auto", "cpu"] = _option("auto", "auto takes the accelerator where there is one")
    resume: bool = _option(False, "go on where the same command was interrupted")


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = "Detect objects in images without annotations; what is written can be fine-tuned on."
    given = read_options(PredictOptions, argv, prog="mcl-hf predict", description=description, epilog=EXAMPLES)
    options: dict[str, Any] = asdict(given)
    options["formats"] = options.pop("format")
    import_torch()
    from ..engine.arithmetic import chosen_device, emulation_warning, keep_freed_memory
    from ..prediction.predict_images import predict
    from ..prediction.prediction_files import images_folder

    device = chosen_device(options["device"])
    if device.type == "cpu":
        keep_freed_memory(os.environ)
    for line in emulation_warning(device, options["precision"]):
        say(line)
    detector, images = options.pop("detector"), options.pop("images")
    with kept_if_used(options["output_dir"]), progress_bar("image", leave=False) as progress:
        found = predict(detector, images, progress=progress, **options)
    scores: dict[int, list[float]] = defaultdict(list)
    for result in found.results:
        scores[result["category_id"]].append(result["score"])
    say(f"{len(found.results)} objects in {len(found.data)} images")
    for category, name in zip(found.data.category_ids, found.data.category_names, strict=True):
        if scores[category]:
            mean = sum(scores[category]) / len(scores[category])
            say(f"  {plain_text(name):<24} {len(scores[category]):>7}   mean score {mean:.2f}")
    say_left_out([f"{name}: {reason}" for name, reason in found.broken.items()], "images")
    say(f"written: {' '.join(map(str, found.files))}")
    if len(found.data) and not found.results:
        least = options["threshold"]
        best = f", the highest is {max(found.highest.values()):.3g}" if found.highest else ""
        say(f"no detection has a score of {least:g}{best}: a lower --threshold shows what comes closest")
    elif "coco" in options["formats"] and len(found.data):
        say(f"to train on them: mcl-hf finetune --data {found.files[0]} --image-root {images_folder(found.data)} ...")
    if not len(found.data):
        raise InputError("none of the images can be read")
