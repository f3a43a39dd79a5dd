import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_resume.py"


def test_three_killed_runs_end_with_the_bytes_of_the_one_that_was_left_alone(tmp_path):
    table = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--runs", "3", "--steps", "12", "--seed", "1", "--out", str(table)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 runs ended with the bytes" in done.stdout
    rows = table.read_text().splitlines()[2:]
    assert [row.split("|")[2].split(":")[0].strip() for row in rows] == [
        "in a step", "in the loader", "writing a checkpoint",
    ]  # fmt: skip
    assert all(row.endswith("| equal |") for row in rows)
