"""`mcl_hf.predict`: what a detector finds in images without annotations, files and pictures of it, resumable.

Flow: detector + folders, files, patterns -> tiles -> `predict` -> `PREDICTIONS` line by line -> prediction_files. For
every detector that `open_detector` opens: those of this library and those of transformers.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..annotations.annotation_check import check_images, checked_data
from ..annotations.annotation_files import is_image, walk
from ..annotations.detection_data import AnnotationColumns, DetectionData, ImageId
from ..annotations.raw_data import RawData, RawImage
from ..data.decode import BrokenImage
from ..data.sources.local_tables import matching
from ..detectors.open_detector import open_detector
from ..engine.arithmetic import chosen_device, chosen_precision
from ..engine.options import Precision
from ..errors import InputError
from ..evaluation import predict_data as prediction
from ..evaluation.results import ImageDetections, Result, to_results
from ..given import from_home, plain_value
from ..plain_text import plain_text
from .prediction_files import FORMATS, LABELS, WRITTEN, write_predictions
from .tiles import cut, merge

PREDICTIONS = "predictions.jsonl"
"""What was asked for and, line by line, what was found in each image: what `resume` goes on from."""


@dataclass(frozen=True)
class Predictions:
    """What came of it.

    Attributes:
        data: the images that could be read, with the detector's classes and without annotations.
        results: COCO results, image after image, best first.
        broken: file -> what is wrong with it.
        files: what was written.
        highest: id of an image -> highest score in it, below the threshold, too; without those where nothing is.
    """

    data: DetectionData
    results: list[Result]
    broken: dict[str, str]
    files: list[Path]
    highest: dict[ImageId, float]


def predict(
    detector: str | Path,
    images: str | Path | Sequence[str | Path],
    output_dir: str | Path | None = None,
    *,
    threshold: float = 0.5,
    tile: int = 0,
    overlap: float = 0.2,
    formats: str | Sequence[str] = ("coco",),
    pictures: int = 20,
    batch_size: int = 1,
    precision: Precision = "fp32",
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> Predictions:
    """Detect objects in images.

    Args:
        detector: its folder or Hub repository, ours or transformers'.
        images: folders (with all below them), files, patterns such as `shots/*.jpg`, or `-` for a list on stdin.
        output_dir: where files go; None: nothing is written.
        threshold: smallest score that counts, 0 to 1.
        tile: side of tiles in px that larger pictures are looked at in as well; 0: none.
        overlap: share of a tile, 0 to below 1, that it has in common with its neighbour.
        formats: one or more of `coco`, `yolo` and `voc`, all of which fine-tuning reads.
        pictures: how many images to draw, the first ones.
        batch_size: images, or tiles, at a time.
        precision: arithmetic of the network; `auto` is bf16 or fp16 where the device computes in it, else fp32.
        device: `auto` or `cpu`.
        resume: go on in an `output_dir` where the same was begun.
        progress: called with images done and all images.

    Raises:
        InputError: no such images, no detector, a value out of range, or another folder's work.

    Example:
        >>> import mcl_hf
        >>> found = mcl_hf.predict("my-detector", "photos", tile=640)  # doctest: +SKIP
        >>> found.results[0]["bbox"]  # doctest: +SKIP
        [12.5, 40.0, 96.25, 64.0]
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    _check(threshold, tile, overlap, formats, pictures, batch_size)
    precision = chosen_precision(precision, chosen_device(device))
    given = plain_value(images)
    files = find_images([from_home(entry) for entry in ([given] if isinstance(given, str) else map(str, given))])
    folder = None if output_dir is None else Path(from_home(str(output_dir)))
    if folder is not None:
        files = without_written(files, folder)
    model, processor = open_detector(str(detector))
    config: Any = model.config
    names = [config.id2label[index] for index in range(len(config.id2label))]
    data, broken = images_as_data(files, names)
    sizes = [Path(name).stat().st_size for name in data.names]
    asked = {"detector": str(detector), "detector_digest": _digest_of(model), "threshold": threshold, "tile": tile}
    asked |= {"overlap": overlap, "classes": names}
    known, log = _begin(folder, plain_value(asked), resume)
    results: list[Result] = []
    highest: dict[ImageId, float] = {}
    with log:
        model = model.to(chosen_device(device))
        for done, (item, size) in enumerate(zip(data, sizes, strict=True), 1):
            line = known.get(item.name)
            if line is None or line.get("bytes", size) != size:  # it is another picture by now
                try:
                    found = _detect(model, processor, item, data, threshold, tile, overlap, batch_size, precision)
                except BrokenImage as error:
                    broken[item.name] = str(error)
                    continue
                line = {"image": item.name, "bytes": size, **found}
                log.write(json.dumps(line) + "\n")
                log.flush()
            results += [{**result, "image_id": item.image_id} for result in line["results"]]
            if line.get("highest") is not None:
                highest[item.image_id] = line["highest"]
            if progress is not None:
                progress(done, len(data))
    if broken:
        data = data.select([index for index, name in enumerate(data.names) if name not in broken])
    written: list[Path] = []
    if folder is not None:
        written = write_predictions(folder, data, results, formats, pictures, threshold, highest)
    return Predictions(data, results, broken, written, highest)


