"""Every kind of folder through every door of transformers."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
)

from mcl_hf import MCLBackbone, MCLForPreTraining, MCLForSupervisedPreTraining, MCLImageProcessor, MCLModel

from .tiny import tiny_batch, tiny_config, tiny_views


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A slim, a pre-training and a supervised folder whose online networks hold the same weights."""
    root = tmp_path_factory.mktemp("folders")
    torch.manual_seed(0)
    config = tiny_config(queue_size=4, num_labels=3)
    model = MCLForPreTraining(config)
    model(**tiny_batch(config)).loss.backward()  # moves the running statistics
    model.update_target(0.5)
    supervised = MCLForSupervisedPreTraining(config)
    supervised.mcl.load_state_dict(model.mcl.state_dict())
    for name, part in (("slim", model.mcl), ("pretraining", model), ("supervised", supervised)):
        part.save_pretrained(root / name)
        MCLImageProcessor.from_config(config).save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("kind", ["slim", "pretraining", "supervised"])
@pytest.mark.parametrize(
    ("door", "expected"), [(AutoModel, MCLModel), (MCLModel, MCLModel), (MCLBackbone, MCLBackbone)]
)
def test_backbone_and_model_open_from_every_folder(folders: dict[str, Path], kind: str, door, expected) -> None:
    model, info = door.from_pretrained(folders[kind], output_loading_info=True)
    assert type(model) is expected
    assert not info["missing_keys"] and not info["unexpected_keys"]
    reference = MCLForPreTraining.from_pretrained(folders["pretraining"]).mcl.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, reference[name]), name


def test_maps_are_the_same_through_every_door(folders: dict[str, Path]) -> None:
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        from_model = AutoModel.from_pretrained(folders["slim"])(pixels).backbone_feature_maps
        from_backbone = MCLBackbone.from_pretrained(folders["pretraining"])(pixels).feature_maps
        built = AutoBackbone.from_config(AutoConfig.from_pretrained(folders["slim"]))
        built.load_state_dict(MCLBackbone.from_pretrained(folders["slim"]).state_dict())
        from_config = built.eval()(pixels).feature_maps
    for a, b, c in zip(from_model, from_backbone, from_config, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_whole_pretraining_folder_continues(folders: dict[str, Path]) -> None:
    model = AutoModelForPreTraining.from_pretrained(folders["pretraining"])
    assert type(model) is MCLForPreTraining
    online, target = model.mcl.fpn.output[3].conv.weight, model.target.fpn.output[3].conv.weight
    assert online.requires_grad and not target.requires_grad
    assert model.contrast.queue_present.any()
    model.train()(**tiny_batch(model.config)).loss.backward()


def test_slim_folder_starts_a_new_target_and_says_so(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = MCLForPreTraining.from_pretrained(folders["slim"])
    assert "missing of the target starts as a copy" in caplog.text
    assert all(torch.equal(target, online) for target, online in model._target_pairs())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert model.predictors[0].mlp[0].weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not any(parameter.requires_grad for parameter in model.target.parameters())
    assert not model.contrast.queue_present.any()


def test_supervised_folder_continues(folders: dict[str, Path]) -> None:
    model = MCLForSupervisedPreTraining.from_pretrained(folders["supervised"])
    output = model.train()(tiny_views(model.config), torch.tensor([0, 1, 2, 0]))
    output.loss.backward()
    assert output.accuracy.shape == (4,) and output.level_losses.sum().item() == pytest.approx(output.loss.item())
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with pytest.raises(ValueError, match="labels must have shape"):
        model(tiny_views(model.config), torch.tensor([0, 1]))


def test_image_processor(folders: dict[str, Path]) -> None:
    processor = AutoImageProcessor.from_pretrained(folders["slim"])
    assert type(processor) is MCLImageProcessor
    image = torch.full((3, 80, 120), 255, dtype=torch.uint8)
    pixels = processor(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229, abs=1e-4)
    assert processor(image, return_tensors="pt", do_center_crop=False).pixel_values.shape == (1, 3, 64, 96)


def test_initialisation_survives_transformers() -> None:
    model = MCLModel(tiny_config())
    zero_init = model.backbone.layer1[0].bn2.weight
    assert torch.equal(zero_init, torch.zeros_like(zero_init))  # timm's own, not transformers' ones
    assert model.backbone.layer4[0].conv1.weight.std() > 0.03  # transformers' default would be 0.02
    bound = (6 / (8 + 8) / 9) ** 0.5
    assert model.fpn.output[0].conv.weight.abs().max().item() == pytest.approx(bound, rel=0.05)  # Xavier uniform


def test_missing_backbone_tensors_are_initialised(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folders["slim"] / "model.safetensors")
    for name in ("backbone.conv1.weight", "backbone.layer4.0.bn1.running_var"):
        name = next(
            key
            for key in tensors
            if key == name
            or (name.endswith("conv1.weight") and key.startswith("backbone.conv1") and key.endswith("weight"))
        )
        del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folders["slim"] / "config.json").read_text())
    model = MCLModel.from_pretrained(tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert torch.equal(model.backbone.layer4[0].bn1.running_var, torch.ones(32))
