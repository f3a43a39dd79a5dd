import errno
import os
import threading

import pytest
import torch
from safetensors.torch import load_file

from mcl_hf.engine import saving
from mcl_hf.engine.optim import build_optimizer
from mcl_hf.engine.saving import CheckpointWriter
from mcl_hf.engine.state import TrainingState, checkpoint_folder, checkpoints, damage, read_training_state
from mcl_hf.errors import InputError
from tests.training.test_state import Model, Processor, train_one_step


class Gate:
    """Stands before a function: calls wait until the gate is open."""

    def __init__(self, function):
        self.function, self.opened = function, threading.Event()

    def __call__(self, *arguments):
        assert self.opened.wait(timeout=60)
        return self.function(*arguments)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def optimizer(model):
    optimizer = build_optimizer(model, "adamw", 0.1, 0.01)
    train_one_step(model, optimizer)
    return optimizer


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(tmp_path, model, optimizer, monkeypatch):
    gate = Gate(saving._write_manifest)
    monkeypatch.setattr(saving, "_write_manifest", gate)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {p: optimizer.state[p]["exp_avg"].clone() for p in model.parameters()}
    state = TrainingState(step=1, best={"loss": 2.0})
    with CheckpointWriter(tmp_path) as writer:
        writer.start(model, Processor(), optimizer, state)
        train_one_step(model, optimizer)  # while the write stands at the gate
        state.step, state.best["loss"] = 2, 1.0
        assert writer.poll() is None and checkpoints(tmp_path) == []
        gate.opened.set()
        folder = writer.wait()
        assert writer.wait() is None
    assert folder == checkpoint_folder(tmp_path, 1) and damage(folder) is None
    assert not torch.equal(weights["conv.weight"], model.conv.weight)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), name
    saved = load_file(folder / "training_state.safetensors")
    for name, p in model.named_parameters():
        assert torch.equal(saved[f"optimizer/exp_avg/{name}"], moments[p])
    assert read_training_state(folder) == TrainingState(step=1, best={"loss": 2.0})


def no_space(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_raises_its_line_where_it_is_asked_for(tmp_path, model, optimizer, monkeypatch):
    with CheckpointWriter(tmp_path) as writer:
        writer.start(model, Processor(), optimizer, TrainingState(step=1))
        writer.wait()
        monkeypatch.setattr(saving, "save_file", no_space)
        writer.start(model, Processor(), optimizer, TrainingState(step=2))
        with pytest.raises(InputError, match="no space left on the disk; the last one before it is step-00000001"):
            writer.wait()


def test_leaving_waits_and_loses_no_error(tmp_path, model, optimizer, monkeypatch):
    with CheckpointWriter(tmp_path) as writer:
        writer.start(model, Processor(), optimizer, TrainingState(step=1))
    assert damage(checkpoint_folder(tmp_path, 1)) is None
    monkeypatch.setattr(saving, "save_file", no_space)
    with pytest.raises(InputError, match="no space left"), CheckpointWriter(tmp_path) as writer:
        writer.start(model, Processor(), optimizer, TrainingState(step=2))
    with pytest.raises(KeyError) as caught, CheckpointWriter(tmp_path) as writer:
        writer.start(model, Processor(), optimizer, TrainingState(step=2))
        raise KeyError("first")
    assert "no space left" in caught.value.__notes__[0]


def test_files_get_the_usual_permissions_and_the_writing_thread_leaves_the_mask_alone(tmp_path, monkeypatch):
    usual, closed = tmp_path / "usual", tmp_path / "closed"
    for path in (usual, closed):
        path.write_text("")
    closed.chmod(0o600)
    monkeypatch.delattr(os, "umask")  # to ask for it is to set it, for the training thread as well
    saving.fsync(closed)
    assert closed.stat().st_mode == usual.stat().st_mode
