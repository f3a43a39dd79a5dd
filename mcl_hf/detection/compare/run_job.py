"""One job of a comparison, in a process of its own: memory and state of one run never reach the next.

Flow: runner starts `python -m mcl_hf.detection.compare.run_job`, writes the job as one line of JSON to its standard
input and leaves that open; **run_job** trains, measures, and last of all writes the result, which makes the job done.
When the standard input ends early, the comparison was killed: the job saves and leaves as after SIGTERM.
"""

import json
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout
from transformers.utils import logging

from ...data.decode import BrokenImage
from ...engine.health import NonFiniteLossError
from ...engine.provenance import machine
from ...engine.state import newest_whole_checkpoint
from ...errors import InputError
from ...files import write_json
from ...plain_text import plain_text
from ..data.detection_data import DetectionData
from .labelled import open_labelled
from .plan import ComparePlan

DONE, WRONG_INPUT, STOPPED = 0, 2, 130
"""Exit codes; any other is a fault or a kill."""
SHOWN = 4
"""Test images whose detections stay in the result."""
SHOWN_SCORE = 0.3
_LOCK_SECONDS = 600
_PACE_STEPS = 12
_START_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "training_state.json", "log.jsonl")
_DIGEST = ".digest"
_SIZES = ("APs", "APm", "APl")


def main() -> int:
    """Read a job from standard input, run it, and return an exit code."""
    logging.disable_progress_bar()  # of writing models, amid the run's own lines
    content = json.loads(_read_line(0))
    saved = threading.Event()
    threading.Thread(target=_stop_when_alone, args=(saved,), daemon=True).start()
    try:
        with FileLock(content["lock"], timeout=_LOCK_SECONDS):  # a job of a killed comparison may still be saving
            return run_job(content, saved)
    except Timeout:
        return _fail(f"another process still writes {content['folder']}: wait for it, or end it")
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return STOPPED


def run_job(content: dict[str, Any], saved: threading.Event) -> int:
    """Run a job from wherever it stopped, write its result, and drop what nothing needs any more.

    Args:
        content: of `compare.py`.
        saved: set once the run needs no saving any more.

    Returns:
        `DONE` or `STOPPED`.
    """
    folder, started = Path(content["folder"]), time.time()
    _begin(folder, content["digest"])
    run = _train_detector if content["job"]["kind"] in ("tune", "test") else _pretrain
    found = run(content, folder, saved)
    if found is None:
        return STOPPED
    saved.set()
    device = torch.device("cuda" if torch.cuda.is_available() and content["options"]["device"] != "cpu" else "cpu")
    write_json(
        Path(content["result"]),
        {
            "job": content["job"],
            "digest": content["digest"],
            "command": content["command"],
            "options": content["shown_options"],
            "data": content["data"],
            "commit": content["commit"],
            "machine": machine(device),
            "load_average": [round(value, 1) for value in os.getloadavg()],
            "threads": torch.get_num_threads(),
            "process_seconds": round(time.time() - psutil.Process().create_time(), 1),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **found,
        },
    )
    _keep(folder, _START_FILES if content["job"]["kind"] == "pretrain" else ())
    print(f"done in {time.time() - started:.0f} s", flush=True)
    return DONE


def _begin(folder: Path, digest: str) -> None:
    """Empty a folder whose run was of other options, or left nothing to go on from."""
    note = folder / _DIGEST
    same = note.is_file() and note.read_text(encoding="utf-8") == digest
    if not same or newest_whole_checkpoint(folder)[0] is None:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(digest, encoding="utf-8")


