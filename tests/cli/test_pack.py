"""The pack command: its report, and one line for what the user got wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.cli import main
from mcl_hf.data import open_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder, noise = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for number, side in enumerate((300, 100, 100)):
        Image.fromarray(noise.integers(0, 256, (side, side // 2, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def test_it_reports_what_it_did_and_what_it_left_out(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pack", str(folder), str(out), "--max-side", "128", "--num-workers", "0"]) == 0
    captured = capsys.readouterr()
    for line in (
        f"packed {folder} into {out}: 3 images, 1 shard, in ",
        "1 anew (longer side above 128 px), 2 kept as they are",
        "MB before, ",
        f"1 left out, all in {out / 'broken-images.log'}",
        "    bad.jpg: not an image that Pillow knows",
        f"use it with --data {out}",
    ):
        assert line in captured.out, line
    assert "4/4" in captured.err  # the bar
    assert len(open_source(str(out))) == 3
    assert main(["pack", str(folder), str(out), "--max-side", "128", "--num-workers", "0"]) == 0
    assert "1 of the shards were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "the following arguments are required: SOURCE, OUT"),
        (["nowhere", "out"], "'nowhere'"),
        (["in", "in/out"], "lies inside of"),
        (["in", "out", "--max-side", "big"], "--max-side must be a whole number, got 'big'"),
        (["in", "out", "--jpeg-quality", "0"], "jpeg_quality is 0"),
        (["in", "taken"], "holds something else already"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(folder, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a.txt").write_text("")
    assert main(["pack", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcl-hf: error: ") and said in error and error.count("\n") == 1, error


def test_help_names_units(capsys):
    with pytest.raises(SystemExit) as left:
        main(["pack", "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and "longer side in px (default: 512)" in shown and "mcl-hf pack my_photos/" in shown
