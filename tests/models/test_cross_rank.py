"""Two gloo processes with half the batch each equal one process with the whole batch."""

import copy
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mcl_hf import MCLForPreTraining
from mcl_hf.models import convert_cross_rank_norm, gather, rank, world_size

from .tiny import tiny_batch, tiny_config

NUM_IMAGES, WORLD, STEPS = 8, 2, 3


def build(queue_size: int = 6) -> MCLForPreTraining:
    torch.manual_seed(0)
    return MCLForPreTraining(tiny_config(queue_size=queue_size)).double().train()


def rank_montages(of_rank: int) -> dict[str, list[torch.Tensor]]:
    """Montages of one rank's half of the batch, naming its own images 0 to N/2 - 1."""
    model = build()
    return {
        f"montage_{side}": model.draw_montages(NUM_IMAGES // WORLD, torch.Generator().manual_seed(10 * of_rank + index))
        for index, side in enumerate("ab")
    }


def train(model: torch.nn.Module, batch: dict, groups: torch.Tensor) -> list[float]:
    """A few SGD and EMA steps; the loss of each."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    losses = []
    for _ in range(STEPS):
        loss = model(**batch, group_ids=groups).loss
        loss.backward()
        with torch.no_grad():
            for parameter in inner.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
        inner.update_target(0.9)
        losses.append(loss.item())
    return losses


def worker(process: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=process, world_size=WORLD)
    torch.set_num_threads(1)
    assert (rank(), world_size()) == (process, WORLD)
    assert gather(torch.tensor([process])).tolist() == [0, 1]
    model = DistributedDataParallel(convert_cross_rank_norm(build()), broadcast_buffers=False)
    share = slice(process * NUM_IMAGES // WORLD, (process + 1) * NUM_IMAGES // WORLD)
    whole = tiny_batch(model.module.config, NUM_IMAGES, torch.float64)
    batch = {name: [view[share] for view in views] for name, views in whole.items()}
    groups = torch.arange(NUM_IMAGES)[share] // 3
    losses = train(model, {**batch, **rank_montages(process)}, groups)
    torch.save({"losses": losses, "state": model.module.state_dict()}, Path(folder) / f"rank{process}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(worker, (free_port(), str(tmp_path)), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"rank{process}.pt", weights_only=True) for process in range(WORLD)]

    # One process with the same montages, laid out in rank blocks: rank 1's cells name images N/2 to N - 1.
    per_rank = [rank_montages(process) for process in range(WORLD)]
    offset = NUM_IMAGES // WORLD
    montages = {
        side: [torch.cat([a, b + offset]) for a, b in zip(per_rank[0][side], per_rank[1][side], strict=True)]
        for side in per_rank[0]
    }
    model = build()
    counts = [len(m) // r**2 / NUM_IMAGES for m, r in zip(montages["montage_a"], (2, 4, 8), strict=True)]
    model.config.montage_fractions = [1, *counts]
    batch = tiny_batch(model.config, NUM_IMAGES, torch.float64)
    losses = train(model, {**batch, **montages}, torch.arange(NUM_IMAGES) // 3)

    assert torch.tensor([r["losses"] for r in ranks], dtype=torch.float64).mean(dim=0).tolist() == pytest.approx(
        losses, abs=1e-8
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name]), name
        assert torch.allclose(ranks[0]["state"][name].double(), tensor.double(), atol=1e-8), name


def test_conversion_keeps_names_and_eval_mode() -> None:
    model = build().eval()
    names, batch = list(model.state_dict()), tiny_batch(model.config, 4, torch.float64)
    montages = {f"montage_{side}": model.draw_montages(4, torch.Generator().manual_seed(0)) for side in "ab"}
    expected = model(**batch, **montages).loss
    converted = convert_cross_rank_norm(model)
    assert list(converted.state_dict()) == names
    assert torch.equal(converted(**batch, **montages).loss, expected)


def test_networks_that_will_be_compiled_get_norms_that_can_be_traced() -> None:
    model = build()
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for compiled in (False, True):
        converted = dict(convert_cross_rank_norm(copy.deepcopy(model), "cuda", compiled).named_modules())
        assert {isinstance(converted[name], nn.SyncBatchNorm) for name in norms} == {not compiled}
        if compiled:
            assert {type(converted[name]).__module__ for name in norms} == {"mcl_hf.models.cross_rank_norm"}


def every_norm() -> nn.Module:
    """One of each kind, with and without scale and shift."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        BatchNormAct2d(4),
        nn.Flatten(),
        nn.Linear(4 * 16, 4),
        nn.BatchNorm1d(4, affine=False),
    )


def compiling_worker(process: int, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=process, world_size=WORLD)
    torch.set_num_threads(1)
    plain, compiled = (convert_cross_rank_norm(every_norm(), "cuda", compiled=True) for _ in range(2))
    compiled.compile(backend="aot_eager", fullgraph=True)  # a cut in the graph is an error
    for images in (2, 3):  # the second shape is traced with sizes that vary
        pixels = torch.randn(images, 3, 6, 6, generator=torch.Generator().manual_seed(process))
        weights = torch.linspace(-1, 1, 4)  # the plain sum of normalised values has no gradient
        for network in (plain, compiled):
            (network(pixels).pow(3) * weights).sum().backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name
    assert plain[0].weight.grad.abs().max() > 1e-3
    for (name, one), other in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name
    dist.destroy_process_group()


def test_compiled_norms_are_one_graph_over_two_processes() -> None:
    mp.spawn(compiling_worker, (free_port(),), nprocs=WORLD)


def uneven_worker(process: int, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=process, world_size=WORLD)
    torch.set_num_threads(1)
    whole = 1e3 + torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(whole.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for first in (5, 3):  # images of rank 0; rank 1 may have none
        share = slice(0, first) if process == 0 else slice(first, None)
        joint = convert_cross_rank_norm(nn.Sequential(nn.BatchNorm2d(4)).double())
        plain = nn.BatchNorm2d(4).double()
        for norm in (joint[0], plain):
            nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(2))
        own, every = whole[share].clone().requires_grad_(), whole.clone().requires_grad_()
        (joint(own).pow(2) * weights[share]).sum().backward()
        (plain(every).pow(2) * weights).sum().backward()
        torch.testing.assert_close(joint(own), plain(every)[share])
        torch.testing.assert_close(own.grad, every.grad[share])
        dist.all_reduce(joint[0].weight.grad)
        torch.testing.assert_close(joint[0].weight.grad, plain.weight.grad)
        torch.testing.assert_close(joint[0].running_var, plain.running_var)
        torch.testing.assert_close(joint[0].running_mean, plain.running_mean)
    dist.destroy_process_group()


def test_ranks_may_have_different_numbers_of_images_or_none() -> None:
    mp.spawn(uneven_worker, (free_port(),), nprocs=WORLD)
