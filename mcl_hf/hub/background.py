"""Publishing while training goes on: every checkpoint beside the steps, the finished model at the end.

Where it sits: hung into the loop as a callback by `cli` (`--push-to-hub`), or by whoever calls `mcl_hf.pretrain`; on
the main process it hands checkpoints to one thread (`push_worker.py`) -> `repository.py`. On the Hub:

    checkpoints/step-00000030/     a whole checkpoint, to resume from; as many as the run keeps
    log.jsonl                      the run's log up to there, without the names of unreadable images
    config.json, ... README.md     the finished model, at the end, with its card and a tag (see `bundle.py`)

Each push is one commit. The thread holds at most one checkpoint in its hands and one waiting: where the connection is
slower than training, the newest takes the waiting one's place. What the Hub refuses or does not answer costs a warning.
"""

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ..engine.resume import LOG
from ..engine.saving import to_drop
from ..engine.state import step_of
from ..engine.tracking import log_up_to
from ..errors import InputError
from ..plain_text import plain_text
from ..version import __version__
from .bundle import Contents, is_ours, make_bundles
from .card_data import NOT_PUBLISHED
from .publish import next_tag
from .push_worker import PushWorker, Upload
from .repository import CARD_KEPT, HubAwayError, Repository

if TYPE_CHECKING:
    from ..engine.run import Run

_STAGING = ".hub"  # folder of a run in which a checkpoint waits for its turn, as hard links
_STEP = re.compile(r"checkpoints/(step-\d+)/")
_TELL_EVERY = 15.0  # seconds between the lines that are printed while the end waits


