"""Several processes of one run, as a launcher starts them; forked from a server that has imported everything."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mcl_hf.pretraining.pretrain", "mcl_hf.models", "PIL.Image"])


def run_ranks(
    body: Callable[..., Any], world_size: int, folder: Path, *arguments: Any, timeout: float = 180
) -> list[int]:
    """Call `body(rank, folder, *arguments)` in every process; the exit codes. What they print is in rank<r>.txt."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        _CONTEXT.Process(target=_main, args=(body, rank, world_size, port, folder, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    limit = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def said(folder: Path, rank: int) -> str:
    """What a rank has printed."""
    return (folder / f"rank{rank}.txt").read_text()


def _main(body: Callable[..., Any], rank: int, world_size: int, port: int, folder: Path, arguments: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    log = os.open(folder / f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        body(rank, folder, *arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
