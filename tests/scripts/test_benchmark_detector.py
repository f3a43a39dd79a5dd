"""The detector benchmark runs and prints its two ratios; their values are a matter of the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_detector.py"


@pytest.mark.slow
def test_the_benchmark_prints_both_ratios() -> None:
    options = "--backbone resnet18 --fpn-channels 16 --side 128 --batch-size 1 --rois 8 --rounds 1 --device cpu"
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), *options.split()], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["training step", "inference"]
    assert all("(bound 1.10)" in line for line in lines[1:])
