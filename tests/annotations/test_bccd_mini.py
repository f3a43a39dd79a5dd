"""The embedded annotated data: whole, licensed, small, made by their script, and open in every command."""

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import mcl_hf
from mcl_hf.annotations.open_data import has_split
from mcl_hf.cli import main
from mcl_hf.data import open_source
from mcl_hf.data.sources.licences import describe_sources
from mcl_hf.data.sources.local_tables import BCCD_MINI_FOLDER
from mcl_hf.detection import list_splits, open_detection_data
from mcl_hf.errors import InputError
from tests.comparison.test_compare import FINETUNE, PRETRAIN
from tests.finetuning.test_finetune import TINY

PREPARE = Path(__file__).parents[2] / "evaluation" / "bccd" / "prepare.py"
COUNTS = {"train": (205, 2805), "val": (87, 1138), "test": (72, 945)}
NETWORK = ["--region-size", "2", "--num-workers", "0"]


def test_every_picture_decodes_and_holds_its_boxes():
    for split, (images, objects) in COUNTS.items():
        data = open_detection_data("bccd-mini", split=split)  # reads each file's header and end
        assert (len(data), int(data.num_objects.sum())) == (images, objects)
        assert data.category_names == ["Platelets", "RBC", "WBC"] and not data.report.lines()
        assert set(data.widths) == {320} and set(data.heights) == {240}
        ends = data.columns.bbox[:, :2] + data.columns.bbox[:, 2:]
        assert (data.columns.bbox[:, :2] >= 0).all() and (ends <= [320, 240]).all()
        assert data[0].decode().shape == (240, 320, 3)
        sides = np.sqrt(data.columns.bbox[:, 2:].prod(1))
        medians = [np.median(sides[data.columns.labels == label]) for label in range(3)]
        assert medians == pytest.approx([19, 51, 94], abs=5)  # classes are scales
    assert set(list_splits("bccd-mini")) == set(COUNTS)
    assert has_split("bccd-mini", "validation")


def test_they_are_small_licensed_and_of_one_name():
    files = [path for path in BCCD_MINI_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert (BCCD_MINI_FOLDER / "LICENSE").read_text().startswith("MIT License")
    assert "github.com/Shenggan/BCCD_Dataset" in (BCCD_MINI_FOLDER / "README.md").read_text()
    assert describe_sources(["bccd-mini"])[0]["licence"] == "MIT"


def test_they_are_pictures_to_pre_train_on_and_to_pack(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [len(open_source("bccd-mini", split=split)) for split in COUNTS] == [205, 87, 72]
    assert len(open_source(["bccd-mini=0.5", "photos=0.5"])) == 205 + 750
    assert main(["pack", "bccd-mini", "packed", "--split", "test", "--max-side", "64", "--num-workers", "0"]) == 0
    names = [name for file in Path("packed").glob("*.parquet") for name in pq.read_table(file)["name"].to_pylist()]
    assert len(names) == 72 and all(name.startswith("test/BloodImage_") for name in names)
    assert main(["show", "data", "--data", "bccd-mini", "--pictures", "2", "--compare", "0", *NETWORK]) == 0
    assert "205 images" in (told := capsys.readouterr().out) and "median object" in told


def test_they_open_in_finetune_evaluate_and_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = {**TINY, "detector": "faster_rcnn", "max_steps": 1, "precise_bn_steps": 0, "save_every_steps": 0}
    mcl_hf.finetune(**run, data="bccd-mini", output_dir="run", data_fraction=0.02)
    assert main(["evaluate", "run", "--data", "bccd-mini", "--max-images", "2", "--num-workers", "0"]) == 0
    assert "written: run/evaluation" in capsys.readouterr().out
    figures = json.loads(Path("run/evaluation/metrics.json").read_text())["box"]["per_class"]
    assert set(figures) == {"Platelets", "RBC", "WBC"}
    plan = {
        "data": "bccd-mini",
        "starts": ["random", "mcl"],
        "images": ["4"],
        "seeds": 1,
        "steps": 2,
        "visits": 8,
        "learning_rates": 0.04,
    }
    shared = {"pretrain_recipe": "none", "pretrain": {**PRETRAIN, "tile": 80}, "recipe": "none", "finetune": FINETUNE}
    mcl_hf.compare(**plan, **shared, output_dir="answer", dry_run=True)
    told = capsys.readouterr().out
    assert "tiles of about 80 px (80 to 80): 2460 of 205 pictures" in told and "pretrain: 1 job" in told


def clone(folder):
    """A BCCD of three pictures."""
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / "BCCD" / name).mkdir(parents=True)
    (folder / "LICENSE").write_text("MIT License")
    for number, split in enumerate(("train", "val", "test")):
        Image.effect_noise((64, 48), 40).convert("RGB").save(folder / "BCCD" / "JPEGImages" / f"b{number}.jpg")
        (folder / "BCCD" / "ImageSets" / "Main" / f"{split}.txt").write_text(f"b{number}\n")
        corners = "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>41</ymax>"
        (folder / "BCCD" / "Annotations" / f"b{number}.xml").write_text(
            f"<annotation><filename>b{number}.jpg</filename><size><width>64</width><height>48</height><depth>3</depth>"
            f"</size><object><name>RBC</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    return folder


def test_the_script_halves_pictures_and_boxes_the_same_every_time(tmp_path, monkeypatch):
    write = runpy.run_path(str(PREPARE))["write_coco"]
    source = clone(tmp_path / "clone")
    for name in ("one", "other"):
        write(source, tmp_path / name, 2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    whole, half = (open_detection_data(at, split="val")[0] for at in (source / "BCCD", tmp_path / "one"))
    np.testing.assert_allclose(half.boxes, whole.boxes / 2)
    assert (half.width, half.height) == (32, 24)
    monkeypatch.setattr("sys.argv", ["prepare.py", str(source), str(tmp_path / "copy")])
    runpy.run_path(str(PREPARE), run_name="__main__")
    copied = open_detection_data(tmp_path / "copy", split="test")[0]
    assert copied.image_bytes() == (source / "BCCD" / "JPEGImages" / "b2.jpg").read_bytes()
    for wrong in ((tmp_path, tmp_path / "new"), (source, tmp_path / "copy")):
        with pytest.raises(InputError, match=r"no clone|there already"):
            write(*wrong, 2)
