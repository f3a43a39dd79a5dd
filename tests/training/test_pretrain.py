import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

import mcl_hf
from mcl_hf import MCLBackbone, MCLForPreTraining, MCLForSupervisedPreTraining, MCLModel
from mcl_hf.callbacks import CardWriter, RunPictures
from mcl_hf.engine.health import NonFiniteLossError
from mcl_hf.engine.optim import learning_rate, target_momentum
from mcl_hf.errors import InputError
from tests.training.conftest import TINY


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_a_python_call_takes_paths_numbers_of_numpy_and_callbacks_that_come_one_by_one(photos, tmp_path):
    seen = []
    callback = type("Steps", (), {"on_log": lambda self, run, record: seen.append(record["step"])})()
    options = {**TINY, "data": photos, "output_dir": tmp_path / "run", "seed": np.int64(1)}
    result = mcl_hf.pretrain(**options, callbacks=iter([callback]))
    assert seen == [1, 2, 3] and result.output_dir == tmp_path / "run"


def test_a_run_seeds_nothing_that_its_caller_draws_afterwards(tiny_run):
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    tiny_run(max_steps=1)
    assert torch.equal(torch.rand(2), expected)


def test_a_run_computes_as_torch_does_by_itself_whatever_its_caller_has_set(tiny_run):
    expected = weights(tiny_run("plain", max_steps=1).output_dir)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("cpu"), torch.autocast("cpu"):
            found = weights(tiny_run("other", max_steps=1).output_dir)
            assert torch.get_default_dtype() == torch.float64 and torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_tensors(found, expected)


def test_a_run_leaves_a_finished_model_that_opens_through_every_door(tiny_run, read_log):
    result = tiny_run(save_every_steps=2)
    folder = result.output_dir
    assert (result.steps, result.stopped_by) == (3, None)
    slim, whole = MCLModel.from_pretrained(folder), MCLForPreTraining.from_pretrained(folder / "pretraining")
    assert isinstance(AutoModel.from_pretrained(folder), MCLModel)
    assert len(MCLBackbone.from_pretrained(folder)(torch.zeros(1, 3, 64, 64)).feature_maps) == 4
    for name, tensor in slim.state_dict().items():
        assert torch.equal(tensor, whole.mcl.state_dict()[name]), name
    assert not any(name.startswith(("target", "predictors")) for name in weights(folder))
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == list(slim.config.image_mean)
    assert f"# {folder.name}" in (folder / "README.md").read_text()
    last = folder / "checkpoints" / "last" / "training_state.json"
    for record in (folder / "training_state.json", folder / "pretraining" / "training_state.json"):
        assert json.loads(record.read_text()) == json.loads(last.read_text())

    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == ["last", "step-00000002", "step-00000003"]
    assert (folder / "checkpoints" / "last").resolve().name == "step-00000003"
    assert_same_tensors(weights(folder / "pretraining"), weights(folder / "checkpoints" / "last"))
    MCLForPreTraining.from_pretrained(folder / "checkpoints" / "step-00000002")

    records = read_log(folder)
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        assert record["loss"] == pytest.approx(sum(map(sum, record["level_losses"])), rel=1e-5)
        assert len(record["positive_similarity"]) == len(record["feature_std"]) == 3
        assert math.isfinite(record["grad_norm"]) and 0 <= record["data_wait_share"] <= 1
        assert {"learning_rate", "target_momentum", "images_per_second", "seconds"} <= record.keys()


def test_a_finished_run_ends_well_where_its_pictures_cannot_be_drawn(tiny_run, capfd):
    def lose(run, record):
        if record["step"] == 3:
            (run.output_dir / "log.jsonl").unlink()

    folder = tiny_run(callbacks=[SimpleNamespace(on_log=lose), RunPictures(), CardWriter()]).output_dir
    assert "warning: not all pictures were drawn: there is no log at" in capfd.readouterr().out
    assert "## Limitations" in (folder / "README.md").read_text()


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "sgd"])
def test_each_optimizer_moves_the_weights_and_the_target_follows_slowly(tiny_run, optimizer):
    rate = 0.5 if optimizer == "lars" else 0.05
    result = tiny_run(optimizer=optimizer, base_learning_rate=rate, save_every_steps=1, warmup_steps=0, keep_last=0)
    first, last = (weights(result.output_dir / "checkpoints" / f"step-0000000{step}") for step in (1, 3))
    name = "fpn.output.3.conv.weight"
    moved = (last[f"mcl.{name}"] - first[f"mcl.{name}"]).norm()
    followed = (last[f"target.{name}"] - first[f"target.{name}"]).norm()
    assert 0 < followed < 0.2 * moved


