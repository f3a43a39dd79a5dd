import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mcl_hf.engine import saving
from mcl_hf.engine.optim import build_optimizer
from mcl_hf.engine.resume import find_start
from mcl_hf.engine.saving import check_free_space, take_snapshot, to_drop, write_checkpoint
from mcl_hf.engine.state import (
    TrainingState,
    checkpoint_folder,
    checkpoints,
    damage,
    how_to_go_on,
    load_optimizer,
    newest_whole_checkpoint,
    read_training_state,
    remove_leftovers,
    should_save,
)
from mcl_hf.errors import InputError


class Model(nn.Module):
    """Stands for a transformers model: weights, a config and save_pretrained."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(width)
        self.config = namedtuple("Config", "backbone")("resnet50")

    def save_pretrained(self, folder, state_dict):
        save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, folder / "model.safetensors")


class Processor:
    def save_pretrained(self, folder):
        (folder / "preprocessor_config.json").write_text("{}")


def save(folder, model, optimizer, state, keep_last=0, keep_every=0):
    return write_checkpoint(folder, model, Processor(), take_snapshot(model, optimizer, state), keep_last, keep_every)


def train_one_step(model, optimizer):
    model.norm(model.conv(torch.ones(2, 3, 5, 5))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints, steps 1 to 3."""
    torch.manual_seed(0)
    model = Model()
    optimizer = build_optimizer(model, "adamw", 0.1, 0.01)
    for step in (1, 2, 3):
        train_one_step(model, optimizer)
        save(tmp_path, model, optimizer, TrainingState(step=step, best={"loss": 1.5}), 0)
    return tmp_path, model, optimizer


def test_state_and_optimizer_come_back_in_the_layout_of_the_parameters(saved):
    folder, model, optimizer = saved
    last = checkpoint_folder(folder, 3)
    assert read_training_state(last) == TrainingState(step=3, best={"loss": 1.5})
    fresh = build_optimizer(model, "adamw", 0.1, 0.01)
    load_optimizer(last, model, fresh)
    for p, slots in optimizer.state.items():
        assert fresh.state[p].keys() == slots.keys()
        for name, value in slots.items():
            assert torch.equal(fresh.state[p][name], value)
            assert fresh.state[p][name].stride() == value.stride()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("recipe", [], "recipe must be a mapping, got []"),
        ("step", "3", "step must be a whole number, got '3'"),
        ("seconds", None, "seconds must be a number, got None"),
        ("task", 1, "task must be text, got 1"),
        ("machines", {}, "machines must be a list, got {}"),
        ("machines", ["cpu"], "machines must be a mapping, got 'cpu'"),
        ("best", {"eval_step": "2"}, "best must be a whole number, got '2'"),
        ("versions", {"torch": None}, "versions must be text, got None"),
    ],
)
def test_a_record_of_other_kinds_is_damaged(saved, name, value, told):
    last = checkpoint_folder(saved[0], 3)
    record = json.loads((last / "training_state.json").read_text()) | {"seconds": 2}
    (last / "training_state.json").write_text(json.dumps(record))
    assert read_training_state(last).seconds == 2
    (last / "training_state.json").write_text(json.dumps(record | {name: value}))
    with pytest.raises(InputError, match=re.escape(f"training_state.json is damaged: {told}")):
        read_training_state(last)


def test_keep_last_and_the_relative_link(saved):
    folder, model, optimizer = saved
    save(folder, model, optimizer, TrainingState(step=4), keep_last=2)
    assert [path.name for path in checkpoints(folder)] == ["step-00000003", "step-00000004"]
    link = folder / "checkpoints" / "last"
    assert str(link.readlink()) == "step-00000004"
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert damage(moved / "checkpoints" / "last") is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "training_state.json").write_text("{"), "training_state.json has 1 bytes instead of"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text("not json"), "manifest.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, spoil, reason):
    folder = saved[0]
    spoil(checkpoint_folder(folder, 3))
    found, lines = find_start(folder, "auto")
    assert found == checkpoint_folder(folder, 2)
    assert reason in lines[0] and "using step-00000002 instead" in lines[0]
    with pytest.raises(InputError, match="cannot resume from"):
        find_start(folder, str(checkpoint_folder(folder, 3)))


def edited(change):
    """A manifest that was edited by hand."""

    def spoil(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["files"])
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return spoil


