"""Several gloo processes equal one; and they end together when one of them dies."""

import importlib
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

import mcl_hf
import mcl_hf.cli.command
from mcl_hf.models.montage import MontageLayout, draw_montages
from mcl_hf.pretraining import step as step_module
from tests.training.conftest import TINY
from tests.training.ranks import run_ranks, said

IMAGES, STEPS = 12, 5  # images of a step over all processes
FRACTIONS = [1, 1 / 4, 1 / 16]
RATIOS = TINY["montage_ratios"]


class BlockMontages:
    """What `blocks` ranks would draw, as one process's montages: those of rank 0, then those of rank 1, ..."""

    def __init__(self, blocks):
        self.blocks, self.calls = blocks, 0

    def __call__(self, num_images, generator):
        (position, side), share = divmod(self.calls, 2), num_images // self.blocks
        self.calls += 1
        seeds = [step_module.counter_seed("montage", 0, position, rank, side) for rank in range(self.blocks)]
        layout = MontageLayout.of(share, RATIOS, FRACTIONS)
        ranks = [draw_montages(layout, torch.Generator().manual_seed(seed)) for seed in seeds]
        return [torch.cat([m + r * share for r, m in enumerate(level)]) for level in zip(*ranks, strict=True)]


class Record:
    """Keeps the loss of every step."""

    def __init__(self):
        self.losses = []

    def on_log(self, run, record):
        self.losses.append(record["loss"])

    def on_end(self, run):
        target = list(run.network.target.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in target)
        assert run.accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))


def normalise_in_float64(run, views):
    return [(view.double() - run.mean.double()) / run.scale.double() for view in views]


