"""A tiny finished run, for everything that is made of one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl_hf
from tests.training.conftest import TINY


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps, with two checkpoints; its data lie under a path that is private."""
    torch.set_num_threads(1)
    photos = tmp_path_factory.mktemp("home-of-carol") / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        coarse = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 60)).save(photos / f"{number:02}.jpg")
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    options = {**TINY, "data": str(photos), "output_dir": str(folder), "save_every_steps": 2}
    mcl_hf.pretrain(**options, callbacks=())
    return folder