def moved_out(folder):
    shutil.copy(folder / "model.safetensors", folder.parent.parent / "elsewhere.safetensors")
    edited(lambda files: files.update({"../../elsewhere.safetensors": files["model.safetensors"]}))(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (edited(lambda files: files.clear()), "does not list training_state.json"),
        (edited(lambda files: files.pop("model.safetensors")), "does not list model.safetensors"),
        (edited(lambda files: files.update({"model.safetensors": 1})), "manifest.json is damaged"),
        (edited(lambda files: files["model.safetensors"].pop("sha256")), "manifest.json is damaged"),
        (edited(lambda files: files["model.safetensors"].update(bytes="1")), "bytes instead of 1"),
        (moved_out, "elsewhere.safetensors is missing"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (
            lambda f: (f / "manifest.json").write_text('{"files": 3}'),
            "manifest.json is damaged",
        ),
    ],
)
def test_an_edited_manifest_is_a_damaged_checkpoint(saved, spoil, reason):
    folder = saved[0]
    spoil(checkpoint_folder(folder, 3))
    found, [line] = find_start(folder, "auto")
    assert found == checkpoint_folder(folder, 2) and reason in line


def test_no_flipped_bit_of_a_manifest_ends_a_run_or_passes_for_another_file(saved):
    path = checkpoint_folder(saved[0], 3) / "manifest.json"
    whole = path.read_bytes()
    files = json.loads(whole)["files"]
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        assert damage(path.parent) is not None or json.loads(content)["files"] == files


def test_a_renamed_checkpoint_is_passed_over(saved):
    folder = saved[0]
    checkpoint_folder(folder, 3).rename(checkpoint_folder(folder, 7))
    found, [line] = find_start(folder, "auto")
    assert found == checkpoint_folder(folder, 2) and "the checkpoint of step 3: its folder was renamed" in line
    copied = folder / "kept"
    shutil.copytree(checkpoint_folder(folder, 2), copied)
    assert damage(copied) is None  # a name that is no step's says nothing


