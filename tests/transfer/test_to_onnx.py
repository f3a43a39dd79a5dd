"""Graphs give the model's maps at any size."""

from pathlib import Path

import pytest
import torch

from mcl_hf import MCLConfig, MCLModel
from mcl_hf.errors import InputError
from mcl_hf.transfer import export_checkpoint
from tests.models.tiny import tiny_config
from tests.transfer.norms import randomise_norms

onnxruntime = pytest.importorskip("onnxruntime")
SIZES = [(1, 64, 64), (3, 130, 97), (2, 224, 352)]


@pytest.fixture(scope="module")
def model() -> MCLModel:
    torch.manual_seed(0)
    model = MCLModel(tiny_config()).eval()
    randomise_norms(model)
    return model


@pytest.fixture(scope="module")
def tiny_run(model: MCLModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder)
    return folder


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="its exporter fails on batch norm")
@torch.no_grad()
def test_onnx_gives_the_maps_at_any_size(model: MCLModel, tiny_run: Path, tmp_path: Path) -> None:
    coverage = export_checkpoint(tiny_run, tmp_path / "out", "onnx")
    assert coverage.parts == {"backbone": (84, 84), "FPN": (48, 48)}
    for file, names, field in (
        ("backbone.onnx", ["c2", "c3", "c4", "c5"], "backbone_feature_maps"),
        ("backbone_fpn.onnx", ["p2", "p3", "p4", "p5"], "feature_maps"),
    ):
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / file))
        assert [output.name for output in session.get_outputs()] == names
        assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
        batch, _, height, width = session.get_outputs()[0].shape
        assert batch == "batch" and eval(height, {"height": 97}) == 25 and eval(width, {"width": 64}) == 16
        for batch, height, width in SIZES:
            pixels = torch.randn(batch, 3, height, width)
            found = session.run(None, {"pixel_values": pixels.numpy()})
            for ours, theirs in zip(model(pixels)[field], found, strict=True):
                assert ours.shape == theirs.shape and (ours - torch.from_numpy(theirs)).abs().max() < 1e-4


@torch.no_grad()
def test_torch_export_gives_the_maps_at_any_size(model: MCLModel, tiny_run: Path, tmp_path: Path) -> None:
    export_checkpoint(tiny_run, tmp_path / "out", "pt2")
    program = torch.export.load(tmp_path / "out" / "backbone_fpn.pt2").module()
    for batch, height, width in SIZES:
        pixels = torch.randn(batch, 3, height, width)
        for ours, theirs in zip(model(pixels).feature_maps, program(pixels), strict=True):
            assert (ours - theirs).abs().max() < 1e-4


def test_an_exporter_that_fails_is_one_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AttributeError("'tuple' object has no attribute 'dtype'\nand pages more")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(InputError, match=r"cannot write it as ONNX with .* \(AttributeError\): take a newer"):
        export_checkpoint(tiny_run, tmp_path / "out", "onnx")


def test_what_onnx_needs_is_asked_for_before_anything_is_traced(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcl_hf.transfer.to_onnx.find_spec", lambda name: None if name == "onnxscript" else name)
    monkeypatch.setattr("mcl_hf.transfer.to_onnx.trace", lambda *_: pytest.fail("it was traced"))
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'mcl-hf\[onnx\]'"):
        export_checkpoint(tiny_run, tmp_path / "new" / "out", "onnx")
    assert not (tmp_path / "new").exists()


def test_swin_is_refused_at_once(tmp_path: Path) -> None:
    config = MCLConfig(
        backbone="swin_tiny_patch4_window7_224", backbone_kwargs={"depths": [1, 1, 1, 1], "embed_dim": 24},
        fpn_channels=8, hidden_dim=8,
    )  # fmt: skip
    MCLModel(config).save_pretrained(tmp_path / "run")
    with pytest.raises(InputError, match="shifted windows"):
        export_checkpoint(tmp_path / "run", tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