class PushToHub:
    """Pushes the checkpoints of a run, and the finished model, without holding up the steps.

    A callback, and a context: entering it checks token and repository and makes the repository; leaving it waits for
    what is still to be pushed. Only the main process does anything.

    Args:
        repository: `user/name`; made where it is not there.
        public: a new repository is public; left out, it is private.
        private: refuse a repository that is there and public.
        continues: the run goes on from a checkpoint; one that starts anew is refused a repository that holds some.
        contents: what goes along with the finished model.
        end_seconds: how long leaving waits at most, once the run is finished; `stop_seconds`: where it was not.

    Example:
        >>> with PushToHub("user/name") as push:  # doctest: +SKIP
        ...     mcl_hf.pretrain(data="photos", output_dir="my-run", callbacks=[push])
    """

    def __init__(
        self,
        repository: str,
        *,
        public: bool = False,
        private: bool = False,
        continues: bool = False,
        contents: Contents | None = None,
        end_seconds: float = 1800.0,
        stop_seconds: float = 60.0,
    ) -> None:
        self.repository, self.public, self.private = Repository(repository, attempts=1), public, private
        self.continues, self.contents = continues, contents or Contents()
        self.end_seconds, self.stop_seconds = end_seconds, stop_seconds
        self._worker = PushWorker(self._push)
        self._ready = self._finished = False
        self._output_dir: Path | None = None
        self._kept = (0, 0)  # keep_last and keep_every of the run
        self._bundle_error: str | None = None
        self._newest: Path | None = None

    # --- around the run -----------------------------------------------------------------------------------------------
    def __enter__(self) -> "PushToHub":
        """Refuse what would be in the way: token, permission or repository; a Hub that is away is a warning only."""
        if os.environ.get("RANK", "0") != "0":  # Accelerate is not set up yet: launchers number their processes here
            return self
        try:
            self._prepare()
        except HubAwayError as error:
            _say(f"warning: {error}. Training goes on; pushing is tried again at every checkpoint and at the end")
        self._bars_shown = not are_progress_bars_disabled()
        if self._bars_shown:
            disable_progress_bars()  # the client's would run across that of training
        self._worker.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for what is under way, and say what to do where it did not get through."""
        if not self._worker.started:
            return
        try:
            done = self._wait(self.end_seconds if self._finished else self.stop_seconds)
        except KeyboardInterrupt:
            done = False
        self._worker.submit(None)
        if self._bars_shown:
            enable_progress_bars()
        self._tell(_say)
        if self._output_dir is None:
            return
        self._say_how_it_ended(self._output_dir, done)
        if not self._worker.busy:
            shutil.rmtree(self._output_dir / _STAGING, ignore_errors=True)

    # --- in the loop --------------------------------------------------------------------------------------------------
    def on_save(self, run: "Run", checkpoint: Path) -> None:
        """Hand a whole checkpoint to the thread."""
        if not self._takes_part(run):
            return
        self._tell(run.tracking.print)
        step, staged = step_of(checkpoint), run.output_dir / _STAGING / checkpoint.name
        try:
            files = _hold(checkpoint, staged) | _log(run.output_dir, step, staged)
        except OSError as error:
            run.tracking.print(f"warning: {checkpoint.name} is not pushed: it cannot be held in {_STAGING} ({error})")
            return
        self._newest = checkpoint
        self._worker.submit(Upload(files, step, staged))

    def on_log(self, run: "Run", record: dict[str, Any]) -> None:
        """Print what the thread has to say."""
        self._tell(run.tracking.print)

    def on_end(self, run: "Run") -> None:
        """Hand the finished model, and the last checkpoint with it, to the thread."""
        if not self._takes_part(run):
            return
        self._finished = True
        folder = run.output_dir / _STAGING / "release"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            files = dict(make_bundles(run.output_dir, self.repository.name, folder, self.contents)[0].files)
            if self._newest is not None:
                files |= _hold(self._newest, run.output_dir / _STAGING / f"{self._newest.name}-end")
            files |= _log(run.output_dir, run.state.step, folder)
        except (InputError, OSError) as error:  # the run is finished, and stays so
            self._bundle_error = str(error)
            return
        self._worker.submit(Upload(files, run.state.step, folder, release=True))

    def _takes_part(self, run: "Run") -> bool:
        if not run.accelerator.is_main_process or not self._worker.started:
            return False
        if self._output_dir is None:
            self._output_dir, self._kept = run.output_dir, (run.arguments.keep_last, run.arguments.keep_every)
            shutil.rmtree(run.output_dir / _STAGING, ignore_errors=True)  # of an attempt that was killed
        return True

    # --- in the thread ------------------------------------------------------------------------------------------------
    def _push(self, upload: Upload) -> None:
        """One attempt; may be repeated."""
        self._prepare()
        what = "The finished model" if upload.release else f"Checkpoint of step {upload.step:,}"
        title = f"{what} (mcl_hf {__version__})"
        commit = self.repository.commit(upload.files, title, lambda paths: self._obsolete(paths, upload))
        if commit.kept_card:
            _say(f"{self.repository.name}: {CARD_KEPT}")
        if upload.release:
            known = self.repository.tags()
            if commit.oid not in known.values():
                self.repository.tag(next_tag(known), commit.oid)

    def _prepare(self) -> None:
        if self._ready:
            return
        if not self.repository.check(self.private):
            self.repository.create(private=not self.public)
        elif not self.continues and (steps := _steps(self.repository.head()[1])):
            raise InputError(
                f"{self.repository.name} holds checkpoints of a run already (step {max(steps.values()):,}): continue "
                f"that with --resume {self.repository.name}, or choose another repository"
            )
        self._ready = True

    def _obsolete(self, paths: list[str], upload: Upload) -> set[str]:
        """Which paths go: of checkpoints beyond those that the run keeps, or later than this one, which it then has
        gone back behind; with the finished model, of an earlier release too."""
        steps = _steps(paths)
        earlier = sorted({upload.step, *(step for step in steps.values() if step <= upload.step)})
        dropped = to_drop(earlier, upload.step, *self._kept)
        gone = {path for path, step in steps.items() if step > upload.step or step in dropped}
        return gone | {path for path in paths if upload.release and is_ours(path)}

    # --- telling ------------------------------------------------------------------------------------------------------
    def _tell(self, say: Callable[[str], object]) -> None:
        while self._worker.lines:
            say(f"warning: {self._worker.lines.popleft()}; training is not affected, and pushing is tried again")

    def _wait(self, limit: float) -> bool:
        """Whether all has been pushed within so many seconds."""
        start, told = time.monotonic(), -math.inf
        while not self._worker.wait(min(1.0, limit)):
            now = time.monotonic() - start
            if now >= limit:
                return False
            if now - told >= _TELL_EVERY:
                told = now
                self._tell(_say)
                _say(f"pushing to {self.repository.name}: {now:.0f} s, at most {limit:.0f} s; Ctrl-C leaves it")
        return self._worker.error is None

    def _say_how_it_ended(self, output_dir: Path, done: bool) -> None:
        name, reason = self.repository.name, self._worker.error or "it took too long"
        visibility = " --public" if self.public else " --private" if self.private else ""
        if self._finished and (self._bundle_error or not done):
            _say(
                f"warning: the finished model is not on the Hub ({self._bundle_error or reason}). It is whole in "
                f"{output_dir}; publish it with: mcl-hf push {output_dir} {name}{visibility}"
            )
        elif self._finished:
            _say(f"published: {name} holds the finished model and its last checkpoint")
        elif not done:
            _say(
                f"warning: the last checkpoint is not on the Hub ({reason}). It is whole in {output_dir}; the run "
                "pushes again when it goes on"
            )


def _hold(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """A checkpoint's files by their path in the repository, held here, as the run may delete them meanwhile: hard
    links, or copies where there are none."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder, copy_function=_link)
    return {f"checkpoints/{checkpoint.name}/{path.name}": path for path in sorted(folder.iterdir())}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _log(output_dir: Path, step: int, folder: Path) -> dict[str, Path]:
    """The run's log up to a step, written into a folder, by its path in the repository; nothing where it is empty."""
    text = log_up_to((output_dir / LOG).read_text(encoding="utf-8", errors="replace"), step, without=NOT_PUBLISHED)
    (folder / LOG).write_text(text, encoding="utf-8")
    return {LOG: folder / LOG} if text else {}


def _steps(paths: Iterable[str]) -> dict[str, int]:
    """The steps of those paths of a repository that belong to checkpoints."""
    return {path: step_of(Path(found[1])) for path in paths if (found := _STEP.match(path))}


def _say(line: str) -> None:
    print(plain_text(line), file=sys.stderr, flush=True)
