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
import mmap
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork must not inherit half of a thread pool

import matplotlib.pyplot  # noqa: F401 - imported once, here, and not in every child
import numpy as np
import torch
from PIL import Image

import mcl_hf.cli.pretrain
from mcl_hf.data import loader as loader_module
from mcl_hf.engine import checkpoint_writer, saving
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
TIMINGS = {"seconds", "images_per_second", "data_wait_share", "peak_memory_gib"}
THIS_ATTEMPT = {"output_dir", "resume", "num_workers"}


@dataclass
class Strike:
    """Where a run is to be killed. `kind` is one of `KINDS` or "" for never; `at` the step, image or checkpoint that it
    happens in, counted from 1; `share` (0 to 1) how far into it."""

    kind: str = ""
    at: int = 0
    share: float = 0.0


@dataclass
class Row:
    """A line of the table."""

    run: str
    moment: str
    workers: str
    resumed_from: str
    differs: list[str]

    def cells(self) -> list[str]:
        """What the table shows."""
        return [self.run, self.moment, self.workers, self.resumed_from, "equal" if not self.differs else "DIFFERS: "
                + ", ".join(self.differs)]  # fmt: skip


class Place:
    """Where a child is, in memory that its parent sees after its death: of the loop, and of the writing thread."""

    SIZE = 128

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 2 * self.SIZE)

    def set(self, text: str, slot: int = 0) -> None:
        self.memory[slot * self.SIZE : (slot + 1) * self.SIZE] = text.encode()[: self.SIZE].ljust(self.SIZE)

    def get(self, slot: int = 0) -> str:
        return self.memory[slot * self.SIZE : (slot + 1) * self.SIZE].decode(errors="replace").strip("\0 ")

    def words(self) -> str:
        loop_place, writing = self.get(), self.get(1)
        return f"{loop_place or 'before the first step'}{'; ' if writing else ''}{writing}"

    def step(self) -> int:
        """The step that the loop is in, counted from 1; 0 before the first."""
        found = re.search(r"step (\d+)", self.get())
        return int(found.group(1)) if found else 0


# ----------------------------------------------------------------------------------------------------------------
# in the child


def install_hooks(place: Place, strike: Strike, step_seconds: float) -> None:
    """Let this process keep `place` up to date, and kill itself where `strike` says."""
    training_process = os.getpid()

    def kill() -> None:
        os.kill(training_process, signal.SIGKILL)

    def kill_after(seconds: float) -> None:
        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()

    pretraining = importlib.import_module("mcl_hf.pretraining.pretrain")  # the name in the package is the function
    train_step, forward_backward = pretraining.train_step, step_module.forward_backward
    render, write = loader_module._StepBatches._render, checkpoint_writer.write_checkpoint
    counts = {"images": 0, "writes": 0}

    def watched_step(run: Any, batches: Any, step: int, broken: list[str]) -> Any:
        place.set(f"in the loader for step {step + 1}")
        outputs = train_step(run, batches, step, broken)
        place.set(f"after step {step + 1}")
        return outputs

    def watched_pass(run: Any, step: int, *others: Any) -> Any:
        place.set(f"in step {step + 1}")
        if strike.kind == "in a step" and step + 1 == strike.at:
            kill_after(strike.share * step_seconds)
        return forward_backward(run, step, *others)

    def watched_render(self: Any, index: int, position: int) -> Any:
        counts["images"] += 1
        if strike.kind == "in the loader" and counts["images"] == strike.at:
            if os.getpid() == training_process:
                place.set(f"{place.get()}, image {counts['images']}")
            else:
                place.set(f"a worker at its image {counts['images']}", slot=1)
            kill()
        return render(self, index, position)

    def watched_write(*arguments: Any) -> Any:
        counts["writes"] += 1
        place.set("writing a checkpoint: weights", slot=1)
        if strike.kind == "writing a checkpoint" and counts["writes"] == strike.at and strike.share > 0.5:
            kill_after(0.1 * (strike.share - 0.5))
        result = write(*arguments)
        place.set("", slot=1)
        return result

    def watched_part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def part(*arguments: Any, **more: Any) -> Any:
            place.set(f"writing a checkpoint: before {name}", slot=1)
            here = int(strike.share / 0.5 * len(WRITING)) == WRITING.index(name)
            if strike.kind == "writing a checkpoint" and counts["writes"] == strike.at and here:
                kill()
            return function(*arguments, **more)

        return part

    setattr(pretraining, "train_step", watched_step)  # noqa: B010
    step_module.forward_backward = watched_pass
    loader_module._StepBatches._render = watched_render  # type: ignore[method-assign]
    setattr(checkpoint_writer, "write_checkpoint", watched_write)  # noqa: B010
    for name in WRITING:
        setattr(saving, name, watched_part(name, getattr(saving, name)))


