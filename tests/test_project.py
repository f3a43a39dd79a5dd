"""The project around the package: metadata, make targets, what a built wheel contains, and that it works alone."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import mcl_hf

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked and untracked sources, as a release would be."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "mcl_hf").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == mcl_hf.__version__
    assert f"## {mcl_hf.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2304.02010"


def test_continuous_integration_runs_what_a_developer_runs():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert (ROOT / ".ci" / "run").read_text().endswith("make quality\nmake test SLOW=1\n")
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: *(\S+)", path.read_text()):
            assert re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", action), f"{path.name}: pin {action} to a commit"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"
    assert workflow["jobs"]["floors"]["env"]["PIP_CONSTRAINT"] == "tests/floors.txt"
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "quality", "docs", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"] == [
        "tests"
    ]


def test_the_oldest_admitted_releases_are_the_tested_ones():
    required = re.search(r"INSTALL_REQUIRES = \[(.*?)\n\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    floors = dict(re.findall(r'^ *"([\w-]+)>=([\d.]+)', required, re.MULTILINE))
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "floors.txt").read_text(), re.MULTILINE))
    assert floors.keys() == tested.keys()
    for name, floor in floors.items():
        assert Version(floor) == Version(tested[name]), name
    page = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {floor} |" in page for name, floor in tested.items())


def test_make_targets_name_files_that_exist():
    for target in ("demo", "bench", "test"):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert planned.returncode == 0, planned.stderr
        for script in re.findall(r"(?:examples|scripts)/\w+\.py", planned.stdout):
            assert (ROOT / script).is_file(), f"make {target} runs {script}"


@pytest.mark.slow
def test_wheel_carries_code_data_and_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata_name = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
        entry_points = archive.read(metadata_name.replace("METADATA", "entry_points.txt")).decode()
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mcl_hf").rglob("*") if path.is_file()}
    endings = (
        ".py",
        ".parquet",
        ".safetensors",
        ".jsonl",
        ".png",
        ".md",
        ".yaml",
        ".jpg",
        ".json",
        ".jinja",
        "py.typed",
    )
    expected = {name for name in shipped if name.endswith(endings)}
    assert expected - names == set()
    assert len([name for name in names if name.endswith(".parquet")]) == 4
    assert not [name for name in names if name.startswith(("tests", "examples", "scripts"))]
    assert {f"mcl_hf/pretrained/demo/{name}" for name in ("model.safetensors", "config.json", "README.md")} <= names
    assert "mcl_hf/data/bccd_mini/LICENSE" in names and len([name for name in names if name.endswith(".jpg")]) == 364
    assert {"LICENSE", "LICENSE-IMAGES.md"} <= {Path(name).name for name in names if "dist-info" in name}
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert {"viz", "tensorboard", "wandb", "trackio", "test", "dev", "transformers-detectors", "demo", "all"} <= set(
        metadata.get_all("Provides-Extra")
    )
    assert "mcl-hf = mcl_hf.cli:main" in entry_points


@pytest.mark.slow
def test_wheel_pretrains_without_the_source_tree(wheel, tmp_path):
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        "--target",
        str(site),
        str(wheel),
    ]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert installed.returncode == 0, installed.stderr
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    options = ["--recipe", "demo", "--max-steps", "2", "--batch-size", "8", "--num-workers", "0", "--output-dir", "run"]
    done = subprocess.run(
        [str(site / "bin" / "mcl-hf"), "pretrain", *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code = (
        "import mcl_hf; print(mcl_hf.__file__)\n"
        "model = mcl_hf.MCLModel.from_pretrained('run'); print(model.config.backbone)"
    )
    opened = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    where, backbone = opened.stdout.split("\n")[:2]
    assert where.startswith(str(site)) and backbone == "resnet10t", opened.stderr
