"""A tiny data set and a tiny model: every run of these tests takes seconds on one core."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl_hf

# Backbone of 32-64 channels, 64 px views, three levels.
TINY = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8},
    "fpn_channels": 8,
    "region_convs": 1,
    "region_size": 2,
    "hidden_dim": 16,
    "embedding_dim": 8,
    "montage_ratios": [1, 2, 4],
    "montage_fractions": [1, "1/4", "1/16"],
    "level_weights": [0.5, 0.25, 0.25],
    "batch_size": 4,
    "max_steps": 3,
    "log_every_steps": 1,
    "num_workers": 0,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """24 images of two classes, in one folder a class."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(24):
        folder = root / ("cats" if number % 2 else "dogs")
        folder.mkdir(exist_ok=True)
        coarse = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg")
    return root


@pytest.fixture
def tiny_run(photos, tmp_path):
    """Runs `pretrain` on the tiny data set; returns the result."""
    torch.set_num_threads(1)

    def run(name="run", callbacks=(), **options):
        folder = options.pop("output_dir", tmp_path / name)
        return mcl_hf.pretrain(
            **{**TINY, "data": str(photos), "output_dir": str(folder), **options}, callbacks=list(callbacks)
        )

    return run


@pytest.fixture
def read_log():
    def read(folder):
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def repository():
    return Path(__file__).parents[2]