def start(folder: Path, options: dict[str, Any], place: Place, strike: Strike, step_seconds: float) -> int:
    """Fork a run of `mcl-hf pretrain` with its output beside its folder; returns its process id."""
    place.set("")
    place.set("", slot=1)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()  # a terminal sends Ctrl-C to a whole process group: so do we
        log = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        install_hooks(place, strike, step_seconds)
        flags = {**options, "output-dir": folder}
        code = mcl_hf.cli.pretrain.main([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ----------------------------------------------------------------------------------------------------------------
# in the parent


def wait(child: int) -> int:
    """Exit code of a child, negative for a signal; whatever it started is gone after this."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers that outlive a killed parent by some seconds
    return code


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
        self.options = {**TINY, "max-steps": steps, "data": make_images(root / "images")}
        self.place = Place()
        began = time.perf_counter()
        left_alone = root / "left-alone"
        if wait(start(left_alone, {**self.options, "num-workers": 0}, self.place, Strike(), 0.0)):
            raise SystemExit(left_alone.with_suffix(".txt").read_text())
        self.run_seconds = time.perf_counter() - began
        self.step_seconds = json.loads((left_alone / "log.jsonl").read_text().splitlines()[-1])["seconds"] / steps
        self.expected = contents(left_alone)

    def killed(self, number: int, kind: str, kills: int = 1) -> Row:
        """A run that is killed (once, or on each of several attempts) and then left to finish."""
        folder = self.root / f"killed-{number}-{kills}"
        moments, workers, resumed = [], [], []
        for _ in range(kills):
            workers.append(self.random.choice((0, 2)))
            code, moment = self._one_kill(folder, kind, workers[-1])
            resumed.append(self._resumed_from(folder))
            if code != -signal.SIGKILL:
                return Row(str(number), f"{kind}: ended with {code} before it was killed", "", "", ["not killed"])
            moments.append(f"{kind}: {moment}")
        return self._finish(folder, str(number), moments, workers, resumed[1:])

    def _one_kill(self, folder: Path, kind: str, workers: int) -> tuple[int, str]:
        options = {**self.options, "num-workers": workers, "resume": "auto"}
        if kind != "any time":
            images = self.steps * TINY["batch-size"] // max(1, workers)  # of one worker
            at = {"in a step": self.steps, "in the loader": images, "writing a checkpoint": self.steps // 3}[kind]
            # a later attempt has less than the whole run before it
            strike = Strike(kind, self.random.randint(1, at if not folder.exists() else 2), self.random.random())
            if kind == "in a step" and folder.exists():
                strike.at = self._next_step(folder)
            return wait(start(folder, options, self.place, strike, self.step_seconds)), self.place.words()
        delay = self.random.uniform(0.02, 0.8) * self.run_seconds
        while True:
            child = start(folder, options, self.place, Strike(), self.step_seconds)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)  # ours until it is waited for, also where it has ended
            code = wait(child)
            if code:
                return code, f"after {delay:.2f} s, {self.place.words()}"
            shutil.rmtree(folder)  # it was faster than the run that was left alone: once more, sooner
            delay /= 2

    def _next_step(self, folder: Path) -> int:
        kept = sorted((folder / "checkpoints").glob("step-*"))
        return (int(kept[-1].name[5:]) if kept else 0) + 2

    def signalled(
        self, name: str, number: signal.Signals, expected_code: int, workers: tuple[int, int], to_all: bool = False
    ) -> Row:
        """A run that is asked to stop by a signal in the middle of some step, and continued."""
        folder = self.root / f"{name}-{workers[0]}".replace(" ", "-")
        options = {**self.options, "num-workers": workers[0], "resume": "auto"}
        child = start(folder, options, self.place, Strike(), self.step_seconds)
        first = self.random.randint(2, self.steps - 5)
        while self.place.step() < first:
            time.sleep(self.step_seconds / 10)
        time.sleep(self.random.random() * self.step_seconds)
        moment = self.place.words()
        if number == signal.SIGINT or to_all:  # as a terminal, torchrun and SLURM do
            os.killpg(child, number)
        else:
            os.kill(child, number)
        code = wait(child)
        row = self._finish(folder, name, [f"{moment}; exit code {code}"], [workers[0]], [], last_workers=workers[1])
        row.differs += [f"exit code {code} instead of {expected_code}"] if code != expected_code else []
        return row

    def _finish(
        self, folder: Path, name: str, moments: list[str], workers: list[int], resumed: list[str],
        last_workers: int | None = None,
    ) -> Row:  # fmt: skip
        workers = [*workers, self.random.choice((0, 1, 2)) if last_workers is None else last_workers]
        options = {**self.options, "num-workers": workers[-1], "resume": "auto"}
        code = wait(start(folder, options, self.place, Strike(), self.step_seconds))
        if code:
            print(folder.with_suffix(".txt").read_text(), file=sys.stderr)
            differs = [f"resuming ended with {code}"]
        else:
            found = contents(folder)
            differs = [part for part in self.expected if found[part] != self.expected[part]]
        resumed = [*resumed, self._resumed_from(folder)]
        return Row(name, " / ".join(moments), " -> ".join(map(str, workers)), " / ".join(resumed), differs)

    def _resumed_from(self, folder: Path) -> str:
        text = folder.with_suffix(".txt").read_text() if folder.with_suffix(".txt").exists() else ""
        found = re.search(r"resuming after step (\d+)", text)
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


def as_table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    head = ["run", "killed or stopped", "workers", "resumed from step", "end"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


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
    table = as_table(rows)
    print(f"\n{table}")
    if options.out is not None:
        options.out.write_text(table, encoding="utf-8")
    different = sum(bool(row.differs) for row in rows)
    print(f"{len(rows) - different} of {len(rows)} runs ended with the bytes of the run that was left alone")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
