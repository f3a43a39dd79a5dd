"""A drawn fold and a scale that is even smaller than smoke."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.transfer.jobs import Bench
from scripts.transfer.scales import SMOKE
from scripts.transfer.toy_data import draw_data


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Folder of drawn folds; fold 0 is there."""
    root = tmp_path_factory.mktemp("drawn")
    draw_data(root / "fold-0", 0, pretrain=32, train=12, val=6, test=8)
    return root


@pytest.fixture
def bench(drawn, tmp_path) -> Bench:
    """A benchmark of seconds: two steps of pre-training, two of a detector."""
    torch.set_num_threads(1)
    scale = replace(
        SMOKE,
        pretrain={**SMOKE.pretrain, "batch_size": 8, "save_every_steps": 1},
        probe_images=(12, 8),
        detect={**SMOKE.detect, "max_steps": 2, "precise_bn_steps": 1, "save_every_steps": 1},
        detections=SMOKE.detections[:1],
    )
    return Bench(scale, 16, str(drawn / "fold-{fold}"), tmp_path / "work", tmp_path / "out")