def test_a_run_killed_before_it_dropped_an_old_checkpoint_drops_it_when_it_goes_on(tiny_run):
    folder = tiny_run(max_steps=3, save_every_steps=1, keep_last=2).output_dir / "checkpoints"
    shutil.copytree(folder / "step-00000002", folder / "step-00000001")  # as a kill between the two leaves it
    tiny_run(max_steps=3, save_every_steps=1, keep_last=2, resume="auto")
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "lars", "sides_in_turn": True},
        {"optimizer": "sgd", "gradient_accumulation_steps": 2, "queue_size": 12},
        {"objective": "supervised", "num_workers": 1},
        {"augment_on": "device", "num_workers": 1},
    ],
    ids=["adamw", "lars_in_turn", "sgd_accumulated_queue", "supervised", "augmented_on_device"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny_run, read_log, options):
    whole = tiny_run("whole", max_steps=6, save_every_steps=3, **options).output_dir
    # A run of the same recipe that only got as far as its checkpoint of step 3.
    stopper = StopAfter(3)
    part = tiny_run("part", max_steps=6, save_every_steps=3, callbacks=[stopper], **options)
    assert (part.steps, part.stopped_by) == (3, "SIGTERM")
    assert not (part.output_dir / "config.json").exists()
    resumed = tiny_run("part", max_steps=6, save_every_steps=3, resume="auto", **options).output_dir
    assert_same_tensors(weights(whole / "pretraining"), weights(resumed / "pretraining"))
    state = "checkpoints/step-00000006/training_state.safetensors"
    assert_same_tensors(load_file(whole / state), load_file(resumed / state))
    one, other = (
        json.loads((f / "checkpoints/step-00000006/training_state.json").read_text()) for f in (whole, resumed)
    )
    differ = {name for name in one if one[name] != other[name]}
    assert differ == {"seconds", "arguments"} and one["best"] and one["step"] == 6 and one["images_seen"] > 0
    differ = {name for name in one["arguments"] if one["arguments"][name] != other["arguments"][name]}
    assert differ == {"output_dir", "resume"}
    timing = {"images_per_second", "data_wait_share", "seconds", "peak_memory_gib"}
    one, other = ([{k: v for k, v in r.items() if k not in timing} for r in read_log(f)] for f in (whole, resumed))
    assert one == other


class StopAfter:
    """A callback that asks the run to stop after a step, as SIGTERM does."""

    def __init__(self, step):
        self.step = step

    def on_log(self, run, record):
        if record["step"] == self.step - 1:
            run.stop.name = "SIGTERM"


def test_the_target_averages_the_new_weights_and_schedules_count_from_zero(tiny_run, read_log):
    result = tiny_run(max_steps=2, save_every_steps=1, optimizer="sgd", base_learning_rate=3.0, target_momentum=0.9)
    after = weights(result.output_dir / "checkpoints" / "step-00000001")
    torch.manual_seed(0)
    before = MCLForPreTraining(MCLForPreTraining.from_pretrained(result.output_dir / "pretraining").config).state_dict()
    for name in ("fpn.output.3.conv.weight", "backbone.conv1.0.weight"):
        expected = 0.9 * before[f"target.{name}"] + 0.1 * after[f"mcl.{name}"]
        assert not torch.allclose(after[f"target.{name}"], before[f"target.{name}"], rtol=0, atol=1e-6)
        assert torch.allclose(after[f"target.{name}"], expected, rtol=0, atol=1e-7)
    records = read_log(result.output_dir)
    rates = [learning_rate(step, 2, 3.0 * 4 / 256, 1e-6, warmup_steps=0) for step in (0, 1)]
    assert [record["learning_rate"] for record in records] == rates
    assert [record["target_momentum"] for record in records] == [target_momentum(step, 2, 0.9) for step in (0, 1)]


