"""The step benchmark runs, and its FLOP counts are those of the method."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_step.py"


@pytest.mark.slow
def test_benchmark_prints_its_ratios(tmp_path: Path) -> None:
    options = "--backbone resnet18 --batch-size 4 --region-size 2 --rounds 1 --steps 1 --warmup 0 --device cpu"
    variants = ["published, contiguous", "lean, channels last, recompute, in turn", "supervised, channels last"]
    command = [sys.executable, str(SCRIPT), *options.split(), "--only", *variants, "--json", str(tmp_path / "out.json")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert "memory of the step, lean recomputing in turn / published" in finished.stdout
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(results) == set(variants) and all(entry["seconds"] > 0 for entry in results.values())


def test_flops_of_lean_are_a_quarter_of_the_published() -> None:
    """Counted on the meta device for ResNet-50, 224 px, N = 16: 2965 and 781 GMAC without laterals that are skipped."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mcl_hf import MCLConfig, MCLForPreTraining

    counts = {}
    for scope in ("published", "lean"):
        with torch.device("meta"):
            model = MCLForPreTraining(MCLConfig(region_scope=scope))
            views = [torch.randn(16, 3, 224 // ratio, 224 // ratio) for ratio in (1, 2, 4, 8)]
        with FlopCounterMode(display=False) as counter:
            model(views, views).loss.backward()
        counts[scope] = counter.get_total_flops() / 2e9
    assert counts["published"] == pytest.approx(2965, rel=0.01)
    assert counts["lean"] == pytest.approx(781, rel=0.01)
