"""Commands and Python blocks of README and docs run as they stand, on tiny data and with the network made small."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLImageProcessor
from mcl_hf.cli import COMMANDS as COMMAND_NAMES
from mcl_hf.cli import main
from mcl_hf.comparison.plan import ComparePlan
from mcl_hf.demo.subject import open_subject
from mcl_hf.detection import ground_truth_results, open_detection_data, write_results
from tests.scenes import write_scenes

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
BLOCKS = [
    (page, language, code)
    for page, text in PAGES.items()
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
]
# Blocks of a page build on each other, and so run in one test.
PYTHON = {page: [code for of, language, code in BLOCKS if of == page and language == "python"] for page in PAGES}
COMMANDS = sorted(
    {line.split("#")[0].strip() for _, language, code in BLOCKS if language == "sh" for line in code.splitlines()}
    - {""}
)


def commands(start: str) -> list[str]:
    """Commands of README and docs that begin so."""
    return [line for line in COMMANDS if line.startswith(start)]


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
        command = "mcl-hf pretrain --data my-images --output-dir my-run"
        assert main(shlex.split(f"{command} {SMALL}")[1:]) == 0
    return folder


@pytest.mark.parametrize("page", [page for page, codes in PYTHON.items() if codes])
def test_python_blocks(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    for index, code in enumerate(PYTHON[page]):
        exec(compile(code, f"{page} python block {index}", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("command", commands("mcl-hf show"))
def test_show_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    arguments = shlex.split(command)[1:]
    if "--data" in arguments:
        arguments += ["--region-size", "2", "--batch-size", "4"]
    assert main(arguments) == 0


@pytest.mark.parametrize("command", commands("mcl-hf pack"))
def test_pack_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main([*shlex.split(command)[1:], "--num-workers", "0"]) == 0


@pytest.mark.parametrize("command", [line for line in commands("mcl-hf probe") if "--data" in line])
def test_probe_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 0


@pytest.mark.parametrize("command", commands("mcl-hf card"))
def test_card_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("command", [line for line in commands("mcl-hf export") if "my-run " in line])
def test_export_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    # Mask R-CNN and RetinaNet of the others take ResNet-18 to 152, and the network here is a smaller one.
    assert main(shlex.split(command)[1:]) == (2 if "detectron2" in command else 0)


@pytest.mark.parametrize("command", [line for line in commands("mcl-hf push") if "--dry-run" in line])
def test_push_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(command.replace("my-detector", "my-run"))[1:]) == 0


@pytest.mark.parametrize("command", commands("mcl-hf demo"))
def test_demo_commands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    served = []
    monkeypatch.setattr("mcl_hf.demo.page.serve", lambda *given, **how: served.append(given))  # shows it until Ctrl-C
    assert main(shlex.split(command)[1:]) == 0
    checkpoint, images = served[0]
    assert open_subject(checkpoint).processor is None and all(path.is_file() for path in images)


@pytest.mark.parametrize("command", commands("mcl-hf evaluate"))
def test_evaluate_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_detection_data(write_scenes(tmp_path / "my-coco", 2, split="val"), split="val")
    write_results(tmp_path / "results.json", ground_truth_results(data))
    config = MCLDetectorConfig(
        backbone="resnet10t", fpn_channels=16, box_fc_dim=32, id2label=data.id2label, min_size=64
    )
    MCLForInstanceSegmentation(config).save_pretrained("my-detector")
    MCLImageProcessor.from_config(config).save_pretrained("my-detector")
    workers = [] if "--predictions" in command else ["--num-workers", "0"]
    assert main([*shlex.split(command)[1:], *workers]) == 0
    assert (
        tmp_path / ("scored" if "scored" in command else "my-detector/evaluation") / "precision_recall.png"
    ).is_file()


def test_all_commands_are_known(folder: Path) -> None:
    for command in COMMANDS:
        known = ("make demo", "make test", *(f"mcl-hf {name}" for name in COMMAND_NAMES))
        assert command.startswith(known), command


def test_plan_of_the_page_is_one() -> None:
    plan = next(code for _, language, code in BLOCKS if language == "yaml")
    assert ComparePlan(**yaml.safe_load(plan), output_dir="answer").seeds == 6


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_shows_exist(page: str) -> None:
    for name, link in re.findall(
        r"`((?:tests|scripts|examples|evaluation|mcl_hf)/[\w/.-]+)`|\]\(((?!http|#)[\w/.-]+)(?:#[\w-]+)?\)", PAGES[page]
    ):
        assert (ROOT / name).exists() and ((ROOT / page).parent / link).exists(), name or link


def test_readme_is_read_on_the_way() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 180
    assert "Python 3.11" in PAGES["README.md"] and sys.version_info >= (3, 11)


@pytest.mark.slow
def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "assemble_montage" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_figures_of_the_page_on_own_images_are_those_that_were_measured() -> None:
    results = ROOT / "evaluation" / "deeppcb" / "visits" / "results"

    def measured(start: str) -> str:
        figures = json.loads((results / f"test-{start}-i25-t300-s2000-k0.json").read_text())["figures"]
        return f"{100 * figures['box/AP']:.1f}, {100 * figures['box/AP50']:.1f}"

    page = PAGES["docs/own_images.md"]
    assert f"| 0 | {measured('random')} | | |" in page
    for visits in (16, 64, 192):
        row = f"| {visits},000 | | {measured(f'image-{visits}k')} | {measured(f'mcl-{visits}k')} |"
        assert row in page, row