def test_sides_in_turn_and_accumulation_give_the_gradients_of_one_pass(tiny_run):
    plain = tiny_run("plain", max_steps=1, optimizer="sgd", warmup_steps=0)
    in_turn = tiny_run("turn", max_steps=1, optimizer="sgd", warmup_steps=0, sides_in_turn=True)
    for name, tensor in weights(plain.output_dir / "pretraining").items():
        other = weights(in_turn.output_dir / "pretraining")[name]
        assert torch.allclose(tensor, other, rtol=1e-4, atol=1e-6), name
    assert in_turn.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-6)


def test_accumulation_averages_the_gradients_of_consecutive_batches(tiny_run):
    # With a learning rate of nothing SGD's momentum buffer shows the gradients: g1, then 0.9 g1 + g2.
    still = {"optimizer": "sgd", "base_learning_rate": 1e-20, "min_lr": 0.0, "weight_decay": 0.0, "save_every_steps": 1}
    plain = tiny_run("plain", max_steps=2, **still).output_dir / "checkpoints"
    accumulated = tiny_run("accumulated", max_steps=1, gradient_accumulation_steps=2, **still).output_dir
    first, second = (load_file(plain / f"step-0000000{step}" / "training_state.safetensors") for step in (1, 2))
    mean = load_file(accumulated / "checkpoints" / "last" / "training_state.safetensors")
    for name, g1 in first.items():
        g2 = second[name] - 0.9 * g1
        assert torch.allclose(mean[name], (g1 + g2) / 2, rtol=1e-4, atol=1e-5), name
    state = json.loads((accumulated / "checkpoints/last/training_state.json").read_text())
    assert (state["global_batch_size"], state["images_seen"]) == (8, 8)


def test_supervised_objective_takes_labels_from_folders(tiny_run, read_log):
    result = tiny_run(objective="supervised", optimizer="sgd")
    model = MCLForSupervisedPreTraining.from_pretrained(result.output_dir / "pretraining")
    assert model.config.num_labels == 2
    record = read_log(result.output_dir)[-1]
    assert len(record["accuracy"]) == len(record["level_losses"]) == 3
    assert "target_momentum" not in record
    MCLModel.from_pretrained(result.output_dir)


def test_init_starts_from_the_weights_of_another_run(tiny_run, capsys):
    first = tiny_run("first").output_dir
    second = tiny_run("second", init=str(first), max_steps=1, base_learning_rate=1e-12, weight_decay=0).output_dir
    assert re.search(r"weights from .*first: backbone (\d+)/\1, FPN", "".join(capsys.readouterr()))
    name = "backbone.layer1.0.conv1.weight"
    assert torch.allclose(weights(first)[name], weights(second)[name], atol=1e-6)


def test_queue_is_cut_to_what_the_data_allows(tiny_run):
    result = tiny_run(queue_size=1000, max_steps=1)
    config = MCLForPreTraining.from_pretrained(result.output_dir / "pretraining").config
    assert config.queue_size == 24 - 4


