"""The README's commands and Python blocks run as they stand, on tiny data and with the network made small."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLImageProcessor
from mcl_hf.cli import COMMANDS as COMMAND_NAMES
from mcl_hf.cli import main
from mcl_hf.detection import ground_truth_results, open_detection_data, write_results
from tests.detection.scenes import write_scenes

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].strip() for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line
]
# What makes a command of the README small enough for a test; nothing else is changed.
SMALL = (
    "--backbone resnet10t --fpn-channels 16 --hidden-dim 32 --region-size 2 --max-steps 2 --batch-size 4 "
    "--num-workers 0 --device cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `my-images`, and `my-run` made by the README's own command."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my-images").mkdir()
    noise = np.random.default_rng(0)
    for index in range(12):
        pixels = noise.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "my-images" / f"{index}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = next(line for line in COMMANDS if line.startswith("mcl-hf pretrain"))
        assert main(shlex.split(f"{command} {SMALL}")[1:]) == 0
    return folder


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_python_blocks(index: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    exec(compile(PYTHON[index], f"README.md python block {index}", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("mcl-hf show")])
def test_show_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    arguments = shlex.split(command)[1:]
    if "--data" in arguments:
        arguments += ["--region-size", "2", "--batch-size", "4"]
    assert main(arguments) == 0


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("mcl-hf pack")])
def test_pack_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main([*shlex.split(command)[1:], "--num-workers", "0"]) == 0


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("mcl-hf probe") and "--data" in line])
def test_probe_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 0


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("mcl-hf card")])
def test_card_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("mcl-hf evaluate")])
def test_evaluate_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_detection_data(write_scenes(tmp_path / "my-coco", 2, split="val"), split="val")
    write_results(tmp_path / "results.json", ground_truth_results(data))
    config = MCLDetectorConfig(
        backbone="resnet10t", fpn_channels=16, box_fc_dim=32, id2label=data.id2label, min_size=64
    )
    MCLForInstanceSegmentation(config).save_pretrained("my-detector")
    MCLImageProcessor.from_config(config).save_pretrained("my-detector")
    assert main([*shlex.split(command)[1:], "--num-workers", "0"]) == 0
    assert (
        tmp_path / ("scored" if "scored" in command else "my-detector/evaluation") / "precision_recall.png"
    ).is_file()


def test_all_commands_are_known(folder: Path) -> None:
    for command in COMMANDS:
        known = ("make demo", "make test", *(f"mcl-hf {name}" for name in COMMAND_NAMES))
        assert command.startswith(known), command


def test_files_that_the_readme_shows_exist() -> None:
    root = Path(__file__).parents[1]
    for name in re.findall(r"`((?:tests|scripts|examples|mcl_hf)/[\w/.-]+)`|\]\(((?!http|#)[\w/.-]+)\)", README):
        assert (root / (name[0] or name[1])).exists(), name


def test_python_version_of_the_readme_is_the_one_required() -> None:
    assert "Python 3.11" in README and sys.version_info >= (3, 11)
