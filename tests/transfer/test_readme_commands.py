"""The README's export and import commands run as they stand."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from mcl_hf.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if re.match(r"mcl-hf (export|import) ", line)]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "my-run")
    Path("my-images").mkdir()
    noise = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f"my-images/{index}.png")
    arguments = shlex.split(command)[1:]
    if arguments[0] == "import":
        state = {f"module.encoder_q.{name}": tensor for name, tensor in resnet18(weights=None).state_dict().items()}
        torch.save({"state_dict": state}, arguments[1])
    assert main(arguments) == 0
    assert (tmp_path / arguments[-1]).is_dir()
