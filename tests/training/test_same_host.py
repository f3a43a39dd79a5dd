"""Small tensors between processes go through memory that they share, with the values that collectives give."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mcl_hf.engine import same_host
from mcl_hf.models import collectives

from .ranks import run_ranks, said

pytestmark = pytest.mark.skipif(not same_host._SUPPORTED, reason="for Linux on x86_64")
WORLD = 3
CPU = torch.device("cpu")


def start(rank: int) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)


def tensors(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [
        torch.randn(1, 513, generator=generator),
        torch.randn(5, 2, 3, generator=generator, dtype=torch.float64).transpose(1, 2),
        torch.randn(4, 3, generator=generator).bfloat16(),
        torch.randint(9, (7,), generator=generator),
        torch.randint(2, (7,), generator=generator).bool(),
        torch.zeros(0, 4),
        torch.randn(same_host.SLOT_BYTES // 4, generator=generator),
        torch.randn(same_host.SLOT_BYTES // 4 + 1, generator=generator),  # too large: a collective
        torch.tensor([rank]),
    ]


def exchange(rank: int, folder: Path) -> None:
    start(rank)
    same_host._MEMORY = folder
    before = [(collectives.gather(tensor), collectives.total(tensor.float())) for tensor in tensors(rank)]
    with same_host.sharing_memory(rank, WORLD, CPU):
        assert collectives._exchange is not None
        for _ in range(20):
            for tensor, (gathered, total) in zip(tensors(rank), before, strict=True):
                found = collectives.gather(tensor)
                collectives.gather(-tensor.float())  # twice more: what was returned is nobody's to write into
                torch.testing.assert_close(collectives.total(tensor.float()), total)
                assert torch.equal(found, gathered)
        calls = []
        for step in range(200):  # ranks that are late in turn: nobody reads what is not there, or not there any more
            if step % WORLD == rank:
                time.sleep(0.002)
            calls.append(collectives.gather(torch.tensor([step, rank])).tolist())
        assert calls == [[number for other in range(WORLD) for number in (step, other)] for step in range(200)]
    assert collectives._exchange is None
    dist.destroy_process_group()


def test_it_gives_what_collectives_give(tmp_path: Path) -> None:
    codes = run_ranks(exchange, WORLD, tmp_path)

    assert codes == [0] * WORLD, "\n".join(said(tmp_path, rank) for rank in range(WORLD))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rank{rank}.txt" for rank in range(WORLD)]


def not_everywhere(rank: int, folder: Path) -> None:
    start(rank)
    if rank == 1:
        same_host._attach = lambda *_: None  # as on another machine
    with same_host.sharing_memory(rank, WORLD, CPU):
        assert collectives._exchange is None
        assert collectives.gather(torch.tensor([rank])).tolist() == [0, 1, 2]
    dist.destroy_process_group()


def test_all_use_it_or_none(tmp_path: Path) -> None:
    codes = run_ranks(not_everywhere, WORLD, tmp_path)

    assert codes == [0] * WORLD, "\n".join(said(tmp_path, rank) for rank in range(WORLD))


def one_is_killed(rank: int, folder: Path) -> None:
    start(rank)
    with same_host.sharing_memory(rank, WORLD, CPU):
        collectives.gather(torch.tensor([rank]))
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(dist.DistNetworkError, match="rank 2 of this machine has ended"):
            collectives.gather(torch.tensor([rank]))
        if rank == 0:
            time.sleep(2)  # rank 1 is told while rank 0 is there, too
    os._exit(0)  # the group has lost a rank, too


def test_who_waits_for_a_killed_process_is_told(tmp_path: Path) -> None:
    codes = run_ranks(one_is_killed, WORLD, tmp_path, timeout=60)

    assert codes == [0, 0, -signal.SIGKILL], "\n".join(said(tmp_path, rank) for rank in range(WORLD))


def test_one_process_asks_nobody() -> None:
    own = torch.arange(6.0).view(2, 3)
    with same_host.sharing_memory(0, 1, CPU):
        assert torch.equal(collectives.gather(own), own) and torch.equal(collectives.total(own), own)


def test_a_full_disk_of_memory_is_no_error(monkeypatch, tmp_path: Path) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(same_host, "_MEMORY", tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)

    assert same_host._make(2) is None
    assert not list(tmp_path.iterdir())
