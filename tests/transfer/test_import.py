"""Round trips are exact, other programs' layouts are recognised, and nothing in a file is run."""

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from mcl_hf import MCLBackbone, MCLConfig, MCLForPreTraining, MCLModel, load_starting_weights
from mcl_hf.cli import main
from mcl_hf.errors import InputError
from mcl_hf.transfer import export_checkpoint, import_checkpoint
from mcl_hf.transfer.import_ import IMPORT_RECORD
from tests.models.published_case import published_state_dict


@pytest.fixture
def resnet() -> dict[str, torch.Tensor]:
    return resnet18(weights=None).state_dict()


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("target", "file", "detector", "parts"),
    [
        ("timm", "", None, {"backbone": 120}),
        ("timm", "model.safetensors", None, {"backbone": 120}),
        ("torchvision", "resnet.safetensors", None, {"backbone": 120}),
        ("torchvision", "detector.safetensors", "mask_rcnn", {"backbone": 120, "fpn": 48, "region_head": 24}),
        ("torchvision", "detector.safetensors", "retinanet", {"backbone": 120, "fpn": 36}),
        ("detectron2", "model.pth", "mask_rcnn", {"backbone": 120, "fpn": 48, "region_head": 24}),
        ("detectron2", "model.pth", "retinanet", {"backbone": 120, "fpn": 36}),
        ("mmdet", "model.pth", "mask_rcnn", {"backbone": 120, "fpn": 48, "region_head": 24}),
        ("mmdet", "model.pth", "retinanet", {"backbone": 120, "fpn": 36}),
    ],
)
def test_ours_to_target_to_ours_is_exact(
    run: Path, pretraining: MCLForPreTraining, tmp_path: Path, target: str, file: str, detector: str | None, parts: dict
) -> None:
    export_checkpoint(run, tmp_path / "out", target, detector=detector)
    report, _ = import_checkpoint(tmp_path / "out" / file, tmp_path / "back")
    back, online = load_file(tmp_path / "back" / "model.safetensors"), pretraining.mcl.state_dict()
    assert {part: sum(name.startswith(f"{part}.") for name in back) for part in parts} == parts
    assert len(back) == sum(parts.values()) and report.parts["backbone"] == (120, 120)
    assert all(
        torch.equal(tensor, online[name]) and tensor.dtype == online[name].dtype for name, tensor in back.items()
    )
    with torch.no_grad():
        pixels = torch.randn(1, 3, 64, 64)
        backbone = MCLBackbone.from_pretrained(tmp_path / "back")
        expected = pretraining.mcl(pixels).backbone_feature_maps
        assert torch.equal(backbone(pixels).feature_maps[3], expected[3])


def layouts(resnet: dict[str, torch.Tensor]) -> dict[str, dict]:
    """Small files in the layouts of other programs."""
    body = {name: tensor for name, tensor in resnet.items() if not name.startswith("fc.")}
    other = {name: tensor + 1 for name, tensor in body.items()}
    mlp = {"fc.0.weight": torch.zeros(4, 512), "fc.2.weight": torch.zeros(4, 4)}
    fpn = {}
    for index, width in enumerate((64, 128, 256, 512)):
        for kind, shape in (("lateral_convs", (8, width, 1, 1)), ("fpn_convs", (8, 8, 3, 3))):
            fpn[f"{kind}.{index}.conv.weight"] = torch.full(shape, float(index))
            fpn |= {
                f"{kind}.{index}.bn.{leaf}": torch.ones(8) for leaf in ("weight", "bias", "running_mean", "running_var")
            }
            fpn[f"{kind}.{index}.bn.num_batches_tracked"] = torch.tensor(3)
    head = {f"conv{index}.weight": torch.full((8, 8, 3, 3), float(index)) for index in range(1, 5)}
    for index in range(1, 5):
        head |= {f"bn{index}.{leaf}": torch.ones(8) for leaf in ("weight", "bias", "running_mean", "running_var")}
        head[f"bn{index}.num_batches_tracked"] = torch.tensor(3)
    moco = prefixed(body | mlp, "module.encoder_q.") | prefixed(other | mlp, "module.encoder_k.")
    dense = prefixed(body, "encoder_q.0.") | prefixed(other, "encoder_k.0.") | prefixed(body, "backbone.")
    soco = prefixed(body, "module.encoder.") | prefixed(other, "module.encoder_k.") | prefixed(fpn, "module.neck.")
    soco |= prefixed(fpn, "module.neck_k.") | prefixed(head, "module.head.")
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(0.03)}]}
    queue = {"module.queue": torch.zeros(4, 8)}
    neck = {"queue": torch.zeros(1), "encoder_q.1.mlp.0.weight": torch.ones(2)}
    frozen = {name: tensor for name, tensor in body.items() if not name.endswith("num_batches_tracked")}
    heads = {"rpn_head.rpn_conv.bias": torch.zeros(2)}
    return {
        "moco": {"epoch": 200, "arch": "resnet18", "state_dict": moco | queue, "optimizer": optimizer},
        "densecl": {"meta": {"epoch": 200, "config": "text"}, "state_dict": dense | neck},
        "extracted": {"state_dict": body, "author": "OpenSelfSup"},
        "soco": {"opt": argparse.Namespace(lr=1.0, crop=[1, 2]), "model": soco, "epoch": 100},
        "mmdet": {"meta": {"CLASSES": ("cat",)}, "state_dict": prefixed(body, "backbone.") | heads},
        "torchvision": resnet,
        "frozen": {"model": prefixed(frozen, "backbone.body.")},
    }