def train(rank, folder, photos, dtype, blocks):
    """A run in float64 or float32, as this rank; alone, it does the work of `blocks` ranks."""
    module = importlib.import_module("mcl_hf.pretraining.pretrain")  # the name in the package is the function
    build = module._build_network
    alone = os.environ["WORLD_SIZE"] == "1"

    def build_network(*arguments):
        network = build(*arguments).to(dtype)
        if alone:
            network.draw_montages = BlockMontages(blocks)
        return network

    module._build_network = build_network
    if dtype == torch.float64:
        step_module.normalise = normalise_in_float64
    record = Record()
    counts = MontageLayout.of(IMAGES // blocks, RATIOS, FRACTIONS).counts
    fractions = [1, *((count * blocks + 0.5) / IMAGES for count in counts[1:])] if alone else FRACTIONS
    options = {
        "montage_fractions": fractions, "max_steps": STEPS, "batch_size": None, "global_batch_size": IMAGES,
        "optimizer": "lars", "base_learning_rate": 0.1, "warmup_steps": 0, "queue_size": 8,
        "data": str(photos), "output_dir": str(folder / "run"),
    }  # fmt: skip
    mcl_hf.pretrain(**{**TINY, **options}, callbacks=[record])
    torch.save(record.losses, folder / f"losses{rank}.pt")


@pytest.mark.parametrize(
    ("dtype", "world_size"),
    [
        pytest.param(torch.float64, 2, marks=pytest.mark.slow),
        (torch.float64, 3),
        (torch.float32, 2),
        pytest.param(torch.float32, 3, marks=pytest.mark.slow),
    ],
)
def test_processes_with_a_share_of_the_batch_each_equal_one_with_all_of_it(photos, tmp_path, world_size, dtype):
    folders = {size: tmp_path / str(size) for size in (1, world_size)}
    for size, folder in folders.items():
        codes = run_ranks(train, size, folder, photos, dtype, world_size)
        assert codes == [0] * size, said(folder, 0)
    losses = {size: torch.load(folder / "losses0.pt", weights_only=True) for size, folder in folders.items()}
    weights = {size: load_file(folder / "run/pretraining/model.safetensors") for size, folder in folders.items()}
    by_step = [abs(a - b) for a, b in zip(losses[1], losses[world_size], strict=True)]
    by_tensor = {
        name: (tensor.double() - weights[world_size][name].double()).abs().max().item()
        for name, tensor in weights[1].items()
    }
    parts = {}
    for name, difference in by_tensor.items():
        part = name.split(".")[0]
        parts[part] = max(parts.get(part, 0.0), difference)
    print(f"1 against {world_size} processes, {dtype}: losses by step {by_step}, largest difference of tensors {parts}")
    if dtype == torch.float64:
        assert max(by_step) < 1e-8 and max(by_tensor.values()) < 1e-8
        assert len({round(loss, 6) for loss in losses[1]}) == STEPS  # it has learned something between
    else:
        assert by_step[0] < 1e-4


class Perturb:
    """Gives rank 1 other target weights and other running statistics after the first step."""

    def on_log(self, run, record):
        if record["step"] == 1 and run.accelerator.process_index == 1:
            with torch.no_grad():
                next(run.network.target.parameters()).add_(1.0)
                run.network.mcl.backbone.layer1[0].bn1.running_var.add_(1.0)

    def on_end(self, run):
        target = next(run.network.target.parameters()).detach().mean().reshape(1)
        statistics = run.network.mcl.backbone.layer1[0].bn1.running_var.mean().reshape(1)
        for values, smallest in ((target, 0.5), (statistics, 0.5)):
            one, other = run.accelerator.gather(values).tolist()
            assert other - one > smallest


def perturbed(rank, folder, photos):
    mcl_hf.pretrain(**{**TINY, "max_steps": 2, "data": str(photos), "output_dir": str(folder / "run")},
                    callbacks=[Perturb()])  # fmt: skip


def test_target_and_buffers_are_not_broadcast_and_nothing_warns(photos, tmp_path):
    assert run_ranks(perturbed, 2, tmp_path, photos) == [0, 0], said(tmp_path, 0)
    for rank in range(2):
        assert "FutureWarning" not in said(tmp_path, rank)


class Die:
    """Ends rank 1 in the second step: by SIGKILL, or by an exception."""

    def __init__(self, how):
        self.how = how

    def on_log(self, run, record):
        if record["step"] == 2 and run.accelerator.process_index == 1:
            if self.how == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no such thing\nas luck")


def dying(rank, folder, photos, how):
    code = mcl_hf.cli.command.run_command(lambda argv: _dying(folder, photos, how), [])
    os._exit(code)


def _dying(folder, photos, how):
    mcl_hf.pretrain(**{**TINY, "max_steps": 50, "data": str(photos), "output_dir": str(folder / "run")},
                    callbacks=[Die(how)])  # fmt: skip


@pytest.mark.parametrize("how", ["SIGKILL", "exception"])
def test_a_rank_that_dies_ends_the_others_by_name(photos, tmp_path, how):
    began = time.monotonic()
    codes = run_ranks(dying, 3, tmp_path, photos, how, timeout=100)
    seconds = time.monotonic() - began
    assert codes == [2, -signal.SIGKILL if how == "SIGKILL" else 1, 2], said(tmp_path, 0)
    for rank in (0, 2):
        [line] = [line for line in said(tmp_path, rank).splitlines() if "mcl-hf: error" in line]
        if how == "SIGKILL":
            assert "rank 1 on " in line and "has given no sign of life" in line
        else:
            assert "rank 1" in line and "failed: ValueError: no such thing as luck" in line
        assert f"rank {rank} ends with it" in line
    print(f"{how}: {seconds:.0f} s")
    assert seconds < 60


class Busy:
    """Rank 1 is killed while rank 0 is in no collective, and will not be for long."""

    def on_log(self, run, record):
        if run.accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(100)


def busy(rank, folder, photos):
    from mcl_hf.engine import lifeline

    lifeline.SILENCE_SECONDS, lifeline.SILENCE_AFTER_ERROR_SECONDS, lifeline.GRACE_SECONDS = 5.0, 1.0, 1.0
    mcl_hf.pretrain(**{**TINY, "data": str(photos), "output_dir": str(folder / "run")}, callbacks=[Busy()])


def test_a_rank_that_is_in_no_collective_ends_too(photos, tmp_path):
    assert run_ranks(busy, 2, tmp_path, photos, timeout=60) == [2, -signal.SIGKILL], said(tmp_path, 0)
    assert "rank 1 on " in said(tmp_path, 0) and "has given no sign of life" in said(tmp_path, 0)