def test_a_queue_that_was_cut_stays_when_data_and_batch_change(tiny_run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    options = {"data": str(tmp_path / "photos"), "queue_size": 1000, "max_steps": 2, "resume": "auto"}
    tiny_run(**{**options, "max_steps": 1})
    (tmp_path / "photos" / "dogs" / "00.jpg").unlink()
    result = tiny_run(**options, batch_size=6)
    assert result.steps == 2
    assert MCLForPreTraining.from_pretrained(result.output_dir / "pretraining").config.queue_size == 24 - 4
    with pytest.raises(InputError, match="was trained with queue_size 20"):
        tiny_run(**{**options, "queue_size": 8})


class Poison:
    """Makes the weights NaN after a step, so that the next step's loss is not finite."""

    def __init__(self, after):
        self.after = after

    def on_log(self, run, record):
        if record["step"] == self.after:
            run.network.predictors[0].mlp[0].weight.data[0, 0] = float("nan")


def test_statistics_come_with_the_weights_and_stay_when_resumed(tiny_run, tmp_path, capsys):
    own = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    start = tiny_run("start", max_steps=1, **own).output_dir
    capsys.readouterr()

    def statistics(folder):
        described = json.loads((folder / "config.json").read_text())
        return {name: described[name] for name in own}

    options = {"init": str(start), "save_every_steps": 1}
    run = tiny_run("run", max_steps=1, **options).output_dir
    assert statistics(run) == own and "pixels with its mean [0.5, 0.5, 0.5]" in capsys.readouterr().out
    assert json.loads((run / "preprocessor_config.json").read_text())["image_std"] == own["image_std"]
    shutil.rmtree(start)
    for name in ("config.json", "model.safetensors"):
        (run / name).unlink()
    assert statistics(tiny_run("run", max_steps=2, resume="auto", **options).output_dir) == own
    given = tiny_run("given", max_steps=1, init=str(run / "pretraining"), image_mean=[0.1, 0.2, 0.3]).output_dir
    assert statistics(given) == {"image_mean": [0.1, 0.2, 0.3], "image_std": own["image_std"]}
    assert "warning: its pixels had mean [0.5, 0.5, 0.5]" in capsys.readouterr().out


def test_a_non_finite_loss_stops_the_run_and_saves_nothing_broken(tiny_run, tmp_path):
    with pytest.raises(NonFiniteLossError, match="since step 4: .*samples of that step on rank 0: ") as caught:
        tiny_run(max_steps=6, save_every_steps=2, callbacks=[Poison(after=3)])
    assert "\n" not in str(caught.value)
    run = tmp_path / "run"
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["last", "step-00000002"]
    saved = weights(run / "checkpoints" / "last").values()
    assert all(torch.isfinite(tensor).all() for tensor in saved if tensor.is_floating_point())
    recent = json.loads((run / "non-finite-samples-rank0.json").read_text())
    assert recent[-1]["step"] == 4 and len(recent[-1]["sample_ids"]) == 4
    # What the message says: it goes on from the last whole checkpoint.
    assert tiny_run(max_steps=6, resume="auto").steps == 6


def test_weights_that_are_not_finite_are_not_saved(tiny_run, tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"not finite after step 2 \(predictors\.0"):
        tiny_run(max_steps=6, save_every_steps=2, callbacks=[Poison(after=2)])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_update_that_is_not_finite_reaches_neither_weights_nor_momentum(tiny_run):
    class Watch(Poison):
        def on_log(self, run, record):
            super().on_log(run, record)
            self.run = run

    watch = Watch(after=2)
    with pytest.raises(NonFiniteLossError):
        tiny_run(max_steps=8, log_every_steps=2, save_every_steps=0, callbacks=[watch])
    spoilt = watch.run.network.predictors[0].mlp[0].weight
    assert torch.isnan(spoilt).sum() == 1  # the one that the test set, and no other weight
    others = [p for p in watch.run.network.parameters() if p is not spoilt]
    assert all(torch.isfinite(p).all() for p in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": ""}, "output_dir is empty"),
        ({"backbone": "resnet99"}, "resnet99"),
        ({"batch_size": 64}, "data set holds 24"),
        ({"label_column": "species"}, "species"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"report_to": ["mlflow"]}, "no tracker 'mlflow'"),
        ({"init": "no/such/place"}, "--init"),
        ({"resume": "nowhere"}, "cannot resume from nowhere"),
        ({"num_channels": 5}, "num_channels is 5, and the first image, "),
        ({"min_crop_scale": 0.0}, "min_crop_scale must be above 0"),
        ({"tile": 4}, "tile must be at least 16"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(tiny_run, tmp_path, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny_run(**options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/checkpoints"))


def test_a_folder_with_a_run_in_it_is_left_alone(tiny_run):
    folder = tiny_run(max_steps=1).output_dir
    before = weights(folder)
    with pytest.raises(InputError, match="already holds a run .*--resume auto"):
        tiny_run(max_steps=1, seed=1)
    assert_same_tensors(before, weights(folder))


def test_unreadable_images_between_the_log_and_the_checkpoint_are_counted_once(tiny_run, photos, tmp_path, read_log):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    for number in range(3):
        (data / "cats" / f"broken{number}.jpg").write_bytes(b"<html>not found</html>")
    shape = {"data": str(data), "max_broken": 0.9, "max_steps": 8, "log_every_steps": 4, "save_every_steps": 3}
    whole = tiny_run("whole", **shape).output_dir
    for step in (3, 6):  # between two lines of the log
        part = tmp_path / f"part{step}"
        shutil.copytree(whole / "checkpoints" / f"step-0000000{step}", part / "checkpoints" / f"step-0000000{step}")
        resumed = read_log(tiny_run(part.name, resume="auto", num_workers=1, **shape).output_dir)
        expected = read_log(whole)[-len(resumed) :]
        for name in ("step", "broken_images", "loss"):
            assert [line[name] for line in resumed] == [line[name] for line in expected]
        assert [line.get("broken") for line in resumed] == [line.get("broken") for line in expected]
    assert read_log(whole)[-1]["broken_images"] > 1


def test_resuming_names_what_changed(tiny_run, capfd):
    tiny_run(max_steps=2)
    with pytest.raises(InputError, match=r"fpn_channels 8 \(now 16\)"):
        tiny_run(max_steps=4, resume="auto", fpn_channels=16)
    with pytest.raises(InputError, match="optimizer adamw, now it is sgd"):
        tiny_run(max_steps=4, resume="auto", optimizer="sgd")
    with pytest.raises(InputError, match="beyond the 1 steps"):
        tiny_run(max_steps=1, resume="auto")
    assert tiny_run(max_steps=3, resume="auto", base_learning_rate=1e-4).steps == 3
    captured = capfd.readouterr()
    assert "resuming with another base_learning_rate" in captured.out + captured.err


def test_trackers_get_the_numbers_of_the_log(tiny_run, read_log):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tiny_run(report_to=["tensorboard"]).output_dir
    events = EventAccumulator(str(folder / "tensorboard" / "mcl_hf"))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([record["loss"] for record in read_log(folder)])


def test_sigterm_finishes_the_step_saves_and_says_so(photos, tmp_path, repository):
    program = f"""
import os, signal, mcl_hf
from tests.training.conftest import TINY
class Kill:
    def on_log(self, run, record):
        if record["step"] == 2: os.kill(os.getpid(), signal.SIGTERM)
options = {{**TINY, "max_steps": 50, "data": {str(photos)!r}, "output_dir": {str(tmp_path / "run")!r}}}
result = mcl_hf.pretrain(**options, callbacks=[Kill()])
print("stopped by", result.stopped_by, "after", result.steps)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "stopped by SIGTERM after 3" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "step-00000003" / "manifest.json").exists()


def test_an_unreadable_image_is_counted_and_named(tiny_run, photos, tmp_path, read_log):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "cats" / "broken.jpg").write_bytes(b"<html>not found</html>")
    records = read_log(tiny_run(data=str(data), max_steps=6, max_broken=0.5).output_dir)
    assert records[-1]["broken_images"] == 1
    assert "broken.jpg" in next(record["broken"] for record in records if "broken" in record)[0]


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(photos, tmp_path, repository):
    program = tmp_path / "launched.py"
    program.write_text(
        f"""
import sys, torch
sys.path.insert(0, {str(repository)!r})
import mcl_hf
from tests.training.conftest import TINY

class Compare:
    def on_end(self, run):
        assert run.accelerator.num_processes == 2
        for name, tensor in run.network.state_dict().items():
            if tensor.is_floating_point():
                assert torch.isfinite(tensor).all(), name
                gathered = run.accelerator.gather(tensor.reshape(1, -1).contiguous())
                assert torch.equal(gathered[0], gathered[1]), name
        if run.accelerator.is_main_process:
            print("equal on both ranks")

mcl_hf.pretrain(**{{**TINY, "data": {str(photos)!r}, "output_dir": {str(tmp_path / "run")!r}, "queue_size": 8,
    "save_every_steps": 2, "gradient_accumulation_steps": 2, "sides_in_turn": True,
    "device": "auto"}}, callbacks=[Compare()])
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        launch, cwd=repository, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal on both ranks" in done.stdout
    state = json.loads((tmp_path / "run/checkpoints/last/training_state.json").read_text())
    assert (state["world_size"], state["global_batch_size"]) == (2, 16)


class _SourceThatGoes:
    """A source whose shards are gone from the `last`-th read on."""

    def __init__(self, source, last):
        self.source, self.left = source, last

    def __call__(self, index):
        self.left -= 1
        if self.left < 0:
            raise InputError("https://example.org/part-003.tar is not there (HTTP 404).")
        return type(self.source).sample(self.source, index)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_source_that_goes_leaves_the_last_step_saved_and_the_resumed_run_is_exact(
    tiny_run, tmp_path, monkeypatch, read_log, parts
):
    module = importlib.import_module("mcl_hf.pretraining.run_data")
    shape = {"max_steps": 6, "save_every_steps": 2, "gradient_accumulation_steps": parts}
    whole = read_log(tiny_run("whole", **shape).output_dir)
    plain = module.open_source

    def going(*arguments, **options):
        source = plain(*arguments, **options)
        source.sample = _SourceThatGoes(source, {1: 14, 2: 30}[parts])  # in the fourth step; of two parts in the second
        return source

    monkeypatch.setattr(module, "open_source", going)
    with pytest.raises(InputError, match="part-003.tar is not there"):
        tiny_run("run", **shape)
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    monkeypatch.setattr(module, "open_source", plain)
    resumed = read_log(tiny_run("run", resume="auto", **shape).output_dir)
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    assert_same_tensors(weights(tmp_path / "run" / "pretraining"), weights(tmp_path / "whole" / "pretraining"))


def test_a_stream_and_a_mix_resume_exactly(tiny_run, photos, tmp_path, read_log):
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for path in sorted(photos.rglob("*.jpg")):
            archive.add(path, arcname=path.name)
    shape = {"data": [f"{tmp_path}/photos.tar=0.5", f"{photos}=0.5"], "max_steps": 4, "save_every_steps": 2}
    for tile, name in ((None, "pictures"), (32, "tiles")):
        whole = tiny_run(f"whole-{name}", tile=tile, **shape).output_dir
        shutil.copytree(whole / "checkpoints" / "step-00000002", tmp_path / name / "checkpoints" / "step-00000002")
        part = tiny_run(name, tile=tile, resume="auto", num_workers=1, **shape).output_dir
        assert [line["loss"] for line in read_log(part)] == [line["loss"] for line in read_log(whole)[2:]]


def test_tiles_of_one_picture_alone_are_refused(tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (200, 200)).save(tmp_path / "in" / "one.png")
    with pytest.raises(InputError, match="all 36 tiles are of one picture"):
        tiny_run(data=str(tmp_path / "in"), tile=32)


@pytest.mark.slow
def test_when_one_of_two_processes_loses_its_data_the_last_step_is_saved(photos, tmp_path, repository):
    program = tmp_path / "launched.py"
    program.write_text(
        f"""
import importlib, os, sys
sys.path.insert(0, {str(repository)!r})
import mcl_hf
from mcl_hf.errors import InputError
from tests.training.conftest import TINY
module = importlib.import_module("mcl_hf.pretraining.run_data")
plain = module.open_source

def going(*arguments, **options):
    source = plain(*arguments, **options)
    if os.environ["RANK"] == "1":
        left = iter(range(10))  # into the third step
        def sample(index):
            if next(left, None) is None:
                raise InputError("part-003.tar is not there")
            return type(source).sample(source, index)
        source.sample = sample
    return source

module.open_source = going
try:
    mcl_hf.pretrain(**{{**TINY, "data": {str(photos)!r}, "output_dir": {str(tmp_path / "run")!r}, "max_steps": 9,
        "save_every_steps": 100}})
except InputError as error:
    print(f"rank {{os.environ['RANK']}}: {{error}}", flush=True)
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        launch, cwd=repository, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0: the data of another process could not be read" in done.stdout
    assert "rank 1: part-003.tar is not there" in done.stdout
    state = json.loads((tmp_path / "run/checkpoints/last/training_state.json").read_text())
    assert (state["world_size"], state["step"]) == (2, 2)


def test_what_a_first_run_should_know_is_said(tiny_run, capfd, tmp_path):
    tiny_run(max_steps=2, warmup_steps=5)
    captured = capfd.readouterr()
    assert "warning: warmup_steps 5 is longer than the run's 2 steps" in captured.out + captured.err
    with pytest.raises(NonFiniteLossError, match=r"start again with --resume auto \(there is no checkpoint yet\)"):
        tiny_run("spoilt", callbacks=[Poison(after=1)])
    assert tiny_run("spoilt", resume="auto").steps == 3  # as the message says


def test_one_group_for_all_images_is_refused(photos, tmp_path, tiny_run):
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in photos.rglob("*.jpg"):
        (flat / image.name).write_bytes(image.read_bytes())
    with pytest.raises(InputError, match="all 24 images are in one group of 'folder'"):
        tiny_run(data=str(flat), group_column="folder")
