"""What a run tells while it works: log.jsonl always, a progress bar, and trackers where asked.

Where it sits: the loop hands one record per logging step to `Tracking.log`. A record of log.jsonl, one JSON object a
line:

    step                    optimizer steps done
    loss                    total of this step, mean over ranks
    level_losses            (L, 2) contributions to the loss; columns: view a's queries, view b's. Supervised: (L,)
    random_losses           like level_losses: what they are where all keys (classes) look alike
    positive_similarity     (L, 2) mean cosine of queries with their own key
    negative_similarity     (L, 2) mean cosine with all other keys
    feature_std             (L, 2) spread of the query embeddings; near 0 is collapse. Supervised: (L,)
    effective_rank          (L, 2) directions that they use, 1 to D; near 1 is collapse. Supervised: (L,)
    target_distance         relative distance of target and online parameters
    accuracy                (L,) share of tiles classified right, supervised only
    learning_rate, target_momentum, grad_norm (before clipping; null in a step that fp16 skips)
    images_per_second       over all processes, since the line before
    data_wait_share         share (0 to 1) of that time spent waiting for images
    peak_memory_gib         of the main process so far: tensors on its GPU, or all of the process on the CPU
    seconds                 since the start of the run, over all attempts
    health                  what was found wrong with the run (collapse.py, finetuning/health.py), where it is new
    probe/...               results of a probe of the weights, where one was due
    broken_images           unreadable so far; broken: names of those since the line before (main process), if any

Trackers are Accelerate's. Pictures of the data go to them only with `log_images`.
"""

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError
from ..plain_text import plain_text
from .state import how_to_go_on

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "trackio")
_PROJECT = "mcl_hf"


def check_trackers(names: Iterable[str]) -> None:
    """Refuse, by an InputError, unknown trackers and those that are not installed, before any work."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"report_to has no tracker {name!r}: choose among {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"report_to {name} needs a package that is not installed: pip install mcl_hf[{name}]")


class _Unheard:
    """A stream into which nothing may go any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # or closed, of a small encoding, or None
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unheard() -> Iterator[None]:
    """Let what is printed inside be lost where it cannot be written, in place of an error in the midst of a run: at
    Ctrl-C, `2>&1 | tee` ends before the run does; terminals are closed, and disks fill up."""
    out: Any = _Unheard(sys.stdout)
    errors: Any = _Unheard(sys.stderr)
    with redirect_stdout(out), redirect_stderr(errors):
        yield


