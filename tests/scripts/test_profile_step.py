"""`scripts/profile_step.py` finds every part of a step, and their sum is near the whole."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import profile_step


def test_parts_of_a_step(capsys, monkeypatch):
    line = "--network half-resnet10 --batch-size 4 --rounds 1 --precision bf16 --device cpu"
    monkeypatch.setattr(sys, "argv", ["profile_step.py", *line.split()])
    profile_step.main()
    lines = capsys.readouterr().out.splitlines()
    assert "half-resnet10, lean, bf16, N=4" in lines[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:]]
    shares = {part: float(share.removesuffix("%")) for part, _, _, share, *_ in cells}
    parts = ["montage assembly", "FPN", "region head", "predictors", "contrast", "target network", "optimizer", "rest"]
    assert set(parts) < set(shares) and shares["step"] == 100.0
    assert abs(sum(shares.values()) - 200.0) < 1.0
    assert sum("backbone, level" in name for name in shares) == 3
