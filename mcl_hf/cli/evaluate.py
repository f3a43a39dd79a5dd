"""`mcl-hf evaluate`: a detector, or a results JSON of any detector, scored on annotated images.

Also behind `scripts/evaluate.py`, for several processes; the first of them scores and writes.
"""

import os
import re
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..annotations.annotation_files import split_word
from ..annotations.detection_data import DetectionData
from ..annotations.open_data import list_splits, open_detection_data
from ..data.sources.split_column import split_meant
from ..engine.options import Options, Precision, group, options_class
from ..errors import InputError
from ..evaluation.coco_metrics import Backend, import_backend
from ..evaluation.evaluate import evaluate_detections
from ..evaluation.results import Result, gather_results, merge_results, read_results, to_results, write_results
from ..new_folder import kept_if_used
from ..plain_text import plain_text
from .command import command, import_torch, say, say_left_out
from .options import ARGUMENTS, read_options

DESCRIPTION = "Measure a detector on annotated images: COCO's figures for boxes and masks, Pascal VOC's AP50, pictures."
EXAMPLES = """
examples:
  mcl-hf evaluate runs/detector --data coco --split val2017
  mcl-hf evaluate --predictions results.json --data coco --split val2017 --output-dir scored
  accelerate launch scripts/evaluate.py runs/detector --data coco --split val2017 --output-dir scored
"""
_argument, _data, _detections, _figures = (group(title) for title in (ARGUMENTS, "data", "detections", "figures"))
_OF_THE_DATA = ("split", "images", "image_column", "objects_column", "box_format", "skip_broken", "allow_outside_paths")
_OF_DETECTING = ("batch_size", "num_workers", "precision", "device")


@options_class
class EvaluateOptions(Options):
    """What the command can be told."""

    checkpoint: str | None = _argument(None, "a detector's folder or Hub repository, or torchvision:NAME")

    data: str = _data(
        ...,
        "COCO JSON, YOLO's data.yaml, a CSV, or a folder that holds one; Pascal VOC, Cityscapes, parquet files or a "
        "data set of the Hub with columns image and objects",
    )
    split: str | None = _data(None, "part of the data (val, where the data have splits)")
    images: str | None = _data(None, "folder of a COCO JSON's or CSV's images, where it is elsewhere", "image_root")
    image_column: str | None = _data(None, "column of images (the only one that can be)")
    objects_column: str = _data("objects", "column of boxes")
    box_format: Literal["xywh", "xyxy"] = _data("xywh", "of a table's boxes, px: corner and sides, or two corners")
    skip_broken: bool = _data(False, "leave out, and name, what would be refused")
    allow_outside_paths: bool = _data(False, "take images outside of the data's folder where paths in the data say so")
    max_images: int | None = _data(None, "only the first N images", ge=1)

    predictions: str | None = _detections(None, "score this COCO results JSON, in place of running a CHECKPOINT")
    batch_size: int = _detections(1, "images at a time a process", ge=1)
    num_workers: int = _detections(2, "processes that decode and resize", ge=0)
    precision: Precision = _detections("fp32", "arithmetic; auto is what the device is fastest in")
    device: Literal["auto", "cpu"] = _detections("auto", "auto takes the accelerator where there is one")

    backend: Backend = _figures("pycocotools", "counts matches; the other one gives pycocotools' figures sooner")
    output_dir: Path | None = _figures(
        None,
        "where metrics.json, results.json and pictures go (CHECKPOINT/evaluation of a local folder, or evaluation; "
        "evaluation-NAME for another split than val, evaluation-first-N for --max-images N)",
    )
    pictures: int = _figures(8, "images to draw, evenly spread", ge=0)
    picture_score: float = _figures(0.5, "draw predictions from this score on")

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.predictions is None):
            raise InputError("give one of the two: a CHECKPOINT to run, or --predictions FILE to score")
        fields = type(self).__pydantic_fields__
        idle = [name for name in _OF_DETECTING if getattr(self, name) != fields[name].default]
        if self.predictions is not None and idle:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise InputError(f"--predictions are scored as they are, without a detector: leave out {flags}")


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    about = {"prog": "mcl-hf evaluate", "usage": "mcl-hf evaluate [CHECKPOINT] --data DATA [options]"}
    options = read_options(EvaluateOptions, argv, **about, description=DESCRIPTION, epilog=EXAMPLES)
    import_backend(options.backend)  # before hours of detecting
    options.split = _split(options)
    folder = _output_dir(options)
    written = folder / "results.json"
    if options.max_images and options.predictions and written.resolve() == Path(options.predictions).resolve():
        raise InputError(f"--max-images would leave a part of {written}, which is written anew: name an --output-dir")
    with kept_if_used(folder):
        done = "made"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            done = "written"
            with tempfile.TemporaryFile(dir=folder):  # before hours of detecting
                pass
        except OSError as error:
            raise InputError(f"--output-dir {folder} cannot be {done}: {error.strerror}") from error
        _evaluate(options, folder)


