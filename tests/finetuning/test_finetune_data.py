"""What fine-tuning takes as training and validation data where nothing tells splits apart."""

import json

import numpy as np
import pytest
from datasets import Dataset

from mcl_hf.detection import open_detection_data
from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.finetuning.data import hold_out, training_data, validation_data
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten scenes, the last of them empty, of which nothing tells a split; two images a `scene`."""
    folder = write_scenes(tmp_path_factory.mktemp("whole"), 10, masks=None)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["scene"] = f"scene {(image['id'] - 1) // 2}"
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 10]
    (folder / "all.json").write_text(json.dumps(content))
    file.unlink()
    (folder / "train").rename(folder / "images")
    return folder


def parts(folder, **options):
    arguments = FinetuneArguments(data=str(folder), **options)
    lines: list[str] = []
    data = training_data(arguments)
    return data, validation_data(arguments, data, lines), "\n".join(lines)


def test_without_a_split_of_its_own_nothing_is_measured(folder):
    data, found, said = parts(folder)
    assert len(data) == 9 and found is None and "no split of its own for it" in said and "--val-fraction" in said
    assert "images without objects: 1, left out of training" in data.description
    assert "images without objects: 1, kept" in parts(folder, filter_empty=False)[0].description


def test_a_fraction_is_held_out_by_the_seed(folder):
    for seed in (0, 1):
        data, found, said = parts(folder, val_fraction=0.3, seed=seed, filter_empty=False)
        assert len(found) == 3 and sorted(data.image_ids + found.image_ids) == list(range(1, 11))
        assert f"3 of 10 images, held out by seed {seed}" in said
        assert parts(folder, val_fraction=0.3, seed=seed)[1].image_ids == found.image_ids
    seeds = {tuple(parts(folder, val_fraction=0.3, seed=seed)[1].image_ids) for seed in range(4)}
    assert len(seeds) > 1


def test_groups_stay_together(folder):
    for seed in range(3):
        data, found, _ = parts(folder, val_fraction=0.3, group_column="scene", seed=seed, filter_empty=False)
        assert len(found) == 4  # whole groups, until they make up the fraction
        assert {(n - 1) // 2 for n in data.image_ids}.isdisjoint({(n - 1) // 2 for n in found.image_ids})
    with pytest.raises(InputError, match="tells no groups: no image has anything in 'shot'"):
        parts(folder, val_fraction=0.3, group_column="shot")


def test_groups_of_a_table(tmp_path):
    data = open_detection_data(write_scenes(tmp_path, 6, masks=None))
    rows = [
        {
            "image": {"bytes": item.image_bytes(), "path": None},
            "plate": "ab"[n % 2],
            "objects": {"bbox": item.boxes.tolist(), "category": item.labels.tolist()},
        }
        for n, item in enumerate(data)
    ]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "x.parquet"))
    opened = open_detection_data(tmp_path / "x.parquet", box_format="xyxy", group_column="plate")
    assert opened.groups == list("ababab") and opened.select([1, 2]).groups == ["b", "a"]
    assert hold_out(opened, 0.1, 0)[1].tolist() in ([0, 2, 4], [1, 3, 5])


def test_at_least_one_image_on_either_side(folder):
    data = open_detection_data(folder)
    for fraction in (0.001, 0.999):
        kept, held_out = hold_out(data, fraction, 0)
        assert min(len(kept), len(held_out)) == 1 and np.array_equal(np.sort([*kept, *held_out]), np.arange(10))
    with pytest.raises(InputError, match="cannot be parted"):
        hold_out(data.select([0]), 0.5, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_fraction": 1.0}, "below 1"),
        ({"val_fraction": 0.2, "val_split": "val"}, "not both"),
        ({"group_column": "scene"}, "give val_fraction too"),
    ],
)
def test_options_that_contradict_each_other(options, said):
    with pytest.raises(InputError, match=said):
        FinetuneArguments(**options)
