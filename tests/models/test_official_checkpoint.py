"""Reading the published `.pth`: names, sizes, and files that are refused."""

import json
from pathlib import Path

import pytest
import torch

from mcl_hf import MCLForPreTraining
from mcl_hf.models.official_checkpoint import our_name, read_official_checkpoint

from .published_case import REFERENCE, published_state_dict
from .tiny import tiny_config

NARROW = tiny_config(backbone="resnet18", backbone_kwargs={})


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return published_state_dict(MCLForPreTraining(NARROW))


def saved(content: object, folder: Path) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return path


def test_every_published_name_has_its_place() -> None:
    shapes = json.loads((REFERENCE / "mcl_official_keys.json").read_text())
    with torch.device("meta"):
        model = MCLForPreTraining(MCLForPreTraining.config_class())
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {our_name(name): shape for name, shape in shapes.items() if not name.startswith("backbone.")}
    assert found == expected


def test_sizes_and_values_come_from_the_tensors(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    path = saved({"state_dict": wrapped, "optimizer": {}, "meta": {"iter": 3}}, tmp_path)
    model = MCLForPreTraining.from_official(path, dtype=torch.float64, temperature=0.2, region_size=2)
    assert (model.config.backbone, model.config.fpn_channels, model.config.region_convs) == ("resnet18", 8, 1)
    assert (model.config.hidden_dim, model.config.embedding_dim, model.config.temperature) == (16, 8, 0.2)
    assert torch.equal(model.target.backbone.conv1.weight, state["encoder_k.0.conv1.weight"])
    assert torch.equal(model.predictors[3].mlp[3].weight, state["head.predictor.3.mlp.3.weight"])
    assert MCLForPreTraining.from_official(path).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder_q.1.fpn_convs.2.bn.weight"), "1 tensors missing"),
        (lambda s: s.pop("encoder_k.0.conv1.weight"), "1 tensors missing"),
        (lambda s: s.pop("encoder_q.2.mlp.0.weight"), "is not a whole MCL checkpoint"),
        (lambda s: s.update({"encoder_q.2.shared_fc.0.weight": torch.zeros(2)}), "no place for 1 entries"),
        (lambda s: s.update({"encoder_q.0.layer5.weight": torch.zeros(2)}), "1 without a place"),
        (lambda s: s.update({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}), "contradicts itself"),
        (lambda s: s.update({"encoder_q.1.lateral_convs.1.conv.weight": torch.zeros(8, 3, 1, 1)}), "another shape"),
        (lambda s: [s.pop(f"{p}.layer3.1.conv1.weight") for p in ("encoder_q.0", "backbone")], "no ResNet has"),
    ],
)
def test_broken_checkpoints_are_refused(state: dict[str, torch.Tensor], tmp_path: Path, change, message: str) -> None:
    broken = dict(state)
    change(broken)
    with pytest.raises(ValueError, match=message):
        MCLForPreTraining.from_official(saved(broken, tmp_path))


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_in_the_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="cannot be read without running code"):
        read_official_checkpoint(saved({"state_dict": {}, "meta": Evil()}, tmp_path))
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="is no checkpoint: it is a text"):
        read_official_checkpoint(tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_official_checkpoint(tmp_path / "none.pth")
