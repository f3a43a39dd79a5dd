"""One job of a comparison, in a process of its own: memory and state of one run never reach the next.

Flow: runner starts `python -m mcl_hf.comparison.run_job`, writes the job as one line of JSON to its standard
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
from typing import Any, BinaryIO

import psutil
import torch
from filelock import FileLock, Timeout
from transformers.utils import logging

from ..annotations.detection_data import DetectionData
from ..data.decode import BrokenImage
from ..engine.arithmetic import chosen_device
from ..engine.health import NonFiniteLossError
from ..engine.provenance import machine
from ..engine.state import newest_whole_checkpoint
from ..errors import InputError
from ..files import write_json
from ..plain_text import plain_text
from ..viz.curves import read_log
from .labelled import open_labelled
from .plan import ComparePlan

DONE, WRONG_INPUT, STOPPED = 0, 2, 130
"""Exit codes; any other is a fault or a kill."""
SHOWN = 4
"""Test images whose detections stay in the result."""
SHOWN_SCORE = 0.3
_LOCK_SECONDS = 600
_PACE_STEPS = 12
_HEALTH = (
    "level_losses", "random_losses", "positive_similarity", "negative_similarity", "feature_std", "effective_rank",
    "loss",
)  # fmt: skip


def main() -> int:
    """Read a job from standard input, run it, and return an exit code."""
    logging.disable_progress_bar()  # of writing models, amid the run's own lines
    stdin = os.fdopen(0, "rb", buffering=0)  # at exit, no thread may wait in a reader with a buffer
    line = stdin.readline()
    if not line:
        raise SystemExit("a job is read from standard input: this is started by mcl-hf compare")
    content = json.loads(line)
    folder = Path(content["folder"])
    threading.Thread(target=_stop_when_alone, args=(stdin,), daemon=True).start()
    try:
        # a job of a killed comparison may still be saving
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=_LOCK_SECONDS):
            return run_job(content, folder)
    except (InputError, Timeout) as error:
        busy = f"another process still writes {folder}: wait for it, or end it"
        told = busy if isinstance(error, Timeout) else " ".join(str(error).split())
        print(plain_text(f"mcl-hf: error: {told}"), file=sys.stderr, flush=True)
        return WRONG_INPUT
    except KeyboardInterrupt:
        return STOPPED


def run_job(content: dict[str, Any], folder: Path) -> int:
    """Run a job from wherever it stopped, write its result, and drop what nothing needs any more; its exit code."""
    started, pretrains = time.time(), not content["record"]["job"]["images"]
    _begin(folder, content["record"]["digest"])
    found = _pretrain(content, folder) if pretrains else _train_detector(content, folder)
    if found is None:
        return STOPPED
    write_json(
        Path(content["result"]),
        {
            **content["record"],
            "machine": machine(chosen_device(content["options"]["device"])),
            "load_average": [round(value, 1) for value in os.getloadavg()],
            "threads": torch.get_num_threads(),
            "process_seconds": round(time.time() - psutil.Process().create_time(), 1),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **found,
        },
    )
    if content["record"]["job"]["kind"] == "pretrain":  # of which jobs start; what is beside the model weighs most
        for name in ("checkpoints", "pretraining"):
            shutil.rmtree(folder / name, ignore_errors=True)
    else:
        shutil.rmtree(folder)
    print(f"done in {time.time() - started:.0f} s", flush=True)
    return DONE


def _begin(folder: Path, digest: str) -> None:
    """Empty a folder whose run was of other options, or left nothing to go on from."""
    note = folder / ".digest"
    same = note.is_file() and note.read_text(encoding="utf-8") == digest
    if not same or newest_whole_checkpoint(folder)[0] is None:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(digest, encoding="utf-8")


def _pretrain(content: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """What a pre-training came to; None where it was stopped."""
    from ..pretraining.arguments import PretrainArguments
    from ..pretraining.pretrain import pretrain

    more = {"max_steps": _PACE_STEPS} if content["record"]["job"]["kind"] == "pace" else {}
    arguments = PretrainArguments(**{**content["options"], "output_dir": str(folder), "resume": "auto", **more})
    result = pretrain(arguments)
    if result.stopped_by is not None:
        return None
    log = read_log(folder)
    last, later = log[-1], log[1:] or log
    visits = result.steps * arguments.batch_sizes(1)[1]
    return {
        "figures": {name: last[name] for name in _HEALTH if name in last},
        "steps": result.steps,
        "visits": visits,
        "flop": content["flop"] * visits,
        "seconds": last["seconds"],
        **{name: statistics.median(r[name] for r in later) for name in ("images_per_second", "data_wait_share")},
        "warnings": [line for record in log for line in record.get("health", [])],
        "losses": [[record["step"], record["loss"]] for record in log[:: max(1, len(log) // 20)]],
    }


def _train_detector(content: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """What a fine-tuning came to; None where it was stopped."""
    from ..finetuning.arguments import FinetuneArguments
    from ..finetuning.finetune import finetune

    job = content["record"]["job"]
    part = "val" if job["kind"] == "tune" else "test"
    data = open_labelled(ComparePlan(**content["plan"]), [part])
    train, measured = data.subset(job["images"], job["seed"], job["subset"]), getattr(data, part)
    arguments = FinetuneArguments(**{**content["options"], "output_dir": str(folder), "resume": "auto"})
    try:
        result = finetune(arguments, train_on=train, measure_on=measured)
    except NonFiniteLossError as error:
        return {"figures": {}, "diverged": str(error), "images": len(train), "seconds": 0.0}
    if result.stopped_by is not None:
        return None
    log = read_log(folder)
    found: dict[str, Any] = {
        "figures": _figures(_evaluated(folder, "metrics")),
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
        found["shown"] = shown_detections(measured, _evaluated(folder, "results"))
    return found


def _evaluated(folder: Path, name: str) -> Any:
    return json.loads((folder / "evaluation" / f"{name}.json").read_text(encoding="utf-8"))


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """`box/AP` and so on in [0, 1], and AP and AP50 of each class as `box/AP of NAME`."""
    found: dict[str, Any] = {}
    for kind in (kind for kind in ("box", "mask") if kind in metrics):
        found |= {f"{kind}/{name}": value for name, value in metrics[kind].items() if isinstance(value, float)}
        for name, figures in metrics[kind]["per_class"].items():
            found |= {f"{kind}/{figure} of {name}": figures[figure] for figure in ("AP", "AP50")}
    return found


def _evaluate_at(folder: Path, data: DetectionData, arguments: Any, scale: float) -> dict[str, Any]:
    """Figures with the test images larger or smaller than the detector takes them."""
    from ..detectors.open_detector import open_detector
    from ..evaluation.evaluate import evaluate_detections
    from ..evaluation.predict_data import predict_data
    from ..evaluation.results import to_results

    model, processor = open_detector(str(folder))
    model.to(chosen_device(arguments.device))
    sizes = {name: getattr(processor.size, name) for name in ("shortest_edge", "longest_edge", "height", "width")}
    scaled = {name: max(32, round(scale * side)) for name, side in sizes.items() if side}
    processor.size = {name: side // 32 * 32 if name in ("height", "width") else side for name, side in scaled.items()}
    how = {"num_workers": arguments.num_workers, "precision": arguments.precision, "skip_broken": True}
    predicted = predict_data(model, processor, data, batch_size=arguments.eval_batch_size, **how)
    masks = data.has_masks and arguments.masks
    return evaluate_detections(data, to_results(predicted.detections, data), masks=masks).to_json()


def shown_images(data: DetectionData) -> list[int]:
    """Indices of the images that the report shows: the first with two objects or more, evenly over the data, by their
    annotations alone, so that no start is shown at its best."""
    fit = [index for index, objects in enumerate(data.num_objects) if objects >= 2] or list(range(len(data)))
    return [fit[len(fit) * place // SHOWN] for place in range(min(SHOWN, len(fit)))]


def shown_detections(data: DetectionData, results: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """What was found in the images shown: id, which tells of no folder -> rows of x, y, w, h in px, category id, score;
    the best one alone where none is good enough."""
    found: dict[str, list[list[float]]] = {str(data.image_ids[index]): [] for index in shown_images(data)}
    for result in results:
        rows = found.get(str(result["image_id"]))
        if rows is not None:
            box = [round(value, 1) for value in result["bbox"]]
            rows.append([*box, result["category_id"], round(result["score"], 3)])
    return {
        name: [row for row in rows if row[-1] >= SHOWN_SCORE] or sorted(rows, key=itemgetter(-1))[-1:]
        for name, rows in found.items()
    }


def check_readable(data: DetectionData) -> None:
    """Decode the images shown, so that the report can draw them."""
    for index in shown_images(data):
        try:
            data[index].decode()
        except BrokenImage as error:
            raise InputError(f"test image {data.names[index]}: {error}") from error


def _stop_when_alone(stdin: BinaryIO) -> None:
    """Ask this process to save and leave when whoever started it is gone."""
    stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
