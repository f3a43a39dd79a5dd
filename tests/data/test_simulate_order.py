"""The simulation of many readers finds a split without overlap or loss, and would see one that has them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mcl_hf.data import StreamOrder

SMALL = ["--ranks", "16", "--workers", "4", "--shards", "120", "--shard-rows", "1000", "--batch-size", "16"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "simulate_order.py"
    spec = importlib.util.spec_from_file_location("simulate_order", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["simulate_order.py", *SMALL])
    return module


def test_a_split_without_overlap_or_loss(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert "; 0 of them twice" in printed
    assert "0 rows missing or double" in printed
    assert "a lane is read by 1.00 workers on average" in printed
    assert "us a position" in printed


def test_it_sees_a_split_with_overlap(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(self: StreamOrder, position: np.ndarray) -> np.ndarray:
        return plain(self, position) // 2

    plain = StreamOrder.index
    monkeypatch.setattr(StreamOrder, "index", halved)
    assert script.main() == 1