def test_what_another_system_hides_beside_a_file_damages_nothing(saved):
    folder = checkpoint_folder(saved[0], 3)
    for name in ("._model.safetensors", "._config.json", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert damage(folder) is None


def test_one_changed_byte_is_found(saved):
    path = checkpoint_folder(saved[0], 3) / "training_state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "has changed since it was written" in damage(path.parent)


def test_nothing_whole_is_an_error_not_a_fresh_start(saved):
    folder = saved[0]
    for path in checkpoints(folder):
        (path / "manifest.json").unlink()
    with pytest.raises(InputError, match="no whole checkpoint"):
        find_start(folder, "auto")


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    assert find_start(tmp_path, "never") == (None, [])
    (tmp_path / "log.jsonl").write_text('{"step": 1}')
    assert find_start(tmp_path, "auto") == (None, [])
    assert find_start(tmp_path / "new", "auto") == (None, [])
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(InputError, match="but holds model.safetensors"):
        find_start(tmp_path, "auto")


@pytest.mark.parametrize("broken_call", ["save_file", "_write_manifest", "replace_folder", "link_last"])
def test_a_full_disk_leaves_the_last_good_checkpoint(saved, monkeypatch, broken_call):
    folder, model, optimizer = saved

    def no_space(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, broken_call, no_space)
    with pytest.raises(InputError, match=r"no space left on the disk; the last one before it is step-00000003"):
        save(folder, model, optimizer, TrainingState(step=4), keep_last=1)
    found, _ = newest_whole_checkpoint(folder)
    assert found is not None and damage(checkpoint_folder(folder, 3)) is None
    assert not list((folder / "checkpoints").glob(".step-*"))


def test_a_write_that_the_system_cuts_off_leaves_the_last_good_checkpoint(tmp_path):
    program = f"""
import resource, sys, torch
from pathlib import Path
from mcl_hf.errors import InputError
from mcl_hf.engine.optim import build_optimizer
from mcl_hf.engine.state import TrainingState
from tests.training.test_state import Model, save, train_one_step
folder = Path({str(tmp_path)!r})
model = Model(width=2000)  # 224 kB of weights
optimizer = build_optimizer(model, "sgd", 0.1, 0.0)
save(folder, model, optimizer, TrainingState(step=1), 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(folder, model, optimizer, TrainingState(step=2), 0)
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert "no space left on the disk; the last one before it is step-00000001" in done.stdout
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["last", "step-00000001"]
    assert damage(tmp_path / "checkpoints" / "last") is None


def test_a_run_goes_on_where_a_copy_of_it_followed_the_link(saved):
    folder, model, optimizer = saved
    copy = folder / "copy"
    shutil.copytree(folder / "checkpoints", copy / "checkpoints")
    save(copy, model, optimizer, TrainingState(step=4), keep_last=1)
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["last", "step-00000004"]
    assert str((copy / "checkpoints" / "last").readlink()) == "step-00000004"


def test_disks_without_links_permissions_and_syncing_of_folders_take_checkpoints(saved, tmp_path, monkeypatch):
    def unknown(*_args, **_options):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def files_alone(handle, sync=os.fsync):
        return unknown() if stat.S_ISDIR(os.fstat(handle).st_mode) else sync(handle)

    _, model, optimizer = saved
    monkeypatch.setattr(Path, "symlink_to", unknown)
    monkeypatch.setattr(Path, "chmod", unknown)
    monkeypatch.setattr(os, "fsync", files_alone)
    for step in (1, 2):
        assert damage(save(tmp_path / "elsewhere", model, optimizer, TrainingState(step=step), keep_last=1)) is None
    assert [path.name for path in (tmp_path / "elsewhere" / "checkpoints").iterdir()] == ["step-00000002"]
    with pytest.raises(InputError, match="Operation not supported"):  # there is a link, which would stay behind
        save(tmp_path, model, optimizer, TrainingState(step=4))


def test_an_old_checkpoint_that_cannot_be_deleted_ends_no_run(saved, monkeypatch):
    folder, model, optimizer = saved
    real = os.rmdir

    def busy(path, **options):  # NFS keeps what somebody reads as .nfs... in its folder
        if str(path).endswith("step-00000002"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        save(folder, model, optimizer, TrainingState(step=4), keep_last=1)
    assert [path.name for path in checkpoints(folder)] == ["step-00000002", "step-00000004"]
    save(folder, model, optimizer, TrainingState(step=5), keep_last=1)
    assert [path.name for path in checkpoints(folder)] == ["step-00000005"]


def test_saving_a_step_again_replaces_it(saved):
    folder, model, optimizer = saved
    (checkpoint_folder(folder, 3) / "model.safetensors").write_bytes(b"damaged")
    save(folder, model, optimizer, TrainingState(step=3), 0)
    assert damage(checkpoint_folder(folder, 3)) is None
    assert len(checkpoints(folder)) == 3


def test_leftovers_of_an_interrupted_write_are_removed(saved):
    folder = saved[0]
    (folder / "checkpoints" / ".step-00000009.partial").mkdir()
    remove_leftovers(folder)
    assert not list((folder / "checkpoints").glob(".step-*"))


def test_too_little_space_is_found_before_the_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 500, 500))
    with pytest.raises(InputError, match="0 MB of free disk space"):
        check_free_space(tmp_path, Model(), "adamw", [1], keep_last=3)


def test_space_is_counted_for_every_checkpoint_that_is_kept(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    model = Model()
    tensors = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: usage(0, 0, 9 * tensors))
    steps = list(range(1, 11))
    check_free_space(tmp_path, model, "sgd", steps, keep_last=1)
    check_free_space(tmp_path, model, "sgd", steps, keep_last=1, keep_every=10)
    # 0 keeps all ten; 4 are kept while a fifth is written; five at even steps stay beside one and one being written
    for keep_last, keep_every in ((0, 0), (4, 0), (1, 2)):
        with pytest.raises(InputError, match=r"a smaller --keep-last or a larger --keep-every"):
            check_free_space(tmp_path, model, "sgd", steps, keep_last, keep_every)


def test_optimizer_state_of_another_model_is_refused(saved):
    folder, _, _ = saved
    other = Model(width=5)
    with pytest.raises(InputError, match="of shape"):
        load_optimizer(checkpoint_folder(folder, 3), other, build_optimizer(other, "adamw", 0.1, 0.0))


def test_nothing_is_pickled(saved):
    folder = checkpoint_folder(saved[0], 3)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    assert load_file(folder / "training_state.safetensors")


def test_when_checkpoints_are_due():
    assert [step for step in range(1, 8) if should_save(step, 3, 7)] == [3, 6, 7]
    assert [step for step in range(1, 8) if should_save(step, 0, 7)] == [7]


def test_checkpoints_at_multiples_of_keep_every_stay(tmp_path):
    model = Model()
    optimizer = build_optimizer(model, "sgd", 0.1, 0.0)
    for step in range(2, 14, 2):
        save(tmp_path, model, optimizer, TrainingState(step=step), keep_last=2, keep_every=4)
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["04", "06", "08", "10", "12"]


def test_what_is_dropped():
    assert to_drop([1, 2, 3], newest=3, keep_last=0, keep_every=0) == []
    assert to_drop([1, 2, 3], newest=3, keep_last=1, keep_every=0) == [1, 2]
    assert to_drop([1, 2, 9], newest=2, keep_last=1, keep_every=0) == [1]  # left by a longer attempt, and the newest
    assert to_drop([1, 2, 9], newest=1, keep_last=1, keep_every=0) == [2]


def test_a_run_that_ended_early_goes_on_from_a_checkpoint_if_there_is_one(tmp_path):
    assert how_to_go_on(tmp_path) == "start again with --resume auto (there is no checkpoint yet)"
    checkpoint_folder(tmp_path, 3).mkdir(parents=True)
    assert how_to_go_on(tmp_path) == "continue with --resume auto"


def test_a_fp16_scaler_comes_back_from_json():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=3)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(parameter.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    state = json.loads(json.dumps(scaler.state_dict()))
    fresh = torch.amp.GradScaler("cpu")
    fresh.load_state_dict(state)
    assert fresh.state_dict() == scaler.state_dict() and fresh.get_scale() == 2.0**13