@pytest.mark.parametrize("name", ["moco", "densecl", "extracted", "soco", "mmdet", "torchvision", "frozen"])
def test_layouts_of_other_programs(resnet: dict[str, torch.Tensor], tmp_path: Path, name: str, capsys) -> None:
    path = tmp_path / "file.pth.tar"
    torch.save(layouts(resnet)[name], path)
    assert main(["import", str(path), str(tmp_path / "out")]) == 0
    report = capsys.readouterr().out
    has_fpn = name == "soco"
    assert "backbone 120/120" in report and ("FPN 48/48" if has_fpn else "FPN 0/48 (new)") in report
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert len(tensors) == 120 + (72 if has_fpn else 0)
    assert all(
        torch.equal(tensor, resnet[n.removeprefix("backbone.")])
        for n, tensor in tensors.items()
        if n.startswith("backbone.")
    )
    if has_fpn:
        assert float(tensors["region_head.conv.3.conv.weight"].mean()) == 4 and "region head 24/36" in report
        assert tensors["fpn.output.3.conv.weight"].mean() == 3
    config = MCLModel.config_class.from_pretrained(tmp_path / "out")
    if name == "moco":  # what --init does, in a model of another width
        config.fpn_channels = 4
        model = MCLModel(config)
        loaded = load_starting_weights(model, str(tmp_path / "out"))
        assert loaded.parts["backbone"] == (120, 120) and loaded.parts["FPN"] == (0, 48)
        assert torch.equal(model.backbone.conv1.weight, resnet["conv1.weight"])


def test_a_published_checkpoint_becomes_the_whole_model(tmp_path: Path, pretraining: MCLForPreTraining) -> None:
    state = published_state_dict(pretraining)
    torch.save({"state_dict": state, "meta": {"iter": 1, "lr": np.float64(1)}}, tmp_path / "mcl.pth")
    report, _ = import_checkpoint(tmp_path / "mcl.pth", tmp_path / "out")
    assert report.parts["target"] == (204, 204) and report.parts["predictors"][0] > 0
    model = MCLForPreTraining.from_pretrained(tmp_path / "out")
    assert torch.equal(model.target.backbone.conv1.weight, state["encoder_k.0.conv1.weight"])
    assert torch.equal(model.mcl.fpn.output[2].conv.weight, state["encoder_q.1.fpn_convs.2.conv.weight"])


def test_an_fpn_with_biases_stays_behind(tmp_path: Path) -> None:
    detector = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    report, remarks = import_checkpoint(tmp_path / "detector.pth", tmp_path / "out")
    assert report.parts["backbone"] == (318, 318) and report.parts["FPN"] == (0, 48)
    assert any("left out" in line for line in remarks)
    record = json.loads((tmp_path / "out" / IMPORT_RECORD).read_text())
    assert (record["file"], record["layout"], record["parts"]["FPN"]) == ("detector.pth", "torchvision", [0, 48])
    assert record["sha256"] == hashlib.sha256((tmp_path / "detector.pth").read_bytes()).hexdigest()


