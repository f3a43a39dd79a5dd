"""Runs that end in an error: within seconds, with a line and an exit code, and their workers with them."""

import errno
import multiprocessing
import os
import resource
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch

import mcl_hf
from mcl_hf.cli.command import run_command
from mcl_hf.engine.folder_lock import LOCK, FolderLock
from mcl_hf.errors import InputError
from tests.finetuning.test_finetune import TINY as TINY_DETECTOR
from tests.scenes import write_scenes

from .conftest import TINY
from .ranks import run_ranks, said

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mcl_hf.finetuning.finetune", "mcl_hf.cli.command"])


class At:
    """After the second step, on the main process: note the workers, then do what ends the run."""

    def __init__(self, how: str, folder: Path) -> None:
        self.how, self.folder = how, folder

    def on_log(self, run, record):
        if record["step"] != 2 or not run.accelerator.is_main_process:
            return
        workers = [child.pid for child in multiprocessing.active_children()]
        (self.folder / "workers").write_text(" ".join(map(str, workers)))
        if self.how == "callback":
            raise RuntimeError("a fault in a callback")
        if self.how == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
        if self.how == "stopped":
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGTERM)
        if self.how == "worker":
            os.kill(workers[0], signal.SIGKILL)


def body(rank: int, folder: Path, task: str, how: str, options: dict, start_method: str = "fork") -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method(start_method, force=True)  # of the data workers
    callbacks = [At(how, folder)]
    code = run_command(lambda argv: getattr(mcl_hf, task)(**options, callbacks=callbacks) and 0, [])
    sys.stderr.flush()
    sys.exit(code)


def alone(folder: Path, *arguments) -> None:
    log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    body(0, folder, *arguments)


@pytest.fixture(scope="module")
def options(photos, tmp_path_factory):
    scenes = write_scenes(tmp_path_factory.mktemp("scenes"), 8, width=96, height=72, masks=None)
    endless = {"max_steps": 500, "save_every_steps": 3, "eval_every_steps": 0}
    detector = {**TINY_DETECTOR, "data": str(scenes), "detector": "faster_rcnn", **endless}
    detector["detector_options"] = {k: v for k, v in detector["detector_options"].items() if "mask" not in k}
    return {
        "pretrain": {**TINY, "data": str(photos), "max_steps": 500, "save_every_steps": 3},
        "finetune": detector,
    }


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("disk", 2, "could not be written: there is no space"),
        ("worker", 2, "a process that prepares images is gone"),
        ("callback", 1, "a fault in a callback"),
        ("stopped", 0, ""),  # as it was asked to
    ],
)
def test_an_error_ends_a_run_and_its_workers(options, tmp_path, task, how, code, line):
    given = {**options[task], "output_dir": str(tmp_path / "run"), "num_workers": 2}
    process = _CONTEXT.Process(target=alone, args=(tmp_path, task, how, given))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == code, (tmp_path / "said.txt").read_text()
    assert line in (tmp_path / "said.txt").read_text()
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert len(workers) == 2 and all(gone(pid) for pid in workers)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_end_when_their_process_is_killed(options, tmp_path, start_method):
    given = {**options["pretrain"], "output_dir": str(tmp_path / "run"), "num_workers": 2}
    process = _CONTEXT.Process(target=alone, args=(tmp_path, "pretrain", "", given, start_method))
    process.start()
    noted = tmp_path / "workers"
    while not (noted.exists() and noted.read_text().count(" ") == 1):
        time.sleep(0.05)
    process.kill()
    limit = time.monotonic() + 30
    while not all(gone(int(pid)) for pid in noted.read_text().split()):
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(options, tmp_path, task):
    folder = tmp_path / "run"
    given = {**options[task], "output_dir": str(folder), "num_workers": 1, "resume": "auto"}
    first = _CONTEXT.Process(target=alone, args=(tmp_path, task, "", given))
    first.start()
    while not (tmp_path / "workers").exists():
        time.sleep(0.02)
    with pytest.raises(InputError, match=rf"another run is at work in {folder} \(process {first.pid} on "):
        getattr(mcl_hf, task)(**given)
    first.kill()  # its lock goes with it, though its worker may live a moment longer
    first.join()
    getattr(mcl_hf, task)(**{**given, "num_workers": 0, "max_steps": 3})
    assert not (folder / LOCK).exists()


def test_a_folder_is_one_run_s_among_threads_too(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "link")
    first.acquire()
    with pytest.raises(InputError, match=r"another run is at work in .*link \(this process\)"):
        second.acquire()
    second.close()  # takes nothing from the first
    assert (tmp_path / "run" / LOCK).exists()
    first.close()
    assert second.acquire() is None
    second.close()


def test_a_refused_folder_stays_as_it_was(options, tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match="holds something else than a run"):
        mcl_hf.pretrain(**options["pretrain"], output_dir=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_disk_without_locks_is_warned_of_and_one_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.lockf", no_locks)
        assert "has no locks" in FolderLock(tmp_path).acquire()
    with monkeypatch.context() as patch, closing(FolderLock(tmp_path)) as lock:
        lock.acquire()
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file")))
        lock.close()  # the error that the run ends in is another one
    (tmp_path / LOCK).unlink()
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file")))
    with pytest.raises(InputError, match="cannot be written: Read-only"):
        FolderLock(tmp_path).acquire()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["disk", "worker", "callback"])
def test_an_error_of_one_process_ends_both(options, tmp_path, how):
    given = {**options["pretrain"], "output_dir": str(tmp_path / "run"), "num_workers": 2}
    given |= {"batch_size": None, "global_batch_size": 4}
    start = time.monotonic()
    codes = run_ranks(body, 2, tmp_path, "pretrain", how, given, timeout=90)
    assert time.monotonic() - start < 60 and all(code > 0 for code in codes), (codes, said(tmp_path, 0))
    assert all(gone(int(pid)) for pid in (tmp_path / "workers").read_text().split())
