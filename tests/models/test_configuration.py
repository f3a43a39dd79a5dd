import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from mcl_hf import MCLConfig

from .tiny import tiny_config


def test_every_field_is_written_and_read_back(tmp_path: Path) -> None:
    config = tiny_config(level_pairing="all", queue_size=32, temperature=0.2, num_channels=5, num_labels=7)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for name in ("backbone", "montage_ratios", "montage_fractions", "level_weights", "queue_size", "stage_names"):
        assert name in written, name
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, MCLConfig)
    read = json.loads(again.to_json_string())
    assert {name: value for name, value in read.items() if name in written} == written
    assert (again.num_labels, again.temperature, again.image_mean) == (7, 0.2, [0.5] * 5)


def test_default_is_the_paper() -> None:
    config = MCLConfig()
    assert config.level_maps == [3, 2, 1, 0]
    assert config.image_size == 224
    assert sum(config.level_weights) == 1
    assert MCLConfig(backbone="resnet18", montage_ratios=[1, 4]).montage_fractions == [1, 1 / 16]  # each image once
    assert config.out_features == ["stage1", "stage2", "stage3", "stage4"]


def test_backbones_without_a_stem_map_list_stages_only() -> None:
    assert MCLConfig(backbone="convnext_atto").stage_names == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet5o"}, "did you mean"),
        ({"backbone": "vit_tiny_patch16_224"}, "MCL needs 4, 8, 16 and 32"),
        ({"montage_ratios": (1, 2), "level_weights": (1.0,)}, "one value a level"),
        ({"montage_ratios": (2, 4, 8, 1)}, "must be 1"),
        ({"montage_ratios": (1, 2, 3, 8)}, "among 1, 2, 4, 8"),
        ({"level_pairing": "some"}, "level_pairing must be one of"),
        ({"region_scope": "half"}, "region_scope must be one of"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"level_weights": (0, 0, 0, 0)}, "there would be no loss"),
        ({"image_std": [0.2, 0, 0.2]}, "image_std must be above 0"),
        ({"num_channels": 13}, "num_channels must be 1 to 12"),
        ({"num_channels": 4, "image_mean": [0.5]}, "image_mean has 1 values"),
        ({"backbone_kwargs": {"no_such_argument": 1}}, "cannot be built"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCLConfig(**fields)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_that_are_left_out_follow_the_ratios(levels):
    config = MCLConfig(backbone="resnet18", montage_ratios=[1, 2, 4, 8][:levels])
    assert config.montage_fractions == [1, 1 / 4, 1 / 16, 1 / 32][:levels]
    assert config.level_weights == {1: [1], 2: [0.5, 0.5], 3: [0.5, 0.25, 0.25], 4: [0.5, 0.25, 0.125, 0.125]}[levels]
    assert sum(config.level_weights) == 1
    assert MCLConfig(backbone="resnet18", montage_ratios=[1, 4]).montage_fractions == [1, 1 / 16]  # each image once


def test_a_field_that_is_given_anew_brings_what_follows_from_it(tmp_path: Path) -> None:
    MCLConfig(backbone="resnet18", out_features=["stage3", "stage4"], temperature=0.2).save_pretrained(tmp_path)
    other = MCLConfig.from_pretrained(tmp_path, backbone="convnext_atto", num_channels=1, montage_ratios=(1, 4))
    assert other.stage_names == ["stage1", "stage2", "stage3", "stage4"]
    assert (other.out_features, other.out_indices) == (["stage3", "stage4"], [2, 3])
    assert (other.image_mean, other.image_std) == ([0.5], [0.25])
    assert (other.montage_fractions, other.level_weights, other.temperature) == ([1, 1 / 16], [0.5, 0.5], 0.2)
    same = AutoConfig.from_pretrained(tmp_path, backbone="resnet18", image_mean=[0.1, 0.2, 0.3], out_indices=[4])
    assert (same.stage_names[0], same.image_mean, same.out_features) == ("stem", [0.1, 0.2, 0.3], ["stage4"])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        MCLConfig.from_pretrained(tmp_path, temperature=0)
