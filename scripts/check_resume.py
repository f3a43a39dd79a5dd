"""Kill pre-training runs at random moments, resume them, and compare what they end with, byte by byte.

    python scripts/check_resume.py                  20 runs of 30 steps of a tiny model on the CPU; a few minutes
    python scripts/check_resume.py --signals        also SIGTERM, Ctrl-C, other numbers of workers, two kills
    python scripts/check_resume.py --out table.md   the table as a file, too

One run is left alone. Each other one is killed by SIGKILL at a moment of its life - in a step, in the loader, while a
checkpoint is written, or any time at all - and continued by `mcl-hf pretrain --resume auto`, with another number of
workers. Compared are the finished models, the last checkpoint's model (target and queue included) and training state
(optimizer, counters, best loss), and every line of the log but for its timings. Exit code 1 if anything differs.

Runs are forked from this process, which has imported everything and computed nothing. The hooks that strike at a
certain moment are put into the child's modules; the library knows nothing of them.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork must not inherit half of a thread pool

import matplotlib.pyplot  # noqa: F401 - imported once, here, and not in every child
import numpy as np
import torch
from PIL import Image

import mcl_hf.cli.pretrain
from mcl_hf.data import loader as loader_module
from mcl_hf.engine import saving
from mcl_hf.hub.markdown import table
from mcl_hf.pretraining import step as step_module

KINDS = ("in a step", "in the loader", "writing a checkpoint", "any time")
TINY: dict[str, Any] = {
    "backbone": "resnet10t", "backbone-kwargs": '{"channels": [8, 16, 16, 32], "stem_width": 8}', "fpn-channels": 8,
    "region-convs": 1, "region-size": 2, "hidden-dim": 16, "embedding-dim": 8, "montage-ratios": "1,2,4",
    "montage-fractions": "1,1/4,1/16", "level-weights": "0.5,0.25,0.25", "queue-size": 8, "batch-size": 4,
    "log-every-steps": 1, "save-every-steps": 3, "keep-last": 2, "keep-every": 9, "max-broken": 0.5, "device": "cpu",
}  # fmt: skip
# Functions of the checkpoint's way to disk, in their order; a kill strikes before one of them or at a time after all.
WRITING = ("save_file", "_write_manifest", "replace_folder", "link_last", "to_drop")
_FORK = multiprocessing.get_context("fork")
TIMINGS = {"seconds", "images_per_second", "data_wait_share", "peak_memory_gib"}
THIS_ATTEMPT = {"output_dir", "resume", "num_workers"}


class Strike(NamedTuple):
    """Where a run is to be killed: the step, image or checkpoint, counted from 1, and how far into it (0 to 1)."""

    kind: str = ""  # one of `KINDS`, or never
    at: int = 0
    share: float = 0.0


@dataclass
class Row:
    """A line of the table."""

    run: str
    moments: list[str]
    workers: list[int]
    resumed_from: list[str]
    differs: list[str]

    def cells(self) -> list[str]:
        """What the table shows."""
        end = f"DIFFERS: {', '.join(self.differs)}" if self.differs else "equal"
        workers = " -> ".join(map(str, self.workers))
        return [self.run, " / ".join(self.moments), workers, " / ".join(self.resumed_from), end]


class Place:
    """Where a child is, in memory that its parent sees after its death: of the loop, and of the writing thread."""

    def __init__(self) -> None:
        self.texts = [_FORK.Array("c", 128, lock=False) for _ in range(2)]

    def set(self, text: str, slot: int = 0) -> None:
        self.texts[slot].value = text.encode()[:127]

    def get(self, slot: int = 0) -> str:
        return self.texts[slot].value.decode(errors="replace")

    def words(self) -> str:
        return "; ".join(filter(None, (self.get() or "before the first step", self.get(1))))

    def step(self) -> int:
        """The step that the loop is in, counted from 1; 0 before the first."""
        found = re.search(r"step (\d+)", self.get())
        return int(found.group(1)) if found else 0


# ----------------------------------------------------------------------------------------------------------------
# in the child


def watch(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None] | None = None) -> None:
    """Let a function of a module or class call `before` and `after` with its own arguments."""
    function = getattr(owner, name)

    def watched(*arguments: Any, **more: Any) -> Any:
        before(*arguments)
        result = function(*arguments, **more)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, name, watched)


def install_hooks(place: Place, strike: Strike, step_seconds: float) -> None:
    """Let this process keep `place` up to date, and kill itself where `strike` says."""
    training_process = os.getpid()
    counts = {"in the loader": 0, "writing a checkpoint": 0}

    def kill(after: float = 0.0) -> None:
        if after:
            timer = threading.Timer(after, kill)
            timer.daemon = True
            timer.start()
        else:
            os.kill(training_process, signal.SIGKILL)

    def in_step(run: Any, step: int, *others: Any) -> None:
        place.set(f"in step {step + 1}")
        if strike.kind == "in a step" and step + 1 == strike.at:
            kill(strike.share * step_seconds)

    def in_loader(*given: Any) -> None:
        counts["in the loader"] += 1
        if strike.kind == "in the loader" and counts[strike.kind] == strike.at:
            if os.getpid() == training_process:
                place.set(f"{place.get()}, image {strike.at}")
            else:
                place.set(f"a worker at its image {strike.at}", slot=1)
            kill()

    def writing(*given: Any) -> None:
        counts["writing a checkpoint"] += 1
        place.set("writing a checkpoint: weights", slot=1)
        if strike.kind == "writing a checkpoint" and counts[strike.kind] == strike.at and strike.share > 0.5:
            kill(0.1 * (strike.share - 0.5))

    def before_part(name: str) -> None:
        place.set(f"writing a checkpoint: before {name}", slot=1)
        here = int(strike.share / 0.5 * len(WRITING)) == WRITING.index(name)
        if strike.kind == "writing a checkpoint" and counts[strike.kind] == strike.at and here:
            kill()

    pretraining = importlib.import_module("mcl_hf.pretraining.pretrain")  # the name in the package is the function
    watch(
        pretraining, "train_step",
        lambda run, batches, step, broken: place.set(f"in the loader for step {step + 1}"),
        lambda run, batches, step, broken: place.set(f"after step {step + 1}"),
    )  # fmt: skip
    watch(step_module, "forward_backward", in_step)
    watch(loader_module._StepBatches, "_render", in_loader)
    watch(saving, "write_checkpoint", writing, lambda *given: place.set("", slot=1))
    for name in WRITING:
        watch(saving, name, lambda *given, name=name: before_part(name))


def run(folder: Path, options: dict[str, Any], place: Place, strike: Strike, step_seconds: float) -> None:
    """`mcl-hf pretrain` in a fork of this process, with its output beside its folder."""
    os.setsid()  # a terminal sends Ctrl-C to a whole process group: so do we
    log = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    install_hooks(place, strike, step_seconds)
    flags = {**options, "output-dir": folder}
    sys.exit(mcl_hf.cli.pretrain.main([word for name, value in flags.items() for word in (f"--{name}", str(value))]))


# ----------------------------------------------------------------------------------------------------------------
# in the parent


def wait(child: BaseProcess) -> int:
    """Exit code of a child, negative for a signal; whatever it started is gone after this."""
    child.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # workers that outlive a killed parent by some seconds
    return child.exitcode


def contents(folder: Path) -> dict[str, str]:
    """What a finished run consists of, by name, as hashes."""
    last = folder / "checkpoints" / "last"
    files = {
        "finished model": folder / "model.safetensors",
        "whole model": folder / "pretraining" / "model.safetensors",
        "last checkpoint's model": last / "model.safetensors",
        "optimizer": last / "training_state.safetensors",
    }
    found = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["log"] = json.dumps([{k: v for k, v in line.items() if k not in TIMINGS} for line in lines])
    counters = json.loads((last / "training_state.json").read_text())
    counters["arguments"] = {k: v for k, v in counters["arguments"].items() if k not in THIS_ATTEMPT}
    found["training state"] = json.dumps({k: v for k, v in counters.items() if k not in TIMINGS})
    found["checkpoints kept"] = " ".join(sorted(path.name for path in last.parent.iterdir()))
    return found


class Check:
    """The runs of one call of this script, in one folder."""

    def __init__(self, root: Path, steps: int, seed: int) -> None:
        self.root, self.steps, self.random = root, steps, random.Random(seed)
        self.options = {**TINY, "max-steps": steps, "data": make_images(root / "images"), "resume": "auto"}
        self.place = Place()
        self.step_seconds = 0.0
        left_alone = root / "left-alone"
        began = time.perf_counter()
        if wait(self._start(left_alone, 0)):
            raise SystemExit(left_alone.with_suffix(".txt").read_text())
        self.run_seconds = time.perf_counter() - began
        self.step_seconds = json.loads((left_alone / "log.jsonl").read_text().splitlines()[-1])["seconds"] / steps
        self.expected = contents(left_alone)

    def killed(self, number: int, kind: str, kills: int = 1) -> Row:
        """A run that is killed (once, or on each of several attempts) and then left to finish."""
        folder = self.root / f"killed-{number}-{kills}"
        row = Row(str(number), [], [], [], [])
        for _ in range(kills):
            row.workers.append(self.random.choice((0, 2)))
            code = self._one_kill(folder, kind, row)
            if code != -signal.SIGKILL:
                return Row(row.run, [f"{kind}: ended with {code} before it was killed"], [], [], ["not killed"])
        return self._finish(folder, row, self.random.choice((0, 1, 2)))

    def signalled(
        self, name: str, number: signal.Signals, expected_code: int, workers: tuple[int, int], to_all: bool = False
    ) -> Row:
        """A run that is asked to stop by a signal in the middle of some step, and continued."""
        folder = self.root / f"{name}-{workers[0]}".replace(" ", "-")
        child = self._start(folder, workers[0])
        first = self.random.randint(2, self.steps - 5)
        while self.place.step() < first:
            time.sleep(self.step_seconds / 10)
        time.sleep(self.random.random() * self.step_seconds)
        moment = self.place.words()
        # to a terminal's group of processes, as a terminal, torchrun and SLURM do
        (os.killpg if number == signal.SIGINT or to_all else os.kill)(child.pid, number)
        code = wait(child)
        row = self._finish(folder, Row(name, [f"{moment}; exit code {code}"], [workers[0]], [], []), workers[1])
        row.differs += [f"exit code {code} instead of {expected_code}"] if code != expected_code else []
        return row

    def _start(self, folder: Path, workers: int, strike: Strike = Strike()) -> BaseProcess:  # noqa: B008 - a constant
        self.place.set("")
        self.place.set("", slot=1)
        options = {**self.options, "num-workers": workers}
        child = _FORK.Process(target=run, args=(folder, options, self.place, strike, self.step_seconds))
        child.start()
        return child

    def _one_kill(self, folder: Path, kind: str, row: Row) -> int:
        """The exit code of an attempt that is killed; where, goes into the row."""
        workers, again = row.workers[-1], folder.exists()
        if kind == "any time":
            code, moment = self._kill_from_outside(folder, workers)
        else:
            images = self.steps * TINY["batch-size"] // max(1, workers)  # of one worker
            most = {"in a step": self.steps, "in the loader": images, "writing a checkpoint": self.steps // 3}[kind]
            # a later attempt has less than the whole run before it
            at, share = self.random.randint(1, 2 if again else most), self.random.random()
            if kind == "in a step" and again:
                kept = sorted((folder / "checkpoints").glob("step-*"))
                at = (int(kept[-1].name[5:]) if kept else 0) + 2
            strike = Strike(kind, at, share)
            code, moment = wait(self._start(folder, workers, strike)), self.place.words()
        if len(row.workers) > 1:
            row.resumed_from.append(resumed_from(folder))
        row.moments.append(f"{kind}: {moment}")
        return code

    def _kill_from_outside(self, folder: Path, workers: int) -> tuple[int, str]:
        delay = self.random.uniform(0.02, 0.8) * self.run_seconds
        while True:
            child = self._start(folder, workers)
            time.sleep(delay)
            child.kill()
            code = wait(child)
            if code:
                return code, f"after {delay:.2f} s, {self.place.words()}"
            shutil.rmtree(folder)  # it was faster than the run that was left alone: once more, sooner
            delay /= 2

    def _finish(self, folder: Path, row: Row, workers: int) -> Row:
        code = wait(self._start(folder, workers))
        if code:
            print(folder.with_suffix(".txt").read_text(), file=sys.stderr)
            row.differs.append(f"resuming ended with {code}")
        else:
            found = contents(folder)
            row.differs += [part for part in self.expected if found[part] != self.expected[part]]
        row.workers.append(workers)
        row.resumed_from.append(resumed_from(folder))
        return row


def resumed_from(folder: Path) -> str:
    """The step that the last attempt went on after, as its output says."""
    found = re.search(r"resuming after step (\d+)", folder.with_suffix(".txt").read_text())
    return found.group(1) if found else "the start"


def make_images(folder: Path) -> Path:
    """24 small pictures and a file that is none."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for index in range(24):
        coarse = numbers.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{index:02}.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def main() -> int:
    """Run the check; 0 where every run ended with the bytes of the one that was left alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=int, default=20, help="runs to kill (default: 20)")
    parser.add_argument("--steps", type=int, default=30, help="steps of a run, at least 10 (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--signals", action="store_true", help="also SIGTERM, Ctrl-C, numbers of workers, two kills")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    options = parser.parse_args()
    if options.steps < 10 or options.runs < 0:
        parser.error("--steps must be at least 10 and --runs at least 0")
    with tempfile.TemporaryDirectory() as root:
        check = Check(Path(root), options.steps, options.seed)
        print(f"left alone: {check.run_seconds:.1f} s, {check.step_seconds * 1000:.0f} ms a step", flush=True)
        rows: list[Row] = []

        def add(row: Row) -> None:
            rows.append(row)
            print(" | ".join(row.cells()), flush=True)

        for number in range(1, options.runs + 1):
            add(check.killed(number, KINDS[(number - 1) % len(KINDS)]))
        if options.signals:
            for workers in ((0, 2), (2, 1), (1, 0)):
                add(check.signalled("SIGTERM", signal.SIGTERM, 0, workers))
                add(check.signalled("Ctrl-C", signal.SIGINT, 130, workers))
            add(check.signalled("SIGTERM to workers, too", signal.SIGTERM, 0, (2, 0), to_all=True))
            for number, kind in enumerate(KINDS, start=options.runs + 1):
                add(check.killed(number, kind, kills=2))
    titles = ["run", "killed or stopped", "workers", "resumed from step", "end"]
    text = table(titles, [row.cells() for row in rows], texts=5) + "\n"
    print(f"\n{text}")
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    different = sum(bool(row.differs) for row in rows)
    print(f"{len(rows) - different} of {len(rows)} runs ended with the bytes of the run that was left alone")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
