"""One job of a comparison, in a process of its own: memory and state of one run never reach the next.

Flow: compare.py starts `python -m mcl_hf.detection.compare_job`, writes the job as one line of JSON to its standard
input and leaves that open; **compare_job** fine-tunes, and last of all writes `metrics.json`, which makes the job done.
When the standard input ends early, the comparison was killed: the job saves and leaves as after SIGTERM.

    START/fraction-F/seed-S/
        metrics.json, log.jsonl, README.md      remain of a finished job
        config.json, model.safetensors, preprocessor_config.json, training_state.json, evaluation/     with the model
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from transformers.utils import logging

from mcl_hf.errors import InputError

METRICS = "metrics.json"
DONE, WRONG_INPUT, DIVERGED, STOPPED = 0, 2, 3, 130
"""Exit codes; any other is a fault or a kill."""
_KEPT = (METRICS, "log.jsonl", "README.md")
_KEPT_WITH_MODEL = (
    *_KEPT, "config.json", "model.safetensors", "preprocessor_config.json", "training_state.json", "evaluation",
)  # fmt: skip
_WEIGHTS_GONE = "\nThe weights of this run were dropped once its AP was measured; `--keep-models` keeps them.\n"
_LOCK_SECONDS = 600


@dataclass(frozen=True)
class JobResult:
    """What a finished job found.

    Attributes:
        start: as it was given.
        fraction: share of the training images.
        seed: of the run.
        figures: on the validation data, by the log's names such as ``eval/box/AP``, in [0, 1].
        step: that the weights measured are of.
        steps: optimizer steps done.
        images: trained on.
        seconds: of the job, as far as known over all attempts.
        model_kept: whether the detector was to stay.
        diverged: whether its loss exploded on the way (`finetune_health.py`).
    """

    start: str
    fraction: float
    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    step: int = 0
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    model_kept: bool = False
    diverged: bool = False


def read_result(folder: Path) -> JobResult | None:
    """The result of a job, None where it is not done.

    Raises:
        InputError: its file is not what a job writes.
    """
    file = folder / METRICS
    try:
        return JobResult(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged: delete {folder} to run this job again") from error


def main() -> int:
    """Read a job from standard input, run it, and return an exit code."""
    logging.disable_progress_bar()  # of writing models, amid the run's own lines
    job = json.loads(_read_line(0))
    done = threading.Event()
    threading.Thread(target=_stop_when_alone, args=(done,), daemon=True).start()
    from mcl_hf.training.health import NonFiniteLossError

    try:
        with FileLock(job["lock"], timeout=_LOCK_SECONDS):  # a job of a killed comparison may still be saving
            folder = Path(job["arguments"]["output_dir"])
            return run_job(folder, job["arguments"], job["start"], job["keep_model"], done)
    except Timeout:
        return _fail(f"another job still writes beside {job['lock']}: wait for it, or end it", WRONG_INPUT)
    except NonFiniteLossError as error:
        return _fail(str(error), DIVERGED)
    except InputError as error:
        return _fail(str(error), WRONG_INPUT)
    except KeyboardInterrupt:
        return STOPPED


def run_job(folder: Path, options: dict[str, Any], start: str, keep_model: bool, done: threading.Event) -> int:
    """Fine-tune in `folder` from wherever the job stopped, write its result, and drop what is not kept.

    Args:
        folder: the job's.
        options: fields of `FinetuneArguments`.
        start: as the user gave it.
        keep_model: whether the finished detector stays.
        done: set once the run needs no saving any more.

    Returns:
        `DONE` or `STOPPED`.
    """
    from mcl_hf.detection.finetune import finetune
    from mcl_hf.detection.finetune_arguments import FinetuneArguments
    from mcl_hf.detection.finetune_health import DIVERGED
    from mcl_hf.training.state import newest_whole_checkpoint, read_training_state
    from mcl_hf.viz import read_log

    if read_result(folder) is None:
        if newest_whole_checkpoint(folder)[0] is None:  # nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
        result = finetune(FinetuneArguments(**options))
        if result.stopped_by is not None:
            return STOPPED
        done.set()
        checkpoint = newest_whole_checkpoint(folder)[0]
        assert checkpoint is not None, "a run saves after its last step"
        state = read_training_state(checkpoint)
        log = read_log(folder / "log.jsonl")
        step, figures = _figures(folder, state, result.metrics, log)
        _write_result(
            folder,
            JobResult(
                start=start,
                fraction=options["data_fraction"],
                seed=options["seed"],
                figures=figures,
                step=step,
                steps=state.step,
                images=state.data["num_images"],
                seconds=max(state.seconds, time.time() - psutil.Process().create_time()),
                model_kept=keep_model,
                diverged=any(line.startswith(DIVERGED) for record in log for line in record.get("health", [])),
            ),
        )
    done.set()
    drop_rest(folder, keep_model)
    return DONE


def _figures(folder: Path, state: Any, last: dict[str, Any], log: list[dict[str, Any]]) -> tuple[int, dict[str, float]]:
    """Step and figures of the finished detector: the best one's where the run could end early, else the last one's.

    Raises:
        InputError: they were not measured.
    """
    records = [last]
    if state.arguments["early_stopping_patience"]:
        best = state.best.get("eval_step")
        records = [record for record in log if record["step"] == best] or records
    figures = {name: value for name, value in records[-1].items() if name.startswith("eval/")}
    if "eval/box/AP" not in figures:
        raise InputError(f"{folder} ended without an AP: is anything annotated in its validation data?")
    return int(records[-1]["step"]), figures


def _write_result(folder: Path, result: JobResult) -> None:
    partial = folder / f".{METRICS}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / METRICS)


def drop_rest(folder: Path, keep_model: bool) -> None:
    """Delete all of a finished job but what is kept; checkpoints, which only continue a run, are never kept.

    Args:
        folder: of a job that is done.
        keep_model: whether its detector and the files of its evaluation stay.
    """
    readme = folder / "README.md"
    if not keep_model and readme.exists():
        text = readme.read_text(encoding="utf-8")
        if not text.endswith(_WEIGHTS_GONE):
            readme.write_text(text + _WEIGHTS_GONE, encoding="utf-8")
    for path in folder.iterdir():
        if path.name in (_KEPT_WITH_MODEL if keep_model else _KEPT):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_line(descriptor: int) -> bytes:
    """One line, without Python's buffered reader, which a thread must not be left waiting in at exit."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            raise SystemExit("a job is read from standard input: this is started by mcl-hf finetune --compare")
        line += part
    return line


def _stop_when_alone(done: threading.Event) -> None:
    """Ask this process to save and leave when whoever started it is gone."""
    while os.read(0, 1):
        pass
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _fail(message: str, code: int) -> int:
    print(f"mcl-hf: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