def _evaluate(options: EvaluateOptions, folder: Path) -> None:
    data = open_detection_data(options.data, **{name: getattr(options, name) for name in _OF_THE_DATA})
    results: list[Result] | None = None
    if options.predictions is not None:
        say(data.description)
        left_out: list[str] | None = [] if options.skip_broken else None
        results = read_results(options.predictions, data, left_out)
        say_left_out(left_out or [], "results")

    import_torch()
    from ..engine.arithmetic import chosen_device, chosen_precision
    from ..evaluation.evaluation_files import write_evaluation

    if options.max_images is not None:
        data = data.select(range(min(options.max_images, len(data))))
    if results is not None:
        kept = set(data.image_ids)
        results = merge_results([[result for result in results if result["image_id"] in kept]], data)
    else:
        data, results = _detect(options, data, folder)
    if results is None:  # not the first process
        return
    metrics = evaluate_detections(data, results, backend=options.backend)
    about = {name: getattr(options, name) for name in ("checkpoint", "predictions", "split", "max_images")}
    # of results that were given, that of whoever detected
    device = chosen_device(options.device)
    about["precision"] = chosen_precision(options.precision, device) if options.predictions is None else None
    about["given"] = options.data
    written = write_evaluation(folder, data, results, metrics, about, options.pictures, options.picture_score)
    say("\n".join(metrics.lines()))  # after writing: a closed pipe costs no evaluation
    say(f"written: {' '.join(map(str, written))}")
    if find_spec("matplotlib") is None:
        say("precision over recall is drawn with matplotlib: pip install 'mcl_hf[viz]'")


def _detect(options: EvaluateOptions, data: DetectionData, folder: Path) -> tuple[DetectionData, list[Result] | None]:
    """The data without broken images, and all results on the first process, None on the others. Where an image does not
    decode, without `--skip-broken`, the results of all others are left in the folder, beside those of a whole
    evaluation."""
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from tqdm import tqdm

    from ..detectors.open_detector import open_detector
    from ..engine.arithmetic import emulation_warning, keep_freed_memory
    from ..evaluation.predict_data import match_categories, predict_data

    state = PartialState(cpu=options.device == "cpu")
    if state.device.type == "cpu":
        keep_freed_memory(os.environ)
    model, processor = open_detector(str(options.checkpoint))
    known: Any = model.config
    classes = match_categories(dict(known.id2label), data)
    if state.is_main_process:
        for line in (data.description, *emulation_warning(state.device, options.precision)):
            say(line)
        others = [name for index, name in known.id2label.items() if classes[int(index)] < 0]
        if others:
            named = plain_text(", ".join(others[:10]))
            say(f"not among the data's classes, left out: {named}{', ...' if others[10:] else ''}")
    start = time.perf_counter()
    with tqdm(total=len(data), unit="image", disable=not state.is_main_process) as bar:

        def progress(images: int) -> None:
            bar.update(min(images * state.num_processes, bar.total - bar.n))

        # what is found broken late costs itself, and not what was detected before
        predicted = predict_data(
            model.to(state.device), processor, data, batch_size=options.batch_size, num_workers=options.num_workers,
            precision=options.precision, skip_broken=True, progress=progress,
        )  # fmt: skip
    results = gather_results(to_results(predicted.detections, data), data)
    broken: list[dict[int, str]] = gather_object([predicted.broken])
    if not state.is_main_process:
        return data, None
    seconds = time.perf_counter() - start
    say(f"{len(data)} images in {seconds:.1f} s, {len(data) / seconds:.1f} images/s with decoding")
    reasons = {index: reason for part in broken for index, reason in part.items()}
    if reasons and not options.skip_broken:
        kept = folder / ("results-partial.json" if (folder / "metrics.json").exists() else "results.json")
        write_results(kept, results)
        index, reason = min(reasons.items())
        more = f" (and {len(reasons) - 1} more broken images)" if len(reasons) > 1 else ""
        raise InputError(
            f"{data.names[index]}: {reason}{more}: mend the data, or leave it out with --skip-broken; what was found "
            f"in the others is in {kept}, to be scored with --predictions"
        )
    for index, reason in sorted(reasons.items()):
        say(plain_text(f"broken, left out: {data.names[index]}: {reason}"))
    if reasons:
        data = data.select([index for index in range(len(data)) if index not in reasons])
    return data, results


def _output_dir(options: EvaluateOptions) -> Path:
    if options.output_dir is not None:
        return options.output_dir
    data = Path(options.data)
    split = options.split or (split_word(data.stem) if data.is_file() else "all")
    name = "evaluation"
    if split is not None and split_meant(split) != "validation":
        name += "-" + re.sub(r"[^\w.-]", "_", split)
    if options.max_images is not None:  # a part does not take the place of the whole
        name += f"-first-{options.max_images}"
    if options.checkpoint is not None and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / name
    return Path(name)


def _split(options: EvaluateOptions) -> str | None:
    """The split that is asked for, or val where the data have splits; None, and a warning, where they have none."""
    if options.split is not None:
        return options.split
    path = Path(options.data)
    if not path.exists() or list_splits(path):
        return "val"
    if path.is_dir():
        say(
            f"warning: {path} has no splits of its own: all of its images are scored, among them any that the detector "
            "was trained on"
        )
    return None