def test_a_pyramid_of_another_depth_is_refused_by_name(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tensors = prefixed(resnet, "backbone.body.")
    for level in (0, 1):
        tensors[f"backbone.fpn.inner_blocks.{level}.0.weight"] = torch.zeros(8, 64 * 2**level, 1, 1)
        tensors[f"backbone.fpn.inner_blocks.{level}.1.running_mean"] = torch.zeros(8)
    tensors["backbone.fpn.inner_blocks.1.0.weight"] = torch.zeros(6, 128, 1, 1)
    torch.save(tensors, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"tensors do not fit resnet18, such as fpn\.lateral\.1\.conv\.weight"):
        import_checkpoint(tmp_path / "short.pth", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_timms_may_leave_out_what_was_published(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": null}')
    save_file(resnet, tmp_path / "timm" / "model.safetensors")
    report, _ = import_checkpoint(tmp_path / "timm", tmp_path / "out")
    assert report.parts["backbone"] == (120, 120)


@pytest.mark.parametrize("flat", [True, False])
def test_folders_of_older_timms_keep_their_pixels(tmp_path: Path, flat: bool) -> None:
    folder = tmp_path / "timm"
    network = timm.create_model("resnet18", in_chans=1, num_classes=4)
    timm.models.save_for_hf(network, folder, model_args={"in_chans": 1, "num_classes": 4}, safe_serialization=False)
    (folder / "model.safetensors").unlink(missing_ok=True)
    description = json.loads((folder / "config.json").read_text())
    published = {**description["pretrained_cfg"], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    del description["pretrained_cfg"]
    description |= published if flat else {"pretrained_cfg": published}
    (folder / "config.json").write_text(json.dumps(description))
    report, _ = import_checkpoint(folder, tmp_path / "out")
    assert report.parts["backbone"] == (120, 120)
    config = MCLModel.config_class.from_pretrained(tmp_path / "out")
    assert (config.num_channels, config.image_mean, config.image_std) == (1, [0.5], [0.25])
    assert not config.backbone_kwargs


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evil.pth", {"state_dict": {}, "meta": Evil()}, "cannot be read without running code"),
        ("text.pth", None, "cannot be read"),
        ("model.pkl", None, "a .pkl is a bare pickle"),
        ("none.pth", "absent", "no file"),
        ("none.safetensors", "absent", "no file"),
        ("broken.safetensors", None, "is no checkpoint: it is"),
        ("weights.npz", None, "give a .pth"),
        ("empty.pth", {"state_dict": {}}, "holds no tensors"),
        ("list.pth", [1, 2], "holds no tensors"),
        ("vit.pth", {"blocks.0.weight": torch.zeros(2)}, "is in no layout that is known here"),
        ("depth.pth", {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}, "holds no ResNet"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys, name: str, content: object, message: str) -> None:
    if content is None:
        (tmp_path / name).write_bytes(b"\x80\x04not what it seems")
    elif content != "absent":
        torch.save(content, tmp_path / name)
    assert main(["import", str(tmp_path / name), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.strip().splitlines()) == 1
    assert "unpickled" not in captured.out and not (tmp_path / "out").exists()


def test_backbones_that_are_not_whole_are_refused(resnet: dict[str, torch.Tensor], tmp_path: Path, run: Path) -> None:
    one_missing = {name: tensor for name, tensor in resnet.items() if name != "layer3.0.bn1.bias"}
    torch.save(one_missing, tmp_path / "missing.pth")
    with pytest.raises(InputError, match="119/120 tensors of resnet18: backbone.layer3.0.bn1.bias is missing"):
        import_checkpoint(tmp_path / "missing.pth", tmp_path / "out")
    torch.save({**resnet, "layer1.0.se.weight": torch.zeros(2)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"layer1\.0\.se\.weight: which the model does not have"):
        import_checkpoint(tmp_path / "more.pth", tmp_path / "out")
    torch.save({**resnet, "layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "wide.pth")
    with pytest.raises(InputError, match="the model has"):
        import_checkpoint(tmp_path / "wide.pth", tmp_path / "out")
    with pytest.raises(InputError, match="file of mcl_hf already"):
        import_checkpoint(run / "model.safetensors", tmp_path / "out")
    with pytest.raises(InputError, match="no folder of timm's"):
        import_checkpoint(run, tmp_path / "out")
    (tmp_path / "full").mkdir()
    save_file(resnet, tmp_path / "full" / "resnet.safetensors")
    with pytest.raises(InputError, match="not empty"):
        import_checkpoint(tmp_path / "full" / "resnet.safetensors", tmp_path / "full")


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (lambda net, other: {"state_dict": net, "epoch": 3}, None),
        (lambda net, other: {"teacher": net, "student": other}, "taken: the tensors under teacher; .*has student"),
        (lambda net, other: {"student": {f"module.{k}": v for k, v in net.items()}}, "under student$"),
        (lambda net, other: {"ema": {"module": net}, "epoch": 3}, "under ema.module$"),
        (lambda net, other: {"model": net, "model_ema": other}, "under model; the file also has model_ema"),
        (lambda net, other: {"net": net, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, "under net$"),
        (lambda net, other: {"my_own_name": net, "loss": {"center": torch.zeros(3)}}, "under my_own_name$"),
    ],
)
def test_tensors_are_found_wherever_a_program_keeps_them(
    resnet: dict[str, torch.Tensor], tmp_path: Path, content, remark: str | None
) -> None:
    torch.save(content(resnet, resnet18(weights=None).state_dict()), tmp_path / "model.pth")
    report, remarks = import_checkpoint(tmp_path / "model.pth", tmp_path / "out")
    assert report.parts["backbone"] == (120, 120)
    assert torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")["backbone.conv1.weight"], resnet["conv1.weight"]
    )
    found = [line for line in remarks if line.startswith("taken")]
    assert not found if remark is None else re.search(remark, found[0])


def test_weights_that_are_not_finite_are_refused(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    resnet["layer2.0.bn1.running_var"][3] = float("nan")
    torch.save(resnet, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"NaN or infinite numbers in 1 of 120 tensors, .*layer2\.0\.bn1\.running_var"):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "out")
    save_file(resnet, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="NaN or infinite numbers in 1 tensors"):
        load_starting_weights(MCLBackbone(MCLConfig(backbone="resnet18")), str(tmp_path / "model.safetensors"))