def _pretrain(content: dict[str, Any], folder: Path, saved: threading.Event) -> dict[str, Any] | None:
    from ...pretraining.arguments import PretrainArguments
    from ...pretraining.pretrain import pretrain

    options = dict(content["options"])
    if content["job"]["kind"] == "pace":
        options["max_steps"] = _PACE_STEPS
    arguments = PretrainArguments(**{**options, "output_dir": str(folder), "resume": "auto"})
    result = pretrain(arguments)
    if result.stopped_by is not None:
        return None
    saved.set()
    log = _log(folder)
    visits = result.steps * arguments.batch_sizes(1)[1]
    health = ("level_losses", "random_losses", "positive_similarity", "negative_similarity", "feature_std",
              "effective_rank", "loss")  # fmt: skip
    rates = [record["images_per_second"] for record in log[1:] or log]
    return {
        "figures": {name: log[-1][name] for name in health if name in log[-1]},
        "steps": result.steps,
        "visits": visits,
        "flop": content["flop"] * visits,
        "seconds": log[-1]["seconds"],
        "images_per_second": statistics.median(rates),
        "data_wait_share": statistics.median(record["data_wait_share"] for record in log[1:] or log),
        "warnings": [line for record in log for line in record.get("health", [])],
        "losses": [[record["step"], record["loss"]] for record in log[:: max(1, len(log) // 20)]],
    }


def _train_detector(content: dict[str, Any], folder: Path, saved: threading.Event) -> dict[str, Any] | None:
    from ..finetuning.arguments import FinetuneArguments
    from ..finetuning.finetune import finetune

    job, plan = content["job"], ComparePlan(**content["plan"])
    part = "val" if job["kind"] == "tune" else "test"
    data = open_labelled(plan, content["reading"], [part])
    train, measured = data.subset(job["images"], job["seed"], job["subset"]), getattr(data, part)
    arguments = FinetuneArguments(**{**content["options"], "output_dir": str(folder), "resume": "auto"})
    try:
        result = finetune(arguments, train_on=train, measure_on=measured)
    except NonFiniteLossError as error:
        return {"figures": {}, "diverged": str(error), "images": len(train), "seconds": 0.0}
    if result.stopped_by is not None:
        return None
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    log = _log(folder)
    found: dict[str, Any] = {
        "figures": _figures(metrics),
        "images": len(train),
        "objects": int(train.num_objects.sum()),
        "flop": content["flop"],
        "seconds": log[-1]["seconds"],
        "loss": log[-1]["loss"],
        "warnings": [line for record in log for line in record.get("health", [])],
    }
    if content["scales"]:
        found["scales"] = {
            f"{scale:g}": _figures(_evaluate_at(folder, measured, arguments, scale)) for scale in content["scales"]
        }
    if content["show"]:
        results = json.loads((folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
        found["shown"] = shown_detections(measured, results)
    return found


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """`box/AP` and so on in [0, 1], and AP and AP50 of each class as `box/AP of NAME`."""
    found: dict[str, Any] = {}
    for kind in ("box", "mask"):
        if kind not in metrics:
            continue
        found |= {f"{kind}/{name}": value for name, value in metrics[kind].items() if isinstance(value, float)}
        for name, figures in metrics[kind]["per_class"].items():
            found |= {f"{kind}/{figure} of {name}": figures[figure] for figure in ("AP", "AP50")}
    return found


def _evaluate_at(folder: Path, data: DetectionData, arguments: Any, scale: float) -> dict[str, Any]:
    """Figures with the test images larger or smaller than the detector takes them."""
    from ..evaluation.evaluate import evaluate_detections
    from ..evaluation.predict_data import open_detector, predict_data
    from ..evaluation.results import to_results

    model, processor = open_detector(str(folder))
    if torch.cuda.is_available() and arguments.device != "cpu":
        model.to("cuda")
    sizes = {name: getattr(processor.size, name) for name in ("shortest_edge", "longest_edge", "height", "width")}
    scaled = {name: max(32, round(scale * side)) for name, side in sizes.items() if side}
    processor.size = {name: side // 32 * 32 if name in ("height", "width") else side for name, side in scaled.items()}
    predicted = predict_data(
        model,
        processor,
        data,
        batch_size=arguments.eval_batch_size,
        num_workers=arguments.num_workers,
        precision=arguments.precision,
        skip_broken=True,
    )
    masks = data.has_masks and arguments.masks
    return evaluate_detections(data, to_results(predicted.detections, data), masks=masks).to_json()


def shown_images(data: DetectionData) -> list[int]:
    """Indices of the images that the report shows: the first with two objects or more, evenly over the data.

    The rule looks at annotations alone, so that no start is shown at its best.
    """
    fit = [index for index, objects in enumerate(data.num_objects) if objects >= 2] or list(range(len(data)))
    return [fit[len(fit) * place // SHOWN] for place in range(min(SHOWN, len(fit)))]


def shown_detections(data: DetectionData, results: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """What was found in the images shown: id, which tells nothing of this machine's folders -> rows of x, y, w, h in
    px, category id, score; the best one alone where none is good enough.
    """
    found: dict[str, list[list[float]]] = {str(data.image_ids[index]): [] for index in shown_images(data)}
    for result in results:
        if str(result["image_id"]) in found:
            box = [round(value, 1) for value in result["bbox"]]
            found[str(result["image_id"])].append([*box, result["category_id"], round(result["score"], 3)])
    return {
        name: [row for row in rows if row[-1] >= SHOWN_SCORE] or sorted(rows, key=itemgetter(-1))[-1:]
        for name, rows in found.items()
    }


def check_readable(data: DetectionData) -> None:
    """Decode the images shown, so that the report can draw them.

    Raises:
        InputError: one is broken.
    """
    for index in shown_images(data):
        try:
            data[index].decode()
        except BrokenImage as error:
            raise InputError(f"test image {data.names[index]}: {error}") from error


def _log(folder: Path) -> list[dict[str, Any]]:
    from ...viz import read_log

    return read_log(folder / "log.jsonl")


def _keep(folder: Path, names: tuple[str, ...]) -> None:
    """Delete all of a finished job's folder but some files, and the folder where nothing is kept."""
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not names:
        folder.rmdir()


def _read_line(descriptor: int) -> bytes:
    """One line, without Python's buffered reader, which a thread must not be left waiting in at exit."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            raise SystemExit("a job is read from standard input: this is started by mcl-hf compare")
        line += part
    return line


def _stop_when_alone(saved: threading.Event) -> None:
    """Ask this process to save and leave when whoever started it is gone."""
    while os.read(0, 1):
        pass
    if not saved.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _fail(message: str) -> int:
    print(plain_text(f"mcl-hf: error: {' '.join(message.split())}"), file=sys.stderr, flush=True)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
