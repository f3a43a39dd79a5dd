"""A small run by the command: its pictures, what `show` draws from it, and the example that opens it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import mcl_hf
from mcl_hf import MCLForInstanceSegmentation, MCLModel
from mcl_hf.cli import main
from tests.scenes import write_scenes

ROOT = Path(__file__).parents[2]
TINY = [
    "--recipe", "demo", "--batch-size", "8", "--num-workers", "0", "--log-every-steps", "1", "--fpn-channels", "16",
    "--hidden-dim", "32", "--embedding-dim", "16", "--region-size", "2", "--region-convs", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["pretrain", *TINY, "--max-steps", "2", "--output-dir", str(folder)]) == 0
    return folder


def test_a_run_ends_with_its_pictures(run_folder):
    names = {path.name for path in (run_folder / "pictures").iterdir()}
    assert {"montages.png", "curves.png", "similarity.png", "training.png"} <= names
    assert "This card was rendered" in (run_folder / "README.md").read_text()
    for name in names:
        assert min(Image.open(run_folder / "pictures" / name).size) > 300
    assert len((run_folder / "log.jsonl").read_text().splitlines()) == 2


def test_a_finished_run_that_is_resumed_keeps_its_pictures(run_folder, capsys):
    before = (run_folder / "pictures" / "montages.png").read_bytes()
    words = ["--max-steps", "2", "--output-dir", str(run_folder), "--resume", "auto"]
    assert main(["pretrain", *TINY, *words]) == 0, capsys.readouterr().err
    assert (run_folder / "pictures" / "montages.png").read_bytes() == before


def test_a_finished_run_whose_first_image_is_broken_can_be_resumed(tmp_path, capsys):
    for number in range(9):
        Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 10 + number).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    words = ["--data", str(tmp_path), "--max-steps", "1", "--max-broken", "1", "--output-dir", f"{tmp_path}-run"]
    for resume in ("never", "auto"):
        assert main(["pretrain", *TINY, *words, "--resume", resume]) == 0, capsys.readouterr().err


def test_without_matplotlib_a_run_still_ends_well(tmp_path, monkeypatch):
    for place in ("callbacks.at_end", "hub.card"):
        monkeypatch.setattr(f"mcl_hf.{place}.find_spec", lambda name: None)
    assert main(["pretrain", *TINY, "--max-steps", "1", "--output-dir", str(tmp_path / "run")]) == 0
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["montages.png"]


def test_a_backend_of_another_environment_hinders_no_picture(run_folder, tmp_path):
    command = [sys.executable, "-m", "mcl_hf.cli", "show", "run", str(run_folder), "--out", str(tmp_path / "one.png")]
    there = os.environ | {"MPLBACKEND": "module://a_notebook.has_it"}
    done = subprocess.run(command, env=there, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "one.png").is_file(), done.stderr


def test_show_run_prints_the_last_numbers_and_draws(run_folder, tmp_path, capsys):
    assert main(["show", "run", str(run_folder), "--out", str(tmp_path / "one.png")]) == 0
    last = json.loads((run_folder / "log.jsonl").read_text().splitlines()[-1])
    shown = capsys.readouterr().out
    assert f"{last['loss']:.3f}" in shown and "positive cosine by level" in shown
    assert main(["show", "run", str(run_folder), str(run_folder), "--out", str(tmp_path / "two.png")]) == 0
    lines = capsys.readouterr().out.splitlines()  # a line a number, a column a run, and where the picture is
    assert lines[0].split() == ["run", str(run_folder), str(run_folder)] and "picture" in lines[-1]
    assert sum(line.startswith("effective rank by level") for line in lines) == 1
    assert (tmp_path / "one.png").exists() and (tmp_path / "two.png").exists()


def test_show_montages_draws_what_the_first_step_sees(tmp_path, monkeypatch):
    """The picture before the run is the picture of its first batch."""
    before, folder = tmp_path / "before.png", tmp_path / "run"
    assert main(["show", "montages", *TINY, "--out", str(before)]) == 0
    assert main(["pretrain", *TINY, "--max-steps", "1", "--output-dir", str(folder)]) == 0
    during = Image.open(folder / "pictures" / "montages.png")
    assert Image.open(before).tobytes() == during.tobytes()


def test_show_similarity_opens_a_run_and_refuses_what_it_cannot(run_folder, tmp_path, capsys):
    photo, out = tmp_path / "photo.png", tmp_path / "similarity.png"
    Image.effect_mandelbrot((120, 90), (-2, -1, 1, 1), 60).save(photo)
    base = ["show", "similarity", str(run_folder), "--image", str(photo), "--out", str(out), "--positions", "4"]
    assert main([*base, "--box", "10", "10", "50", "50", "--scale", "0.5"]) == 0 and out.exists()
    (tmp_path / "no.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    for argv, said in [
        ([*base, "--box", "10", "10", "5", "50"], "within an image of 120 x 90 px"),
        ([*base, "--scale", "-1"], "--scale must be above 0"),
        (["show", "similarity", str(run_folder), "--image", str(tmp_path / "no.png")], "is not a picture"),
        (["show", "similarity", str(tmp_path / "empty"), "--image", str(photo)], "cannot be opened as an MCL model"),
    ]:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error


def run_example(name: str, cwd: Path, *words: str | Path) -> str:
    """Output of an example, started as a user would."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, words)],
        cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_opens_every_door(run_folder, tmp_path):
    output = run_example("open_checkpoint.py", tmp_path, run_folder)
    for words in ("MCLBackbone", "MCLModel, the same weights", "MCLForPreTraining", "similar_regions.png"):
        assert words in output