def _detect(
    model: Any, processor: Any, item: Any, data: DetectionData, threshold: float, tile: int, overlap: float,
    batch_size: int, precision: Precision,
) -> dict[str, Any]:  # fmt: skip
    """COCO `results` of one image, and the `highest` score in it, whatever the threshold."""
    tiles = cut(item.image_id, item.decode(), tile, overlap)
    found: list[ImageDetections] = []
    for start in range(0, len(tiles), batch_size):
        batch: Any = tiles[start : start + batch_size]  # tiles decode as images do
        found += prediction.predict(model, processor, batch, precision=precision)
    best = max((float(np.max(image.scores)) for image in found if len(image.scores)), default=None)
    for n, image in enumerate(found):
        kept = np.flatnonzero(np.asarray(image.scores) >= threshold)
        masks = None if image.masks is None else [image.masks[place] for place in kept.tolist()]
        found[n] = ImageDetections(image.image_id, image.boxes[kept], image.scores[kept], image.labels[kept], masks)
    results = to_results([found[0] if len(found) == 1 else merge(tiles, found)], data)
    return {"results": results, "highest": best}


def find_images(given: Sequence[str], stdin: Iterable[str] | None = None) -> list[str]:
    """Files of images, each once, in the order given; within folders and patterns by name.

    Args:
        given: folders, files, patterns, or `-` for the lines of `stdin`; None: the process's.

    Raises:
        InputError: one of them has no images.
    """
    found: dict[str, None] = {}
    for entry in given:
        if not entry:  # which would be the current folder
            raise InputError("images has an empty name: name a folder, files, or a pattern in quotes")
        path = Path(entry)
        if entry == "-":
            names = list(filter(None, map(str.strip, sys.stdin if stdin is None else stdin)))
        elif path.is_dir():
            names = [str(path / name) for name in walk(path) if is_image(name)]
        elif path.is_file():
            names = [entry]
        else:
            names = [name for name in matching(entry) if is_image(name)]
        if not names:
            kind = "holds no images" if path.is_dir() else "is no folder, file or pattern that images answer to"
            raise InputError(f"{plain_text(entry)} {kind}: name a folder, files, or a pattern in quotes")
        found |= dict.fromkeys(names)
    return list(found)


def without_written(files: Sequence[str], folder: Path) -> list[str]:
    """The files but for what an earlier call wrote into its output folder, which may lie among the images; an
    `InputError` where there are no others."""
    places = [os.path.abspath(folder / name) + os.sep for name in WRITTEN]  # noqa: PTH100 - links stay as they are
    others = [name for name in files if not os.path.abspath(name).startswith(tuple(places))]  # noqa: PTH100
    if not others:
        raise InputError(f"all images are what was written into {folder} before: name others, or another --output-dir")
    return others


def images_as_data(files: Sequence[str], class_names: Sequence[str]) -> tuple[DetectionData, dict[str, str]]:
    """Images without annotations, ids from 1, and what is wrong with those that cannot be opened."""
    raw = RawData("images", files[0], [RawImage(name, name) for name in files], dict(enumerate(class_names, start=1)))
    check_images(raw, check_files=False)
    broken = {image.name: image.fault for image in raw.images if image.fault}
    data = checked_data(raw, AnnotationColumns.of([0] * (len(files) - len(broken))))
    data.image_ids = list(range(1, len(data) + 1))
    return data, broken


def _digest_of(model: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for parameter in model.parameters():
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _begin(folder: Path | None, asked: dict[str, Any], resume: bool) -> tuple[dict[str, dict[str, Any]], Any]:
    """What is known already by name of the image, and the open file that further images go to."""
    if folder is None:
        return {}, open(os.devnull, "w")  # noqa: PTH123
    path = folder / PREDICTIONS
    lines: list[str] = []
    strangers = [name for name in (LABELS, *WRITTEN) if not path.exists() and (folder / name).exists()]
    if strangers:  # somebody's labels or pictures
        raise InputError(
            f"{folder} holds {', '.join(strangers)} of something else, which would be written over: choose another "
            "--output-dir"
        )
    if path.exists():
        if not resume:
            raise InputError(f"{folder} holds predictions already: go on with --resume, or choose another --output-dir")
        try:
            whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines = [line for line in whole if line.endswith("\n")]
            begun = json.loads(lines[0]) if lines else asked
            # the detector by its weights, wherever it lies; by its place where an earlier version has begun
            decisive = asked.keys() - {"detector" if begun.get("detector_digest") else "detector_digest"}
            changed = [name for name in asked if name in decisive and begun.get(name) != asked[name]]
        except (OSError, ValueError, AttributeError) as error:  # of another program, whose lines are no mappings
            raise InputError(f"{path} cannot be read: choose another --output-dir") from error
        if changed:
            raise InputError(f"{folder} was begun with another {', '.join(changed)}: choose another --output-dir")
    try:
        known = {entry["image"]: {"results": entry["results"], **entry} for entry in map(json.loads, lines[1:])}
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines or [json.dumps(asked) + "\n"]), encoding="utf-8")  # without half a line
        return known, path.open("a", encoding="utf-8")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: choose another --output-dir") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; choose another --output-dir") from error


def _check(threshold: float, tile: int, overlap: float, formats: Sequence[str], pictures: int, batch_size: int) -> None:
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must be between 0 and 1, got {threshold}")
    if tile < 0 or 0 < tile < 32:
        raise InputError(f"tile must be 0 or at least 32 px, got {tile}")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap must be at least 0 and below 1, got {overlap}")
    if batch_size < 1 or pictures < 0:
        raise InputError("batch_size must be at least 1 and pictures not negative")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(f"formats are {', '.join(FORMATS)}, got {unknown[0]!r}")
