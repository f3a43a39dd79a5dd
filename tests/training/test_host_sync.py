"""Steps between two log lines never wait for the device: the whole loop runs on a device that cannot answer."""

import contextlib
import importlib

import pytest
import torch
from torch.utils._pytree import tree_leaves

import mcl_hf
from mcl_hf import MCLForPreTraining
from mcl_hf.engine.health import NonFiniteLossError
from mcl_hf.pretraining.step import train_step

from .host_sync import DEVICE, HostSyncs


def steps_until_first_sync(tmp_path, monkeypatch, step=train_step, **options) -> tuple[int, list[str]]:
    """Train until the host asks the device for something: steps done, and what it asked."""
    steps = []

    def counted(*args):
        steps.append(args)
        return step(*args)

    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", DEVICE.type)
    module = importlib.import_module("mcl_hf.pretraining.pretrain")  # the name in the package is the function
    monkeypatch.setattr(module, "train_step", counted)
    syncs = HostSyncs()
    # The guard's first question, whether every loss was finite, gets a zero for an answer: "not since step 0".
    with pytest.raises(NonFiniteLossError), syncs:
        mcl_hf.pretrain(
            data="photos",
            output_dir=str(tmp_path / "run"),
            backbone="resnet10t",
            fpn_channels=16,
            hidden_dim=32,
            embedding_dim=16,
            region_size=2,
            batch_size=4,
            max_steps=8,
            log_every_steps=4,
            save_every_steps=0,
            num_workers=0,
            callbacks=(),  # probes and pictures read values between the steps
            optimizer="lars",  # torch's fused optimizers refuse the meta device
            **options,
        )
    return len(steps), syncs.found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sides_in_turn": True, "activation_checkpointing": True},
        {"gradient_accumulation_steps": 2, "queue_size": 64},
        {"region_scope": "published", "channels_last": False},
        {"augment_on": "device"},
    ],
    ids=["default", "little memory", "accumulation and queue", "published", "augmented there"],
)
def test_no_step_between_two_log_lines_waits_for_the_device(tmp_path, monkeypatch, options):
    steps, found = steps_until_first_sync(tmp_path, monkeypatch, **options)
    assert steps == 4  # the first log line is due after it
    assert len(found) == 1 and "health.py" in found[0], found


def test_all_that_the_model_is_handed_lies_on_the_device(tmp_path, monkeypatch):
    """DDP copies the rest there by itself, and makes the host wait for it; one process alone does not show that."""
    handed = []
    forward = MCLForPreTraining.forward

    def looked_at(model, *args, **options):
        handed.extend(leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor))
        return forward(model, *args, **options)

    monkeypatch.setattr(MCLForPreTraining, "forward", looked_at)
    steps_until_first_sync(tmp_path, monkeypatch, queue_size=64)
    assert len(handed) == 4 * (2 * 4 + 2 * 3 + 1)  # views, montages and ids of four steps
    assert {tensor.device.type for tensor in handed} == {DEVICE.type}


def test_a_step_that_reads_a_value_is_caught(tmp_path, monkeypatch):
    def reading(run, *rest):
        outputs = train_step(run, *rest)
        float(outputs["loss"].detach())
        return outputs

    _, found = steps_until_first_sync(tmp_path, monkeypatch, step=reading)
    assert len(found) == 5 and all("_local_scalar_dense" in line for line in found), found


def test_other_ways_to_ask_are_caught():
    values = torch.ones(3, device=DEVICE)
    for ask in (torch.Tensor.cpu, torch.Tensor.tolist, torch.nonzero, lambda x: x[x > 0]):
        with HostSyncs() as syncs, contextlib.suppress(NotImplementedError, RuntimeError):
            ask(values)
        assert syncs.found, ask
