"""`mcl-hf evaluate`: from a checkpoint or a file to figures and pictures, and one line for what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLImageProcessor
from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.cli import main
from mcl_hf.evaluation.results import ground_truth_results, to_results, write_results
from tests.scenes import noisy_detections, write_scenes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` with six scenes as val, `detector`, and `results.json` of a middling detector."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = open_detection_data(write_scenes(folder / "data", 6, split="val2017"), split="val")
    write_results(folder / "results.json", to_results(noisy_detections(data), data))
    torch.manual_seed(0)
    config = MCLDetectorConfig(
        backbone="resnet10t", fpn_channels=16, box_fc_dim=32, id2label=data.id2label, min_size=64, max_size=96,
        box_score_thresh=0.0, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=30,
    )  # fmt: skip
    MCLForInstanceSegmentation(config).save_pretrained(folder / "detector")
    MCLImageProcessor.from_config(config).save_pretrained(folder / "detector")
    return folder


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_a_checkpoint(folder, capsys):
    options = ["--data", folder / "data", "--pictures", 2]
    assert evaluate(folder / "detector", *options, "--batch-size", 4, "--num-workers", 0, "--device", "cpu") == 0
    shown = capsys.readouterr()
    out = folder / "detector" / "evaluation"
    assert "6 images, " in shown.out and "images/s with decoding" in shown.out and f"written: {out}" in shown.out
    assert "image/s" in shown.err  # the bar
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["checkpoint"] == str(folder / "detector") and metrics["images"] == 6
    assert metrics["backend"] == "pycocotools" and 0 <= metrics["mask"]["AP"] < 0.2
    assert Image.open(out / "detections.png").width > 900 and (out / "precision_recall.png").is_file()
    # the results that were written score the same
    assert evaluate("--predictions", out / "results.json", *options, "--output-dir", folder / "again") == 0
    again = json.loads((folder / "again" / "metrics.json").read_text())
    assert again["box"] == metrics["box"] and again["mask"] == metrics["mask"]
    # a part takes the place of no whole
    assert evaluate(folder / "detector", *options, "--max-images", 2, "--device", "cpu") == 0
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert json.loads((folder / "detector" / "evaluation-first-2" / "metrics.json").read_text())["images"] == 2


@pytest.mark.slow
def test_two_processes_write_what_one_writes(folder, tmp_path):
    options = ["--data", folder / "data", "--num-workers", 0, "--pictures", 0, "--device", "cpu"]
    assert evaluate(folder / "detector", *options, "--output-dir", tmp_path / "one") == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [ROOT / "scripts" / "evaluate.py", folder / "detector", *options, "--output-dir", tmp_path / "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, *map(str, script)], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name in ("results.json", "metrics.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    assert done.stdout.count("written:") == 1


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_a_results_file_without_a_model(folder, tmp_path, backend):
    pytest.importorskip(backend.replace("-", "_"))
    options = ["--data", folder / "data", "--output-dir", tmp_path, "--backend", backend, "--pictures", 0]
    assert evaluate("--predictions", folder / "results.json", *options) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.1 < metrics["box"]["AP"] < 0.9 and metrics["backend"] == backend
    assert not (tmp_path / "detections.png").exists()


def test_the_first_images_only(folder, tmp_path, capsys):
    data = open_detection_data(folder / "data", split="val")
    write_results(tmp_path / "perfect.json", ground_truth_results(data))
    options = ["--data", folder / "data", "--output-dir", tmp_path, "--max-images", 2]
    assert evaluate("--predictions", tmp_path / "perfect.json", *options) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 2 and metrics["box"]["AP"] == pytest.approx(1)
    (tmp_path / "perfect.json").rename(tmp_path / "results.json")
    before = (tmp_path / "results.json").read_text()
    assert evaluate("--predictions", tmp_path / "results.json", *options) == 2
    assert "--max-images would leave a part" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{folder}/data"], "give one of the two"),
        (["{folder}/detector", "--data", "{folder}/data", "--predictions", "x.json"], "give one of the two"),
        (["{folder}/detector"], "--data is missing"),
        (["{folder}/detector", "--data", "{folder}/data", "--split", "test"], "has no annotations of split 'test'"),
        (["{folder}/data", "--data", "{folder}/data"], "cannot be opened as a checkpoint"),
        (["--predictions", "{folder}/nothing.json", "--data", "{folder}/data"], "nothing.json cannot be read"),
        (
            ["--predictions", "x.json", "--data", "d", "--batch-size", "2", "--device", "cpu"],
            "leave out --batch-size, --d",
        ),
        (["{folder}/detector", "--data", "{folder}/data", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["{folder}/detector", "--data", "{folder}/data", "--backend", "coco"], "invalid choice: 'coco'"),
        (["{folder}/detector", "--data", "{folder}/other"], "is no local file or folder"),
        (
            ["{folder}/detector", "--data", "{folder}/data", "--output-dir", "/proc"],
            "/proc cannot be written",
        ),
    ],
)
def test_wrong_input_is_one_line(folder, capsys, arguments, message):
    new = folder / "new" / "results"
    more = ["--output-dir", new] if "--output-dir" not in arguments else []
    assert evaluate(*(argument.format(folder=folder) for argument in arguments), *more) == 2
    error = capsys.readouterr().err
    assert not new.parent.exists(), "a folder for nothing"
    assert message in error and error.count("\n") == 1 and error.startswith("mcl-hf: error: ")


def test_categories_that_the_checkpoint_does_not_know(folder, tmp_path, capsys):
    write_scenes(tmp_path, 2, num_classes=5, split="val")
    assert evaluate(folder / "detector", "--data", tmp_path, "--device", "cpu") == 2
    assert "but not diamond, hexagon of" in capsys.readouterr().err


def test_an_image_found_broken_late_costs_itself_and_not_the_others(folder, tmp_path, capsys):
    data = shutil.copytree(folder / "data", tmp_path / "data")
    file = data / "val2017" / "0002.png"
    content = file.read_bytes()
    file.write_bytes(content[:2000] + content[-12:])  # header and end are whole
    options = ["--data", data, "--num-workers", 0, "--pictures", 0, "--device", "cpu", "--output-dir", tmp_path / "out"]
    assert evaluate(folder / "detector", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "0002.png: " in error and "--skip-broken" in error and f"is in {tmp_path / 'out' / 'results.json'}" in error
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {result["image_id"] for result in kept} == {1, 2, 4, 5, 6}
    assert evaluate(folder / "detector", *options, "--skip-broken") == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == kept
    (tmp_path / "out" / "results.json").write_text("[]")  # of an evaluation, which the next one does not finish
    assert evaluate(folder / "detector", *options) == 2
    assert f"is in {tmp_path / 'out' / 'results-partial.json'}" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").read_text() == "[]"
    assert json.loads((tmp_path / "out" / "results-partial.json").read_text()) == kept


def test_results_that_cannot_be_scored(folder, tmp_path, capsys):
    results = json.loads((folder / "results.json").read_text())
    odd = [
        {"bbox": None, "segmentation": []}, {"segmentation": {"size": [96, 128], "counts": "1"}}, {"image_id": [1]},
        {"score": 10**400}, {"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, {"category_id": "cup"},
        {"score": False},
    ]  # fmt: skip
    options = ["--data", folder / "data", "--output-dir", tmp_path, "--pictures", 0]
    for change in odd:
        (tmp_path / "x.json").write_text(json.dumps([*results, {**results[0], **change}]))
        assert evaluate("--predictions", tmp_path / "x.json", *options) == 2
        assert f"result {len(results) + 1}" in capsys.readouterr().err
    odd.append({"segmentation": None})  # the others have masks
    (tmp_path / "x.json").write_text(json.dumps([*results, *({**results[0], **change} for change in odd)]))
    assert evaluate("--predictions", tmp_path / "x.json", *options, "--skip-broken") == 0
    assert capsys.readouterr().out.count("broken, left out: ") == len(odd)
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(results)
    (tmp_path / "x.json").write_text(json.dumps([{**results[0], "bbox": None}]))  # the box is that of the mask
    assert evaluate("--predictions", tmp_path / "x.json", *options) == 0


def test_the_split_that_is_scored(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "data", 2, split="test", masks=None)
    write_scenes(tmp_path / "data", 2, split="val", masks=None)
    (tmp_path / "none.json").write_text("[]")
    assert evaluate("--predictions", "none.json", "--data", "data", "--split", "test", "--pictures", 0) == 0
    assert evaluate("--predictions", "none.json", "--data", "data", "--pictures", 0) == 0
    for name, split in (("evaluation-test", "test"), ("evaluation", "val")):
        assert json.loads((tmp_path / name / "metrics.json").read_text())["split"] == split
    annotations = tmp_path / "data" / "annotations"
    (annotations / "instances_test.json").unlink()
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "images")
    (annotations / "instances_val.json").rename(tmp_path / "data" / "all.json")
    capsys.readouterr()
    assert evaluate("--predictions", "none.json", "--data", "data", "--pictures", 0) == 0
    assert "warning: data has no splits of its own: all of its images are scored" in capsys.readouterr().out
    assert (tmp_path / "evaluation-all" / "metrics.json").is_file()
    assert evaluate("--predictions", "none.json", "--data", "data", "--split", "test") == 2
    assert "nothing in it tells splits apart" in capsys.readouterr().err