def test_the_example_trains_a_detector_on_the_backbone(run_folder, tmp_path):
    output = run_example("backbone_in_detr.py", tmp_path, run_folder)
    loaded, total = re.search(r"backbone (\d+)/(\d+)", output).groups()
    assert loaded == total and "losses [" in output


def test_the_example_pre_trains_in_its_own_loop(tmp_path):
    out = tmp_path / "model"
    output = run_example("own_training_loop.py", tmp_path, "photos", out, "--steps", "2", "--batch-size", "16")
    assert [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)][1] > 0
    assert len(MCLModel.from_pretrained(out)(torch.rand(1, 3, 64, 64)).feature_maps) == 4


def test_the_example_fine_tunes_a_detector(run_folder, tmp_path):
    for split in ("train", "val"):
        write_scenes(tmp_path / "coco", 4, width=64, height=64, split=split)
    words = (run_folder, tmp_path / "coco", tmp_path / "detector", "--steps", "2", "--batch-size", "2", "--side", "64")
    output = run_example("finetune_detector.py", tmp_path, *words)
    assert "loss_mask" in output and "box, one class" in output and "mask, one class" in output
    loaded, total = re.search(r"backbone (\d+)/(\d+)", output).groups()
    assert loaded == total and (tmp_path / "detector" / "detections.png").exists()
    assert MCLForInstanceSegmentation.from_pretrained(tmp_path / "detector").config.num_labels == 3


def test_pictures_are_not_written_over_earlier_ones(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("curves.png", "curves-2.png", "curves-3.png"):
        assert main(["show", "run", str(run_folder), str(run_folder)]) == 0
        assert f"picture: {name}\n" in capsys.readouterr().out
    assert main(["show", "montages", *TINY]) == 0 and main(["show", "montages", *TINY]) == 0
    assert (tmp_path / "montages-2.png").exists()


def test_the_python_call_leaves_the_same_folder_as_the_command(run_folder, tmp_path):
    options = {TINY[i][2:].replace("-", "_"): TINY[i + 1] for i in range(0, len(TINY), 2)}

    def left(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    mcl_hf.pretrain(**options, max_steps=2, output_dir=str(tmp_path / "tiny"))
    by_the_call = left(tmp_path / "tiny")
    assert {"pictures/similarity.png", "pictures/curves.png", "pictures/training.png", "log.jsonl"} <= by_the_call
    assert by_the_call <= left(run_folder)  # to which other tests may have added
    assert "This card was rendered" in (tmp_path / "tiny" / "README.md").read_text()
    mcl_hf.pretrain(**options, max_steps=1, output_dir=str(tmp_path / "bare"), callbacks=())
    assert not (tmp_path / "bare" / "pictures").exists()
    assert "This card was rendered" not in (tmp_path / "bare" / "README.md").read_text()