class Tracking:
    """Log, progress bar and trackers of one attempt of a run, which begins after `first_step` steps: later lines of an
    earlier one are dropped from the log. Silent on all ranks but the main one."""

    def __init__(self, output_dir: Path, is_main: bool, max_steps: int, first_step: int) -> None:
        self.output_dir, self.is_main = output_dir, is_main
        self._trackers: list[Any] = []
        self.tracker_ids: dict[str, str] = {}
        if is_main:
            truncate_log(output_dir / "log.jsonl", first_step)
            self._log = (output_dir / "log.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm(total=max_steps, initial=first_step, unit="step", disable=not is_main, dynamic_ncols=True)

    def start_trackers(self, accelerator: "Accelerator", options: dict[str, Any], tracker_ids: dict[str, str]) -> None:
        """Open the trackers that the accelerator was made with; known run ids continue their curves. All ranks. An
        InputError where one cannot be opened."""
        if not accelerator.log_with:
            return
        self.tracker_ids = dict(tracker_ids)
        name = self.output_dir.resolve().name
        settings: dict[str, dict[str, Any]] = {
            "wandb": {"name": name, "dir": str(self.output_dir), "resume": "allow", "id": tracker_ids.get("wandb")},
            "trackio": {"name": name, "resume": "allow"},
        }
        flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in options.items()}
        try:
            accelerator.init_trackers(_PROJECT, config=flat, init_kwargs=settings)
        except Exception as error:  # without a key, or a network
            names = ", ".join(options["report_to"])
            raise InputError(f"report_to {names} cannot be opened: {error}; mend that, or leave it out") from error
        self._trackers = list(accelerator.trackers)
        if self.is_main and any(tracker.name == "wandb" for tracker in accelerator.trackers):
            self.tracker_ids["wandb"] = accelerator.get_tracker("wandb", unwrap=True).id

    def _tell_trackers(self, tell: Callable[[Any], Any]) -> None:
        """One whose service is gone, or was killed, costs no run: it is left out from then on."""
        for tracker in self._trackers.copy():
            try:
                tell(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self.print(f"warning: {tracker.name} has failed and is told nothing any more: {error!r}")

    def advance(self) -> None:
        """One more step on the progress bar."""
        self._bar.update(1)

    def progress(self, total: int, what: str, unit: str) -> tqdm:
        """A bar below the run's, for what is done between two steps; a context manager, gone when it is left."""
        return tqdm(total=total, desc=what, unit=unit, leave=False, disable=not self.is_main, dynamic_ncols=True)

    def log(self, record: dict[str, Any]) -> None:
        """Write one record everywhere. An InputError where log.jsonl cannot be written."""
        if self.is_main:
            try:
                self._log.write(json.dumps(_without_non_finite(record)) + "\n")
                self._log.flush()
            except OSError as error:
                reason = f"{error.strerror or error}; {how_to_go_on(self.output_dir)}"
                raise InputError(f"{self._log.name} cannot be written: {reason}") from error
            rate = record["images_per_second"]
            self._bar.set_postfix_str(
                f"loss {record['loss']:.3f}, {rate:.{0 if rate >= 10 else 2}f} images/s, "
                f"data wait {100 * record['data_wait_share']:.0f} %"
            )
        self._tell_trackers(lambda tracker: tracker.log(flatten(record), step=record["step"]))

    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Send a picture `(H, W, 3)` uint8 to the trackers, which the caller was asked to do."""
        if self.is_main:
            self._tell_trackers(lambda tracker: _send_picture(tracker, name, picture, step))

    def print(self, line: str) -> None:
        """Print above the progress bar, main process only; what the line tells of the data is no more than text."""
        if self.is_main:
            self._bar.write(plain_text(line, keep="\n"))

    def close(self) -> None:
        """Finish bar, log and trackers."""
        self._bar.close()
        if self.is_main:
            with suppress(OSError):  # what could not be written was said when it was tried
                self._log.close()
        self._tell_trackers(lambda tracker: tracker.finish())


def _send_picture(tracker: Any, name: str, picture: np.ndarray, step: int) -> None:
    if tracker.name == "tensorboard":
        tracker.tracker.add_image(name, picture, global_step=step, dataformats="HWC")
    elif tracker.name in ("wandb", "trackio"):
        images = importlib.import_module(tracker.name)
        tracker.tracker.log({name: images.Image(picture)}, step=step)


def truncate_log(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step` and a torn last line, so that a resumed run continues the log without a seam."""
    if not path.exists():
        return
    kept = log_up_to(path.read_text(encoding="utf-8", errors="replace"), last_step)
    new = path.with_name(path.name + ".new")
    new.write_text(kept, encoding="utf-8")
    new.replace(path)


def log_up_to(text: str, last_step: int, without: Collection[str] = ()) -> str:
    """The lines of a log up to a step that are records, as they stand, less the entries called as in `without`."""
    kept = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            whole = record["step"] <= last_step
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the line that was being written when the process was killed
        if whole:
            dropped = any(name in record for name in without)
            rest = {name: value for name, value in record.items() if name not in without}
            kept.append((json.dumps(rest) if dropped else line) + "\n")
    return "".join(kept)


def last_step(path: Path) -> int:
    """Step of the last whole line of a log that may be being written; 0 where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    return 0


def flatten(record: dict[str, Any]) -> dict[str, float]:
    """Numbers of a record by name; `level_losses` (L, 2) becomes `level_losses/0a`, `level_losses/0b`, ..."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, bool | str) or name == "step":
            continue
        if isinstance(value, int | float):
            flat[name] = value
        elif isinstance(value, list) and value and not isinstance(value[0], str):
            for level, row in enumerate(value):
                columns = zip("ab", row, strict=True) if isinstance(row, list) else [("", row)]
                flat.update({f"{name}/{level}{side}": number for side, number in columns})
    return flat


def _without_non_finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
