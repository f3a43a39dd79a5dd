"""Names against those of real models: 390 of 430 and 354 of 378, with the same shapes, and back."""

import json
from pathlib import Path

import pytest
import torch

from mcl_hf import MCLConfig, MCLModel
from mcl_hf.transfer.convert import convert, convert_back
from mcl_hf.transfer.keymaps import TABLES, Rule, to_ours, to_theirs

REFERENCE = Path(__file__).parents[1] / "reference"
PREFIXES = {"backbone": "backbone.", "fpn": "fpn.", "box_head": "region_head."}


def reference(name: str) -> dict:
    return json.loads((REFERENCE / name).read_text())


@pytest.fixture(scope="module")
def resnet50() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return MCLModel(MCLConfig()).state_dict()


@pytest.mark.parametrize("target", ["detectron2", "mmdet", "torchvision"])
def test_every_row_of_the_map_and_back(target: str) -> None:
    rows = 0
    for part, names in reference("export_key_map.json").items():
        for neutral, theirs in names.items():
            ours = PREFIXES[part] + neutral.replace("convs.", "conv.")
            assert to_theirs(ours, TABLES[target, "mask_rcnn"]) == theirs[target]
            assert to_ours(theirs[target], TABLES[target, "mask_rcnn"]) == ours
            rows += 1
    assert rows == 390


@pytest.mark.parametrize(
    ("target", "detector", "file", "given", "total"),
    [
        ("detectron2", "mask_rcnn", "detectron2_maskrcnn_r50_fpn_4conv1fc.json", 390, 430),
        ("detectron2", "retinanet", "detectron2_retinanet_r50.json", 354, 378),
        ("torchvision", "mask_rcnn", "torchvision_maskrcnn_4conv1fc_fpnbn.json", 390, 430),
        ("torchvision", "mask_rcnn", "torchvision_maskrcnn_v2.json", 390, 430),
    ],
)
def test_shapes_of_real_models_and_nothing_else(resnet50, target, detector, file, given, total) -> None:
    real = reference(file)
    tensors, coverage = convert(resnet50, TABLES[target, detector], target, detector)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {name: real[name] for name in tensors}
    assert (len(tensors), coverage.given, coverage.total) == (given, given, total)
    assert f"{given} of {total} tensors" in str(coverage)
    if target == "detectron2":
        assert len(real) == total
        untouched = set(real) - set(tensors)
        new = ("fc1", "box_predictor", "mask_head", "rpn_head", "top_block", "head.")
        assert all(any(part in name for part in new) for name in untouched)


@pytest.mark.parametrize(("target", "detector"), sorted(TABLES))
def test_tensors_come_back_as_they_went(resnet50, target: str, detector: str) -> None:
    tensors, _ = convert(resnet50, TABLES[target, detector], target, detector)
    back, left = convert_back(tensors, TABLES[target, detector])
    expected = {name for name in resnet50 if not name.startswith("region_head.mlp.")}
    if detector == "retinanet":
        gone = ("region_head.", "fpn.lateral.0.", "fpn.output.0.")
        expected = {name for name in expected if not name.startswith(gone)}
    assert set(back) == expected and not left
    assert all(back[name].shape == resnet50[name].shape for name in back)


def test_tensors_of_a_users_own_stay_behind_and_are_counted(resnet50) -> None:
    more = {**resnet50, "my_head.weight": torch.zeros(2)}
    tensors, coverage = convert(more, TABLES["detectron2", "mask_rcnn"], "detectron2", "mask_rcnn")
    assert len(tensors) == 390 and "other tensors: 1 tensors without a place" in coverage.left_out


def test_retinanet_of_mmdet_and_torchvision_counts_from_p3() -> None:
    assert to_theirs("fpn.lateral.0.conv.weight", TABLES["mmdet", "retinanet"]) is None
    assert to_theirs("fpn.output.1.bn.bias", TABLES["mmdet", "retinanet"]) == "neck.fpn_convs.0.bn.bias"
    assert to_ours("neck.fpn_convs.3.conv.weight", TABLES["mmdet", "retinanet"]) is None  # P6
    assert to_ours("backbone.fpn.layer_blocks.2.1.bias", TABLES["torchvision", "retinanet"]) == "fpn.output.3.bn.bias"


def test_a_leaf_is_one_word() -> None:
    rule = Rule("a.{i}.{leaf}", "b{i}.{leaf}", shift=1)
    assert rule.to_theirs("a.0.weight") == "b1.weight" and rule.to_ours("b1.weight") == "a.0.weight"
    assert rule.to_ours("b1.norm.weight") is None
    assert rule.to_ours("b0.weight") is None  # there is no a.-1
