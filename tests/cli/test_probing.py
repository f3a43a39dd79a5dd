"""A run with probes: the same run, bit for bit, and what its log says; `mcl-hf probe` on what it leaves behind."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mcl_hf import pretrain
from mcl_hf.callbacks.probes import RunProbe, is_due
from mcl_hf.cli import main
from mcl_hf.pretraining.arguments import load_arguments
from tests.scenes import write_scenes

TINY = {
    "recipe": "demo", "batch_size": 8, "num_workers": 0, "log_every_steps": 1, "fpn_channels": 16, "hidden_dim": 32,
    "embedding_dim": 16, "region_size": 2, "region_convs": 1, "device": "cpu", "probe_images": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 16, num_classes=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, scenes):
    """Runs of three steps: one without probes, one with unlabelled, one with labelled ones; name -> folder."""
    root = tmp_path_factory.mktemp("runs")
    options = {
        "none": {"probe_every_steps": -1},
        "views": {"probe_every_steps": 2},
        "objects": {"probe_every_steps": 1, "probe_data": str(scenes)},
    }
    torch.set_num_threads(1)
    for name, more in options.items():
        arguments = load_arguments(**{**TINY, **more}, max_steps=3, output_dir=str(root / name))
        pretrain(arguments, callbacks=[RunProbe(arguments)])
    return root


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_probed_run_is_the_unprobed_one_bit_for_bit(run):
    plain = load_file(run / "none" / "checkpoints" / "last" / "model.safetensors")
    for name in ("views", "objects"):
        probed = load_file(run / name / "checkpoints" / "last" / "model.safetensors")
        assert plain.keys() == probed.keys()
        assert all(torch.equal(tensor, probed[key]) for key, tensor in plain.items())  # batch-norm buffers included
        assert [one["loss"] for one in log_of(run / name)] == [one["loss"] for one in log_of(run / "none")]


def test_results_are_in_the_log_and_the_best_one_in_the_checkpoint(run):
    assert not any(key.startswith("probe/") for one in log_of(run / "none") for key in one)
    views, objects = log_of(run / "views"), log_of(run / "objects")
    assert [one["step"] for one in views if "probe/same_level" in one] == [2, 3]  # the last step always
    assert views[-1]["probe/chance"] == 1 / 8 and 0 < views[-1]["probe/share_of_time"] <= 1
    names = {"knn", "linear", "same_level", "other_level", "chance", "level_chance", "share_of_time"}
    assert all({f"probe/{name}" for name in names} <= one.keys() for one in objects)
    state = json.loads((run / "objects" / "checkpoints" / "last" / "training_state.json").read_text())
    assert state["best"]["probe"] == max(one["probe/knn"] for one in objects)
    assert state["best"]["probe_step"] in (1, 2, 3) and "loss" in state["best"]


def test_left_to_itself_a_probe_waits_until_it_is_cheap(tmp_path):
    """Three steps leave no time for it; with the bound lifted, it runs once there has been a record before."""
    arguments = load_arguments(**TINY, max_steps=3, output_dir=str(tmp_path / "run"))
    pretrain(arguments, callbacks=[RunProbe(arguments)])
    assert not any("probe/same_level" in one for one in log_of(tmp_path / "run"))


def test_the_share_of_time_is_kept(tmp_path, monkeypatch):
    """With a clock of its own: steps of 10 s, probes of 4 s; 1.5 % allows one in 267 s."""
    from types import SimpleNamespace

    from mcl_hf.callbacks import probes as probing

    clock = [0.0]
    monkeypatch.setattr(probing.time, "perf_counter", lambda: clock[0])
    arguments = load_arguments(**TINY, max_steps=100, output_dir=str(tmp_path))
    probe = RunProbe(arguments)

    class Slow:
        def measure(self, model, names):
            clock[0] += 4.0
            return {"chance": 0.1, "features": {"region_head": {"same_level": 0.5, "other_level": None}}}

    probe._probe = Slow()
    run = SimpleNamespace(
        arguments=arguments,
        state=SimpleNamespace(step=0, max_steps=100, best={}, global_batch_size=20),
        network=SimpleNamespace(mcl=None),
        accelerator=SimpleNamespace(is_main_process=True, num_processes=1, autocast=torch.no_grad),
    )
    probed = []
    for _ in range(100):
        clock[0] += 10.0
        run.state.step += 1
        record = {"images_per_second": 2.0}  # 8 images of a probe are guessed to take 4 s
        probe.on_record(run, record)
        probed += [run.state.step] if "probe/same_level" in record else []
    assert 4 * len(probed) <= 0.015 * clock[0] and len(probed) == 3
    assert probed[0] == 27


@pytest.mark.parametrize(
    ("every", "log_every", "due"),
    [(2, 1, [2, 4, 6, 7]), (3, 2, [4, 6, 7]), (1, 3, [3, 6, 7]), (100, 1, [7])],
)
def test_a_period_is_rounded_up_to_the_next_line_of_the_log(every, log_every, due):
    logged = [step for step in range(1, 8) if step % log_every == 0 or step == 7]
    assert [step for step in logged if is_due(step, every, log_every, 7)] == due


def test_wrong_probe_data_end_the_command_before_any_work(tmp_path, capsys):
    words = [
        "pretrain",
        "--recipe",
        "demo",
        "--output-dir",
        str(tmp_path / "run"),
        "--probe-data",
        str(tmp_path / "no"),
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "no") in error and not (tmp_path / "run").exists()


def test_the_command_prints_a_table_and_writes_numbers_and_a_picture(run, scenes, tmp_path, capsys):
    out = tmp_path / "deep" / "probe.json"
    words = [str(run / "views"), "random", "--probe-data", str(scenes), "--data", "photos", "--probe-images", "8"]
    assert main(["probe", *words, "--out", str(out), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for said in ("kNN", "found other level", "region head", "chance is 12.5 %", str(out)):
        assert said in shown
    results = json.loads(out.read_text())
    assert [result["network"] for result in results] == [str(run / "views"), "random"]
    assert results[0]["objects"]["features"]["region_head"]["knn"]["all"] is not None
    assert min(Image.open(out.with_suffix(".png")).size) > 600


@pytest.mark.parametrize("name", ["file/p.json", "folder"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("mcl_hf.probe.run_probe.probe_checkpoint", lambda *_, **__: pytest.fail("it was measured"))
    assert main(["probe", "random", "--data", "photos", "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert f"{name} cannot be written" in error and error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["random"], "needs images"),
        (["tests", "--data", "photos"], "cannot be opened as an MCL model"),
        (["timm:resnet18x", "--data", "photos"], "timm:resnet18x: "),
        (["random", "--data", "photos", "--probe-images", "3"], "at least 4 images"),
        (["random", "--data", "photos", "--out", "x.png"], "end it in .json"),
    ],
)
def test_wrong_input_of_the_command_is_one_line(words, said, capsys):
    assert main(["probe", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
