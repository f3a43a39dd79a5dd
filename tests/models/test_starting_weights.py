"""Weights to start from, and backbones inside transformers' detectors."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from mcl_hf import MCLBackbone, MCLForPreTraining, MCLModel, load_backbone_weights, load_starting_weights
from mcl_hf.remote.checkpoints import MODEL_FILES, local_checkpoint
from mcl_hf.transfer.starting_weights import starting_statistics

from .tiny import TINY_RESNET, tiny_config


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("slim")
    MCLModel(tiny_config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `timm.models.save_for_hf` writes a trained classifier."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("timm")
    network = timm.create_model(TINY_RESNET["backbone"], num_classes=5, **TINY_RESNET["backbone_kwargs"])
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder


def test_a_slim_folder_starts_all_but_the_predictors(slim: Path) -> None:
    model = MCLForPreTraining(tiny_config())
    report = load_starting_weights(model, str(slim))
    total = len(model.mcl.backbone.state_dict())
    assert report.parts["backbone"] == (total, total)
    assert f"backbone {total}/{total}" in str(report) and "predictors 0/" in str(report) and "(new)" in str(report)
    assert torch.equal(model.mcl.fpn.lateral[0].conv.weight, MCLModel.from_pretrained(slim).fpn.lateral[0].conv.weight)
    assert all(torch.equal(target, online) for target, online in model._target_pairs())


def test_a_pretraining_folder_brings_its_target(tmp_path: Path) -> None:
    source = MCLForPreTraining(tiny_config(queue_size=4))
    with torch.no_grad():
        source.target.fpn.output[0].conv.weight += 1
    source.save_pretrained(tmp_path)
    model = MCLForPreTraining(tiny_config())
    report = load_starting_weights(model, str(tmp_path))
    assert all(loaded == total for loaded, total in report.parts.values())
    assert torch.equal(model.target.fpn.output[0].conv.weight, source.target.fpn.output[0].conv.weight)


def test_a_timm_folder_starts_the_backbone(timm_folder: Path) -> None:
    model = MCLForPreTraining(tiny_config())
    report = load_starting_weights(model, str(timm_folder))
    assert report.parts["backbone"][0] == report.parts["backbone"][1] and report.parts["FPN"][0] == 0
    trained = timm.create_model(f"local-dir:{timm_folder}", pretrained=True, **TINY_RESNET["backbone_kwargs"])
    assert torch.equal(model.mcl.backbone.layer4[0].conv1.weight, trained.layer4[0].conv1.weight)
    assert torch.equal(model.target.backbone.layer4[0].conv1.weight, trained.layer4[0].conv1.weight)


def test_plain_backbone_tensors_in_one_file(slim: Path, tmp_path: Path) -> None:
    save_file(MCLModel.from_pretrained(slim).backbone.state_dict(), tmp_path / "backbone.safetensors")
    backbone = MCLBackbone(tiny_config())
    report = load_starting_weights(backbone, str(tmp_path / "backbone.safetensors"))
    assert list(report.parts) == ["backbone"] and report.parts["backbone"][0] == report.parts["backbone"][1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:no_such_network", "timm cannot give weights for 'no_such_network'"),
        ("./no/such/folder", "neither timm:NAME, torchvision:NAME, a file, a folder nor a repository"),
        ("EMPTY", "no .safetensors weights in"),
        ("WRONG", "has other shapes than the model"),
        ("PARTIAL", "does not hold the whole backbone"),
    ],
)
def test_sources_that_cannot_serve_are_refused(source: str, message: str, tmp_path: Path) -> None:
    model = MCLModel(tiny_config())
    if source == "WRONG":
        MCLModel(tiny_config(fpn_channels=16)).save_pretrained(tmp_path)
    if source == "PARTIAL":
        save_file({"backbone.conv1.0.weight": model.backbone.conv1[0].weight.detach()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_starting_weights(model, str(tmp_path) if source.isupper() else source)


def test_a_damaged_file_is_named(slim: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((slim / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is no checkpoint: it is damaged, or was cut off"):
        load_starting_weights(MCLModel(tiny_config()), str(tmp_path))


def test_other_weights_in_a_folder_are_not_read(slim: Path, tmp_path: Path) -> None:
    """But those that transformers opens: the last by name overwrote them, or was damaged and stood in their way."""
    expected = load_file(slim / "model.safetensors")
    shutil.copytree(slim, tmp_path / "model")
    save_file({name: tensor + 1 for name, tensor in expected.items()}, tmp_path / "model" / "model_before.safetensors")
    (tmp_path / "model" / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    model = MCLModel(tiny_config())
    load_starting_weights(model, tmp_path / "model")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    MCLModel.from_pretrained(local_checkpoint(str(tmp_path / "model"), MODEL_FILES))


def test_a_pickled_file_is_pointed_elsewhere(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "epoch_100.pth")
    with pytest.raises(ValueError, match="mcl-hf import"):
        load_starting_weights(MCLModel(tiny_config()), str(tmp_path / "epoch_100.pth"))


def test_a_target_that_the_source_lacks_is_told_as_the_copy_that_it_is(slim: Path, tmp_path: Path) -> None:
    model = MCLForPreTraining(tiny_config())
    text = str(load_starting_weights(model, str(slim)))
    total = len(model.target.state_dict())
    assert f"target 0/{total} (copies the network)" in text and "predictors 0/36 (new)" in text
    model.save_pretrained(tmp_path)
    assert "copies" not in str(load_starting_weights(model, str(tmp_path)))


@pytest.mark.parametrize("prefix", ["", "timm:local-dir:"])
def test_the_statistics_of_a_start_are_what_its_pixels_had(prefix: str, timm_folder: Path, tmp_path: Path) -> None:
    network = timm.create_model(TINY_RESNET["backbone"], num_classes=5, **TINY_RESNET["backbone_kwargs"])
    config = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.9)}
    timm.models.save_for_hf(network, tmp_path, model_config={"pretrained_cfg": config}, safe_serialization=True)
    start = prefix + str(tmp_path)
    assert starting_statistics(start) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.9])
    (mean,), (std,) = starting_statistics(start, num_channels=1)
    assert (mean, std) == (pytest.approx(0.2), pytest.approx(0.6))
    assert starting_statistics(start, num_channels=4) is None
    model = MCLModel(tiny_config(image_mean=config["mean"], image_std=config["std"]))
    assert "pixels with its mean [0.1, 0.2, 0.3]" in str(load_starting_weights(model, start))
    assert torch.equal(model.backbone.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    assert "warning: its pixels had mean [0.1, 0.2, 0.3]" in str(load_starting_weights(MCLModel(tiny_config()), start))
    plain = load_starting_weights(MCLModel(tiny_config()), prefix + str(timm_folder))
    assert plain.pixels == "", "ImageNet's need no words"


def test_the_statistics_of_every_kind_of_start(slim: Path, tmp_path: Path) -> None:
    MCLModel(tiny_config(num_channels=1, image_mean=[0.3], image_std=[0.1])).save_pretrained(tmp_path)
    assert starting_statistics(str(tmp_path), num_channels=1) == ([0.3], [0.1])
    assert starting_statistics(str(tmp_path)) is None, "of other channels"
    assert starting_statistics(str(slim)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert starting_statistics("timm:tf_efficientnetv2_s.in21k") == ([0.5] * 3, [0.5] * 3)
    assert starting_statistics("random") is None
    save_file(MCLModel(tiny_config()).state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "config.json").unlink()
    assert starting_statistics(str(tmp_path / "weights.safetensors")) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        starting_statistics(str(tmp_path))


def detr(backbone_config) -> DetrForObjectDetection:
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=backbone_config, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=4,
    )  # fmt: skip
    return DetrForObjectDetection(config)


def mask2former(backbone_config) -> Mask2FormerForUniversalSegmentation:
    config = Mask2FormerConfig(
        backbone_config=backbone_config, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=16, num_queries=4,
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(config)


def upernet(backbone_config) -> UperNetForSemanticSegmentation:
    config = UperNetConfig(
        backbone_config=backbone_config, hidden_size=16, auxiliary_in_channels=24, auxiliary_channels=8
    )
    return UperNetForSemanticSegmentation(config)


@pytest.mark.parametrize("build", [detr, mask2former, upernet])
def test_transformers_models_take_the_backbone_with_its_weights(
    build, slim: Path, capsys: pytest.CaptureFixture
) -> None:
    model = build(AutoConfig.from_pretrained(slim)).eval()
    report = load_backbone_weights(model, str(slim))
    loaded, total = report.parts["backbone"]
    assert loaded == total > 40
    assert f"backbone {total}/{total}" in capsys.readouterr().out
    inside = next(module for module in model.modules() if isinstance(module, MCLBackbone))
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = MCLBackbone.from_pretrained(slim)(pixels).feature_maps
        found = inside(pixels).feature_maps
        model(pixel_values=torch.rand(1, 3, 64, 64))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_model_without_our_backbone_is_refused(slim: Path) -> None:
    with pytest.raises(ValueError, match="holds no MCLBackbone"):
        load_backbone_weights(torch.nn.Linear(2, 2), str(slim))


def test_a_detector_reopens_once_mcl_hf_is_imported(slim: Path, tmp_path: Path) -> None:
    model = detr(AutoConfig.from_pretrained(slim)).eval()
    model.save_pretrained(tmp_path)
    again = DetrForObjectDetection.from_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, again(pixels).logits)
