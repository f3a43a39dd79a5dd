"""Two gloo processes: batch norm over both, equal to one process with both images; an empty image on one of them."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mcl_hf.models import convert_cross_rank_norm
from tests.tiny_detector import tiny_detector, tiny_labels

WORLD = 2


def images() -> torch.Tensor:
    return torch.randn(WORLD, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def step(model: torch.nn.Module, pixels: torch.Tensor, labels: list[dict[str, torch.Tensor]]) -> float:
    """Two steps of gradient descent on the same images; the second loss."""
    for _ in range(2):
        loss = model(pixels, labels=labels, generator=torch.Generator().manual_seed(0)).loss
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None
    return loss.item()


def worker(process: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=process, world_size=WORLD)
    torch.set_num_threads(1)
    results = {}
    # RetinaNet samples nothing, so that one process is its exact reference; Mask R-CNN's second rank has no objects
    for detector, counts in (("retinanet", (2, 1)), ("mask_rcnn", (2, 0))):
        model = convert_cross_rank_norm(tiny_detector(detector).double().train())
        model = DistributedDataParallel(model, broadcast_buffers=False)
        labels = [tiny_labels(64, 64, objects=counts[process], seed=process)]
        results[detector] = step(model, images()[process : process + 1], labels), model.module.state_dict()
    torch.save(results, Path(folder) / f"rank{process}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_and_bear_an_empty_image(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path)), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"rank{process}.pt", weights_only=True) for process in range(WORLD)]
    for detector in ("retinanet", "mask_rcnn"):
        for name, tensor in ranks[0][detector][1].items():
            assert tensor.isfinite().all() and torch.allclose(tensor, ranks[1][detector][1][name], atol=1e-12), name
    model = tiny_detector("retinanet").double().train()
    labels = [tiny_labels(64, 64, objects=count, seed=seed) for seed, count in enumerate((2, 1))]
    loss = step(model, images(), labels)
    assert abs(loss - sum(rank["retinanet"][0] for rank in ranks) / WORLD) < 1e-6
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor.double(), ranks[0]["retinanet"][1][name].double(), atol=1e-6), name
