import contextlib
import io
import json
from pathlib import Path

import make_scenes
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes.annotations import area_ranges
from scenes.cutouts import load_index
from scenes.generate import Job, Settings, generate
from scenes.pool import make_pool

from mcl_hf.data.folder_metadata import read_metadata
from mcl_hf.errors import InputError

SETTINGS = Settings(size=48, fold=2, seed=1, train=14, val=6, test=8, pretrain=30, fractions=(20.0, 50.0))
PARTS = ("train", "train_20", "train_50", "val", "test")


@pytest.fixture(scope="module")
def data(cutouts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "data"
    generate(cutouts, out, SETTINGS)
    return out


def read(data: Path, part: str) -> dict:
    return json.loads((data / "annotations" / f"instances_{part}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(
    data: Path, cutouts: Path, tmp_path: Path
) -> None:
    generate(cutouts, tmp_path / "again", SETTINGS)
    assert contents(data) == contents(tmp_path / "again")
    changed = Settings(size=48, fold=2, seed=2, train=1, val=0, test=0, pretrain=0, fractions=())
    generate(cutouts, tmp_path / "other", changed)
    first = "train/000000.jpg"
    assert contents(data)[first] != contents(tmp_path / "other")[first]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(data: Path, cutouts: Path, tmp_path: Path) -> None:
    generate(cutouts, tmp_path / "two", SETTINGS, workers=2)
    assert contents(data) == contents(tmp_path / "two")


def test_a_picture_depends_on_no_other(data: Path, cutouts: Path, tmp_path: Path) -> None:
    index = load_index(cutouts)
    folder = tmp_path / "test"
    folder.mkdir()
    job = Job(cutouts, folder, SETTINGS, make_pool(index, 2, "test", seed=1), tuple(index["classes"]))
    name, _, annotations = job.make(5)
    assert (folder / name).read_bytes() == (data / "test" / name).read_bytes()
    assert len(annotations) == sum(one["image_id"] == 6 for one in read(data, "test")["annotations"])


@pytest.mark.parametrize("part", PARTS)
def test_ground_truth_given_as_predictions_has_an_ap_of_one(data: Path, part: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "annotations" / f"instances_{part}.json"))
        found = truth.loadRes([{**one, "score": 0.9} for one in truth.dataset["annotations"]])
        figures = {}
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            figures[kind] = evaluation.stats[0]
    assert figures == {"bbox": pytest.approx(1.0), "segm": pytest.approx(1.0)}


def test_annotations_fit_the_pictures_and_say_what_they_are_of(data: Path, cutouts: Path) -> None:
    rows = {row["id"]: row for row in load_index(cutouts)["objects"]}
    for part in PARTS:
        content = read(data, part)
        names = {one["id"]: one["name"] for one in content["categories"]}
        for image in content["images"]:
            with Image.open(data / part / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"]) == (48, 48)
        for annotation in content["annotations"]:
            row = rows[annotation["cutout_id"]]
            assert (row["group"], row["label"]) == (annotation["group"], names[annotation["category_id"]])
            x, y, width, height = annotation["bbox"]
            assert x >= 0 and y >= 0 and x + width <= 48 and y + height <= 48
            assert annotation["area"] >= 16 and 0 < annotation["visible"] <= 1
        assert sum(image["distractors"] for image in content["images"]) > 0
    assert list(names.values()) == ["disc", "box", "sign"]


def test_no_group_is_in_two_splits_and_a_fraction_keeps_its_part(data: Path) -> None:
    groups = {part: {one["group"] for one in read(data, part)["annotations"]} for part in PARTS}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test"), ("train_50", "test")):
        assert not groups[first] & groups[second]
    counts = json.loads((data / "statistics.json").read_text())["splits"]
    assert [counts[part]["groups_of_pool"]["disc"] for part in PARTS] == [8, 2, 4, 2, 2]
    assert groups["train_20"] <= groups["train_50"] | groups["train_20"]
    assert len(groups["train_20"]) <= 6 and len(groups["train_50"]) <= 12


def test_half_of_the_test_scenes_and_no_other_are_blended_by_gradients(data: Path) -> None:
    ways = {part: [image["blending"] for image in read(data, part)["images"]] for part in PARTS}
    assert ways["test"].count("poisson") == ways["test"].count("feathered") == 4
    assert {way for part in PARTS[:-1] for way in ways[part]} == {"feathered"}


def test_pre_training_pictures_carry_label_and_group_and_are_of_training_groups(data: Path, cutouts: Path) -> None:
    images = sorted(path.name for path in (data / "pretrain").glob("*.jpg"))
    columns = read_metadata(data / "pretrain", ["metadata.jsonl"], images).columns
    assert len(images) == 30 == len(columns["group"])
    rows = {row["id"]: row for row in load_index(cutouts)["objects"]}
    pool = make_pool(load_index(cutouts), 2, "train")
    training = {group for part in (*pool.objects.values(), pool.extras) for group in part}
    for number, label, group in zip(columns["group"], columns["label"], columns["object_group"], strict=True):
        assert rows[number]["label"] == label and rows[number]["group"] == group and group in training


def test_the_statistics_count_what_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statistics = json.loads((data / "statistics.json").read_text())
    for part in PARTS:
        counts, content = statistics["splits"][part], read(data, part)
        assert counts["images"] == len(content["images"]) == len(list((data / part).iterdir()))
        assert counts["objects"] == len(content["annotations"]) == sum(counts["sizes"].values())
        assert counts["objects"] == sum(one["objects"] for one in counts["classes"].values())
        assert counts["distractors"] == sum(image["distractors"] for image in content["images"])
        small, medium = area_ranges(48)["small"][1], area_ranges(48)["medium"][1]
        areas = np.array([one["area"] for one in content["annotations"]])
        assert counts["sizes"]["small"] == (areas < small).sum() and counts["sizes"]["large"] == (areas >= medium).sum()
    assert statistics["settings"]["fold"] == 2 and "pillow" in statistics["versions"]


@pytest.mark.parametrize("size", [24, 33, 130])
def test_any_size_works(cutouts: Path, tmp_path: Path, size: int) -> None:
    settings = Settings(size=size, train=0, val=0, test=4, pretrain=2, fractions=())
    statistics = generate(cutouts, tmp_path / "out", settings)
    assert statistics["splits"]["test"]["objects"] > 4
    with Image.open(tmp_path / "out" / "pretrain" / "000001.jpg") as picture:
        assert picture.size == (size, size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "--size 8 is too small"),
        ({"fold": 6}, "--fold 6 does not exist"),
        ({"seed": -1}, "--seed -1"),
        ({"val": -1}, "0 or more"),
        ({"fractions": (0.0,)}, "between 0 and 100"),
        ({"fractions": (5.0, 5.0)}, "different"),
        ({"distractors": 2.0}, "--distractors"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**options)


def test_the_command_prints_the_counts_and_refuses_in_one_line(
    cutouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--train", "2", "--val", "0", "--test", "2", "--pretrain", "0", "--fractions", "--size", "32"]
    command = ["generate", "--cutouts", str(cutouts), "--out", str(tmp_path / "out"), "--workers", "1", *counts]
    assert make_scenes.main(command) == 0
    assert "train: 2 scenes" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations", "statistics.json", "test", "train",
    ]  # fmt: skip
    assert make_scenes.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "not an empty folder" in error
    assert make_scenes.main([*command[:3], "--out", str(tmp_path / "new"), "--workers", "0"]) == 2
    assert "--workers 0" in capsys.readouterr().err and not (tmp_path / "new").exists()
