"""The course that waits for a GPU runs whole, at a tiny size on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_gpu.py"


@pytest.mark.slow
def test_the_course_fills_its_table(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--output-dir", str(tmp_path), "--price", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    assert found["left_out"] == [] and {row["n"] for row in found["steps"]} == {4, 8}
    assert found["waits"]["waits"] == 0 and set(found["detector"]) == {"training step", "inference"}
    table = (tmp_path / "cpu.md").read_text()
    for words in ("lean costs", "times as fast as the published", "hours of this card", "cores feed the card"):
        assert words in table


def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300)
    if "there is no GPU here" not in done.stderr:
        pytest.skip("there is a GPU here")
    assert done.returncode == 2
