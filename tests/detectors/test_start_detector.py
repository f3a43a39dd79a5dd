"""Where a detector's weights come from, and what the report says about it."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mcl_hf import (
    MCLBackbone,
    MCLDetectorConfig,
    MCLForInstanceSegmentation,
    MCLForObjectDetection,
    MCLForPreTraining,
    MCLModel,
    load_starting_weights,
)
from mcl_hf.detection import start_detector
from mcl_hf.detectors.start_detector import rename_for_detector
from mcl_hf.errors import InputError
from mcl_hf.transfer.starting_weights import rename_from_detector
from tests.models.tiny import TINY_RESNET, tiny_config
from tests.tiny_detector import DETECTORS, FEW_REGIONS, tiny_detector

SMALL = {"box_fc_dim": 16, "mask_head_convs": 1, **FEW_REGIONS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, and its whole pre-training model beside it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    model = MCLForPreTraining(tiny_config(image_mean=[0.1, 0.2, 0.3]))
    model.mcl.save_pretrained(folder)
    model.save_pretrained(folder / "pretraining")
    return folder


@pytest.mark.parametrize(("detector", "of_mcl", "total"), [("mask_rcnn", 390, 430), ("retinanet", 354, 378)])
def test_a_resnet50_gives_what_the_published_converter_gives(detector: str, of_mcl: int, total: int) -> None:
    """Names and shapes alone, on the meta device: 390 of Mask R-CNN's 430 tensors, 354 of RetinaNet's 378."""
    from mcl_hf import MCLConfig

    with torch.device("meta"):
        pretrained = MCLModel(MCLConfig()).state_dict()
        config = MCLDetectorConfig.from_mcl(MCLConfig(), detector=detector, num_labels=80)
        model = (MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection)(config)
    own = model.state_dict()
    renamed = rename_for_detector(pretrained, shift_levels=detector == "retinanet")
    shared = [name for name in own if name in renamed]
    assert len(own) == total and len(shared) == of_mcl
    assert all(own[name].shape == renamed[name].shape for name in shared)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("kind", ["slim", "pretraining"])
def test_a_run_starts_each_detector(detector: str, kind: str, run: Path, capsys: pytest.CaptureFixture) -> None:
    source = run if kind == "slim" else run / "pretraining"
    model_class = MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection
    names = {0: "cup", 1: "fork"}
    model = model_class.from_pretraining(source, id2label=names, detector=detector, **SMALL)
    printed = capsys.readouterr().out
    pretrained = MCLModel.from_pretrained(run)
    count = len(pretrained.backbone.state_dict())
    assert f"weights from {source}: backbone {count}/{count}, FPN" in printed
    assert model.config.id2label == names and model.config.image_mean == [0.1, 0.2, 0.3]
    assert torch.equal(model.fpn.output[-1].bn.running_var, pretrained.fpn.output[3].bn.running_var)
    assert torch.equal(model.fpn.lateral[-2].conv.weight, pretrained.fpn.lateral[2].conv.weight)
    if detector == "retinanet":
        assert "FPN 36/36" in printed and "RetinaNet head 0/20 (new)" in printed and "P6 and P7 0/4 (new)" in printed
    else:
        assert "FPN 48/48" in printed and "box head convs 6/6, fc1 0/2 (new)" in printed and "RPN 0/6 (new)" in printed
        own = model.roi_heads.box_head.conv[0]
        assert torch.equal(own.conv.weight, pretrained.region_head.conv[0].conv.weight)


def test_random_and_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.create_model(TINY_RESNET["backbone"], num_classes=5, **TINY_RESNET["backbone_kwargs"])
    timm.models.save_for_hf(network, tmp_path / "timm", safe_serialization=True)
    fields = {"num_labels": 2, "fpn_channels": 8, "backbone_kwargs": TINY_RESNET["backbone_kwargs"], **SMALL}
    model, report = start_detector(str(tmp_path / "timm"), **fields)
    assert model.config.backbone == "resnet10t"
    loaded, total = report.parts["backbone"]
    assert loaded == total > 40 and report.parts["FPN"][0] == 0
    assert torch.equal(model.backbone.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    model, report = start_detector("random", backbone="resnet10t", **fields)
    assert model.training and not any(loaded for loaded, _ in report.parts.values())
    with pytest.raises(InputError, match="weights for 'no_such': no such architecture"):
        start_detector("timm:no_such", num_labels=2)


@pytest.mark.parametrize("form", ["{}", "timm:local-dir:{}"])
def test_a_detector_takes_the_statistics_and_layers_of_timm_weights(form: str, tmp_path: Path) -> None:
    network = timm.create_model(TINY_RESNET["backbone"], num_classes=5, **TINY_RESNET["backbone_kwargs"])
    described = {"pretrained_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}}
    timm.models.save_for_hf(network, tmp_path, model_config=described, safe_serialization=True)
    start, fields = form.format(tmp_path), {"num_labels": 2, "fpn_channels": 8, **SMALL}
    model, report = start_detector(start, **fields)
    assert model.config.image_mean == model.config.image_std == [0.5] * 3
    assert torch.equal(model.backbone.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    assert "mean [0.5, 0.5, 0.5]" in str(report) and "not ImageNet's" in str(report)
    model, report = start_detector(start, image_mean=[0.1, 0.2, 0.3], **fields)
    assert model.config.image_mean == [0.1, 0.2, 0.3] and model.config.image_std == [0.5] * 3
    assert "warning: its pixels had mean [0.5, 0.5, 0.5]" in str(report)


def test_parts_can_be_left_out(run: Path) -> None:
    model, report = start_detector(str(run), num_labels=2, parts=["backbone", "box_head"], **SMALL)
    assert report.parts["FPN"] == (0, 48) and report.parts["box head convs"] == (6, 6)
    assert not torch.equal(model.fpn.lateral[0].conv.weight, MCLModel.from_pretrained(run).fpn.lateral[0].conv.weight)
    with pytest.raises(InputError, match="parts of retinanet are backbone, fpn, got 'box_head'"):
        start_detector(str(run), detector="retinanet", num_labels=2, parts=["box_head"])


def test_a_backbone_alone_leaves_the_pyramid_open(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    MCLBackbone.from_pretrained(run).save_pretrained(tmp_path / "backbone")
    width = MCLModel.from_pretrained(run).config.fpn_channels
    for source, parts in ((tmp_path / "backbone", None), (run, ["backbone"])):
        model, report = start_detector(str(source), num_labels=2, parts=parts, fpn_channels=2 * width, **SMALL)
        assert model.config.fpn_channels == 2 * width and model.config.image_mean == [0.1, 0.2, 0.3]
        assert report.parts["FPN"] == (0, 48) and report.parts["backbone"][0] == report.parts["backbone"][1] > 0
    with pytest.raises(InputError, match=f"fpn_channels {width}, but {2 * width} is asked for"):
        start_detector(str(run), num_labels=2, fpn_channels=2 * width, **SMALL)


def test_another_detector_gives_all_but_its_classes(tmp_path: Path) -> None:
    for detector in DETECTORS:
        source = tiny_detector(detector)
        source.save_pretrained(tmp_path / detector)
        model, report = start_detector(str(tmp_path / detector), detector=detector, num_labels=3)
        assert all(loaded == total for loaded, total in report.parts.values())
        assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert model.config.rpn_post_nms_top_n_test == source.config.rpn_post_nms_top_n_test
        model, report = start_detector(str(tmp_path / detector), detector=detector, num_labels=7)
        new = {name for name, (loaded, total) in report.parts.items() if loaded < total}
        assert (
            new
            == {
                "mask_rcnn": {"box predictor", "mask predictor", "classes known by name"},
                "faster_rcnn": {"box predictor", "classes known by name"},
                "retinanet": {"RetinaNet head", "classes known by name"},
            }[detector]
        )
        assert model.config.num_labels == 7
    for one, other in (("mask_rcnn", "faster_rcnn"), ("faster_rcnn", "mask_rcnn")):  # the same but for the masks
        model, report = start_detector(str(tmp_path / one), detector=other, num_labels=3)
        new = {name for name, (loaded, total) in report.parts.items() if loaded < total}
        assert new == ({"mask head", "mask predictor"} if other == "mask_rcnn" else set())
        assert model.config.box_fc_dim == 16
    model, report = start_detector(str(tmp_path / "mask_rcnn"), detector="retinanet", num_labels=3)
    assert report.parts["FPN"] == (36, 36) and report.parts["RetinaNet head"][0] == 0
    assert len(model.config.anchor_sizes[0]) == 3
    model, report = start_detector(str(tmp_path / "retinanet"), detector="mask_rcnn", num_labels=3)
    fpn = tiny_detector("retinanet").fpn
    assert report.parts["FPN"] == (36, 48) and report.parts["RPN"][0] == 0
    assert torch.equal(model.fpn.lateral[1].conv.weight, fpn.lateral[0].conv.weight)


def test_parts_of_a_retinanet_are_whole(tmp_path: Path) -> None:
    """Its pyramid starts at P3, which is told by its head, also where the head is not asked for."""
    source = tiny_detector("retinanet")
    source.save_pretrained(tmp_path)
    model, report = start_detector(str(tmp_path), detector="retinanet", num_labels=3, parts=["backbone", "fpn"])
    assert report.parts["FPN"] == (36, 36) and report.parts["RetinaNet head"][0] == 0
    assert torch.equal(model.fpn.lateral[0].conv.weight, source.fpn.lateral[0].conv.weight)


@pytest.mark.parametrize("detector", DETECTORS)
def test_pretraining_goes_on_from_a_detector(detector: str, tmp_path: Path) -> None:
    """What a start of a detector takes over, the way back does too: box head convolutions, and the levels that are."""
    source = tiny_detector(detector, seed=5)
    source.save_pretrained(tmp_path)
    model = MCLForPreTraining(tiny_config())
    report = load_starting_weights(model, str(tmp_path))
    backbone, fpn = report.parts["backbone"], report.parts["FPN"]
    assert backbone[0] == backbone[1] and report.parts["predictors"][0] == 0
    lateral = [block.conv.weight for block in model.mcl.fpn.lateral]
    if detector == "retinanet":
        assert fpn == (36, 48) and report.parts["region head"][0] == 0
        assert all(torch.equal(a, b.conv.weight) for a, b in zip(lateral[1:], source.fpn.lateral, strict=True))
    else:
        assert fpn == (48, 48) and f"region head 6/{report.parts['region head'][1]}" in str(report)
        own, given = model.mcl.region_head.conv[0], source.roi_heads.box_head.conv[0]
        assert all(torch.equal(own.state_dict()[name], tensor) for name, tensor in given.state_dict().items())
        assert torch.equal(model.target.region_head.conv[0].conv.weight, given.conv.weight)


def test_there_and_back_are_the_same_tensors(run: Path) -> None:
    tensors = MCLModel.from_pretrained(run).state_dict()
    back = rename_from_detector(rename_for_detector(tensors, shift_levels=False))
    assert back.keys() == tensors.keys() and all(back[name] is tensor for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fpn_channels": 16}, "has fpn_channels 8, but 16 is asked for"),
        ({"backbone": "resnet18", "backbone_kwargs": None}, "has backbone resnet10t, but resnet18 is asked for"),
        ({"box_head_convs": 2}, "does not hold the whole box head convs: 6/12 tensors"),
        ({"box_nms_thresh": 7}, "box_nms_thresh must be within 0 and 1"),
        ({"num_labels": None}, "give num_labels or id2label"),
        ({"id2label": {0: "a"}}, "num_labels=2 does not fit the 1 names"),
        ({"init": "./nowhere"}, "no checkpoint at ./nowhere: neither random, timm:NAME"),
        ({"init": "DAMAGED"}, "is damaged"),
        ({"init": "NO_FPN"}, "does not hold the whole FPN: 47/48 tensors"),
    ],
)
def test_what_cannot_start_is_one_line(fields: dict, message: str, run: Path, tmp_path: Path) -> None:
    init = fields.get("init", str(run))
    if init.isupper():
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((run / name).read_bytes())
        if init == "DAMAGED":
            (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-50])
        else:
            tensors = load_file(run / "model.safetensors")
            del tensors["fpn.lateral.0.bn.bias"]
            save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        init = str(tmp_path)
    arguments = {"num_labels": 2, **SMALL, **{name: value for name, value in fields.items() if name != "init"}}
    with pytest.raises(InputError, match=message) as caught:
        start_detector(init, **arguments)
    assert "\n" not in str(caught.value)
