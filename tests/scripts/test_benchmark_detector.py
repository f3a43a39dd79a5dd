"""The detector benchmark runs and prints its two ratios; their values are a matter of the machine."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_detector.py"
SMALL = '{"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}'


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["mask_rcnn --fpn-channels 16 --rois 8", f"detr --detector-options '{SMALL}'"])
def test_the_benchmark_prints_both_ratios(detector: str) -> None:
    options = f"--detector {detector} --backbone resnet18 --side 128 --batch-size 1 --rounds 1 --device cpu"
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), *shlex.split(options)], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["training step", "inference"]
    assert all("(bound 1.05)" in line for line in lines[1:])
