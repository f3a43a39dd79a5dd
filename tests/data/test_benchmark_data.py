"""The benchmark runs and prints its table; its numbers are a matter of the machine."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_a_ratio_for_every_variant() -> None:
    command = [sys.executable, "scripts/benchmark_data.py", "--images", "2", "--rounds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    for variant in (
        "torchvision v1 on PIL",
        "torchvision v2 on uint8",
        "mcl_hf published",
        "mcl_hf direct",
        "mcl_hf crops only",
    ):
        row = next(line for line in printed.splitlines() if line.startswith(f"| {variant}"))
        assert float(row.split("|")[-2].strip().removesuffix("x")) > 0
    assert "stages of direct" in printed
    assert "decode too cheaply" in printed
