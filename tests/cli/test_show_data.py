"""The data sheet: what it prints and draws for sources of every kind, and one line for what the user got wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.cli import main
from mcl_hf.cli.data_sheet import draw_sheet
from mcl_hf.cli.show import READ
from mcl_hf.pretraining.arguments import PretrainArguments, load_arguments

ROOT = Path(__file__).parents[2]
SMALL = ["--region-size", "2", "--num-workers", "0"]
SHORT = ["show", "data", "--data", "bccd-mini", "--pictures", "2", "--compare", "0", "--num-workers", "0"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in two folders; the second holds a copy of one of the first, and a broken file."""
    noise = np.random.default_rng(0)
    for number in range(6):
        blocks = Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
        file = tmp_path / "in" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        blocks.save(file, quality=95)
        if number == 0:
            blocks.resize((200, 150)).save(tmp_path / "in" / "a" / "copy.png")
    (tmp_path / "in" / "b" / "bad.jpg").write_bytes(b"no image")
    return tmp_path / "in"


def test_the_sheet_of_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    options = ["--data", str(folder), "--pictures", "4", "--out", str(out), "--max-broken", "1"]
    assert main(["show", "data", *options, *SMALL]) == 0
    shown = capsys.readouterr().out
    for line in (
        "folder of images by class, 2 classes: 8 images",
        "near-duplicates: 2 of 7 images look like another one, in 1 group",
        f"  {folder}/a/0.jpg, {folder}/a/copy.png",
        "As negatives these would be pushed apart (1 pair)",
        "--group-column",
        f"broken: {folder}/b/bad.jpg: not an image",
        "speed of one core, 7 images, longer side 577 px",
        " images/s per core",
        f"picture: {out}",
    ):
        assert line in shown, f"{line}\n{shown}"
    for stage in ("read", "decode", "crop", "colour", "blur", "collate", "sum"):
        number = next(line for line in shown.splitlines() if line.startswith(f"  {stage}")).split()[1]
        assert float(number) > 0
    plain = Image.open(out).size
    options += ["--group-column", "folder"]
    assert main(["show", "data", *options, *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "near-duplicates: 0 of 7" in shown and "1 more pair within one group of 'folder'" in shown
    assert Image.open(out).size[1] < plain[1]  # no row of duplicates


def test_the_sheet_of_packed_shards_and_a_sample(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(folder), "packed", "--num-workers", "0"]) == 0
    capsys.readouterr()
    assert main(["show", "data", "--data", "packed", "--pictures", "99", "--compare", "5", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "of 5 images (of 7; --compare N looks at N)" in shown and "picture: sheet.png" in shown
    assert main(["show", "data", "--data", "packed", "--pictures", "2", "--compare", "0", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "near-duplicates" not in shown and "speed of one core" in shown


def test_an_image_that_a_mix_repeats_is_no_duplicate_of_itself(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mix = ["--data", f"{folder}/a=0.9", f"{folder}/b=0.1", "--pictures", "2", "--max-broken", "1"]
    assert main(["show", "data", *mix, "--compare", "7", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "look like another one, in 1 group" in shown and f"  {folder}/a/0.jpg, {folder}/a/copy.png\n" in shown


def test_supervised_runs_have_one_side_and_no_negatives(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(folder / "a"), "--pictures", "3", *SMALL]
    supervised = ["--objective", "supervised", "--label-column", "folder"]
    assert main(["show", "data", *options, *supervised]) == 0
    assert "look like another one" in (shown := capsys.readouterr().out) and "negatives" not in shown
    assert main(["show", "data", *options, *supervised, "--compare", "0", "--out", "one.png"]) == 0
    assert main(["show", "data", *options, "--compare", "0", "--out", "two.png"]) == 0
    assert Image.open("one.png").size[0] < Image.open("two.png").size[0]


def test_the_help_tells_of_what_is_read_and_of_nothing_else(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read: set[str] = set()
    arguments = load_arguments(data=[str(folder / "a")], region_size=2, num_workers=0)

    class Watched:
        def __getattr__(self, name):
            read.add(name)
            return getattr(arguments, name)

        def model_config(self):
            return arguments.model_config()

    draw_sheet(Watched(), 2, 2, tmp_path / "sheet.png")
    of_network = {"num_channels", "region_size", "montage_ratios", "montage_fractions", "level_weights"}
    assert read - {"model_config"} | of_network == {*READ, "num_workers"}
    with pytest.raises(SystemExit):
        main(["show", "data", "--help"])
    said = capsys.readouterr().out
    told = {
        name for name in PretrainArguments.__pydantic_fields__ if re.search(f"--{name.replace('_', '-')}[ ,]", said)
    }
    assert told >= {*READ, "num_workers"} and not told & {"max_steps", "optimizer", "output_dir", "backbone"}
    assert main(["show", "data", "--data", str(folder / "a"), *SMALL, "--max-steps", "3", "--compare", "0"]) == 0


def test_no_warning_about_the_sizes_of_the_first_hours_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = re.search(r"^mcl-hf (show data .*?) +#", (ROOT / "docs" / "getting_started.md").read_text(), re.MULTILINE)
    assert main([*line[1].split(), "--pictures", "2", "--compare", "0", "--num-workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "the median object of" in said and "warning" not in said
    assert main([*SHORT, "--tile", "160", "--region-size", "2"]) == 0  # for a detector of the usual size
    assert "warning: the median object of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pictures", "0"], "--pictures must be at least 1, got 0"),
        (["--min-size-test", "0"], "--min-size-test must be at least 1, got 0"),
        (["--compare", "-1"], "--compare must be at least 0"),
        (["--data", "nowhere"], "'nowhere'"),
        (["--group-column", "colour"], "group_column 'colour'"),
        (["--out", "picture"], "give the file an ending"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(folder, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "data", "--data", str(folder / "a"), "--pictures", "2", *SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcl-hf: error: ") and said in error and error.count("\n") == 1, error
