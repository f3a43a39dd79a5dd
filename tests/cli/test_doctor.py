"""The report of an installation, and a plan that is measured on a tiny run."""

import json
from collections import namedtuple

import pytest

from mcl_hf.cli import doctor, main
from mcl_hf.cli.doctor import Finding, report
from tests.scenes import write_scenes
from tests.tiny_detector import FEW_REGIONS


def failing():
    yield Finding("ok", "one thing")
    yield Finding("FAILED", "another: do this")


def test_a_failed_check_is_exit_code_2(capsys):
    assert report([failing]) == 2
    assert "FAILED   another: do this" in capsys.readouterr().out


def test_this_installation_is_well(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch 2." in out and "opened it again" in out and "a token is set" in out
    assert "hf_secret_token" not in out and out.rstrip().endswith("ready")


def test_old_and_missing_packages_fail(monkeypatch):
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["torch>=99", "no-such-package", "numpy; extra == 'x'"]
    )
    texts = [finding.text for finding in doctor.versions() if finding.grade == "FAILED"]
    assert len(texts) == 2 and "too old: pip install 'torch>=99'" in texts[0] and "no-such-package" in texts[1]


def test_a_small_dev_shm_is_warned_about(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(64 * 2**20, 0, 64 * 2**20))
    warnings = [finding.text for finding in doctor.machine() if finding.grade == "warning"]
    assert any("--shm-size" in text for text in warnings)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--epochs", "3"], "with --plan RECIPE only"),
        (["--plan", "demo", "--recipe", "demo"], "leave --recipe out"),
        (["--plan", "demo", "--processes", "0"], "--processes must be at least 1"),
        (["--plan", "demoo"], "did you mean 'demo'?"),
        (["--plan", "demo", "--data", "nowhere"], "nowhere"),
        (["--plan", "auto", "--data", "nowhere"], "--init is missing"),
        (["--plan=auto", "--data", "nowhere", "--init", "random"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line(capsys, argv, said):
    assert main(["doctor", *argv]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("mcl-hf: error:") == 1


def test_a_plan_of_the_demo_says_what_it_needs(capsys, tmp_path):
    argv = [
        "--plan",
        "demo",
        "--processes",
        "2",
        "--batch-size",
        "8",
        "--num-workers",
        "0",
        "--probe-data",
        "bccd-mini",
    ]
    assert main(["doctor", *argv, "--output-dir", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "120 of 16 images" in out and "GiB" in out and "images/s" in out and "--num-workers" in out
    assert "measured N=4" in out and "N=8" in out and not (tmp_path / "run").exists()
    assert "the median object of" in out


def test_a_plan_of_fine_tuning_says_what_it_needs(capsys, tmp_path):
    scenes = write_scenes(tmp_path / "scenes", 6, width=96, height=72)
    write_scenes(scenes, 2, width=96, height=72, split="val")
    recipe = tmp_path / "own.yaml"  # told from one of pre-training by its options
    recipe.write_text("auto: true\nprecise_bn_steps: 2\nfrozen_bn: false\n")
    tiny = {"backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 8}, "fpn_channels": 8, "box_fc_dim": 16}
    argv = ["--plan", str(recipe), "--data", str(scenes), "--init", "random", "--backbone", "resnet10t"]
    argv += ["--min-size-train", "64", "--max-size-train", "96", "--num-workers", "0", "--device", "cpu"]
    argv += ["--detector-options", json.dumps({**tiny, **FEW_REGIONS}), "--batch-size", "2", "--max-steps", "90"]
    assert main(["doctor", *argv, "--output-dir", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "90 of 2 images" in out and "hours, evaluations not counted" in out and "GiB" in out
    assert "measured N=2" in out and not (tmp_path / "run").exists()
