"""What is written opens in the frameworks at hand with bit-equal outputs; the rest is checked by names and settings."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from mcl_hf import MCLConfig, MCLForPreTraining, MCLModel
from mcl_hf.cli import main
from mcl_hf.errors import InputError
from mcl_hf.models.timm_backbone import run_timm_network
from mcl_hf.transfer import export_checkpoint, open_checkpoint

PIXELS = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))


def same(first, second) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@torch.no_grad()
def test_timm_gives_the_same_maps_bit_for_bit(
    run: Path, pretraining: MCLForPreTraining, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "timm"
    assert main(["export", str(run), "--to", "timm", str(out)]) == 0
    assert "timm resnet18: 120 of 120 tensors: backbone 120/120" in capsys.readouterr().out
    expected = pretraining.mcl(PIXELS).backbone_feature_maps
    line = re.search(r"^features = (timm.create_model\(.*\))  # C2..C5$", (out / "README.md").read_text(), re.MULTILINE)
    features = eval(line[1], {"timm": timm}).eval()
    assert same(features(PIXELS), expected)
    plain = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(plain.forward_features(PIXELS), expected[-1])
    seven = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=7).eval()
    assert torch.equal(seven.forward_features(PIXELS), expected[-1]) and seven(PIXELS).shape == (2, 7)
    wrapped = AutoModel.from_pretrained(out)
    assert type(wrapped).__name__ == "TimmWrapperModel"
    assert torch.equal(wrapped(PIXELS, do_pooling=False).last_hidden_state, expected[-1])
    image = Image.fromarray(np.zeros((80, 90, 3), dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(out)(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 64, 64) and abs(float(pixels[0, 0, 0, 0]) + 0.485 / 0.229) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "kwargs", "channels", "final"),
    [
        ("convnext_atto", {}, 3, 2),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1], "embed_dim": 24}, 3, 2),
        ("resnet10t", {"channels": [8, 16, 24, 32], "stem_width": 4}, 4, 0),
    ],
)
def test_timm_takes_any_backbone(tmp_path: Path, backbone: str, kwargs: dict, channels: int, final: int) -> None:
    config = MCLConfig(
        backbone=backbone, backbone_kwargs=kwargs, num_channels=channels, fpn_channels=8, hidden_dim=8, region_convs=1
    )
    model = MCLModel(config).eval()
    model.save_pretrained(tmp_path / "run")
    coverage = export_checkpoint(tmp_path / "run", tmp_path / "out", "timm")
    assert coverage.parts.get("final layer", (0, 0)) == (0, final)
    text = (tmp_path / "out" / "README.md").read_text()
    features = eval(re.search(r"^features = (timm.create_model\(.*\))  # C2..C5$", text, re.MULTILINE)[1]).eval()
    pixels = torch.randn(1, channels, 224, 224)
    assert same(run_timm_network(features, backbone, pixels), model(pixels).backbone_feature_maps)


@torch.no_grad()
@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
def test_torchvision_gives_the_same_maps_bit_for_bit(
    run: Path, pretraining: MCLForPreTraining, tmp_path: Path, detector: str, capsys
) -> None:
    coverage = export_checkpoint(run, tmp_path / "out", "torchvision", detector=detector)
    build = runpy.run_path(str(tmp_path / "out" / "build_detector.py"))["build_detector"]
    model = build(num_classes=5).eval()
    assert f"{coverage.given} of {coverage.total} tensors loaded" in capsys.readouterr().out
    expected = pretraining.mcl(PIXELS)
    maps = list(model.backbone(PIXELS).values())
    first = 1 if detector == "retinanet" else 0
    assert same(maps[: 4 - first], expected.feature_maps[first:])
    assert same(list(model.backbone.body(PIXELS).values()), expected.backbone_feature_maps[first:])
    if detector == "mask_rcnn":
        regions = torch.randn(3, 8, 7, 7)
        convs = torch.nn.Sequential(*list(model.roi_heads.box_head)[:4])
        assert torch.equal(convs(regions).mean(dim=(2, 3)), pretraining.mcl.region_head.pool(regions.clone()))
    plain = torchvision.models.resnet18().eval()
    missing = plain.load_state_dict(load_file(tmp_path / "out" / "resnet.safetensors"), strict=False)
    assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys
    assert len(model(list(torch.rand(1, 3, 64, 64)))) == 1


def test_a_torchvision_detector_is_not_built_from_half_a_backbone(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run, tmp_path / "out", "torchvision")
    file = tmp_path / "out" / "detector.safetensors"
    tensors = load_file(file)
    del tensors["backbone.body.layer1.0.conv1.weight"]
    save_file(tensors, file)
    with pytest.raises(RuntimeError, match="backbone and FPN must be whole, 1 tensors are missing"):
        runpy.run_path(str(tmp_path / "out" / "build_detector.py"))["build_detector"]()


def test_detectron2_files(run: Path, pretraining: MCLForPreTraining, tmp_path: Path) -> None:
    export_checkpoint(run, tmp_path / "out", "detectron2")
    tensors = torch.load(tmp_path / "out" / "model.pth", weights_only=True)["model"]
    online = pretraining.mcl.state_dict()
    assert len(tensors) == 192
    assert torch.equal(tensors["backbone.bottom_up.res3.0.shortcut.norm.running_var"],
                       online["backbone.layer2.0.downsample.1.running_var"])  # fmt: skip
    assert torch.equal(tensors["roi_heads.box_head.conv4.weight"], online["region_head.conv.3.conv.weight"])
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    model = settings["MODEL"]
    assert settings["INPUT"]["FORMAT"] == "RGB" and model["RESNETS"]["STRIDE_IN_1X1"] is False
    assert model["PIXEL_MEAN"] == [123.675, 116.28, 103.53] and model["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert model["BACKBONE"]["FREEZE_AT"] == 0 and model["RESNETS"]["DEPTH"] == 18
    norms = [model[part]["NORM"] for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")]
    assert norms == ["SyncBN"] * 4
    assert (model["ROI_BOX_HEAD"]["NUM_CONV"], model["ROI_BOX_HEAD"]["NUM_FC"]) == (4, 1)
    export_checkpoint(run, tmp_path / "retinanet", "detectron2", detector="retinanet")
    model = yaml.safe_load((tmp_path / "retinanet" / "config.yaml").read_text())["MODEL"]
    assert model["META_ARCHITECTURE"] == "RetinaNet" and model["FPN"]["IN_FEATURES"] == ["res3", "res4", "res5"]


@torch.no_grad()
def test_options_of_the_start_alone_hinder_no_export(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("pretraining"))
    content = json.loads((run / "config.json").read_text()) | {"backbone_kwargs": {"zero_init_last": False}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    for target in ("timm", "detectron2"):
        export_checkpoint(tmp_path / "run", tmp_path / target, target)
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    expected = MCLModel.from_pretrained(run)(PIXELS).backbone_feature_maps[-1]
    assert torch.equal(network.forward_features(PIXELS), expected)


def test_mmdet_files(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run, tmp_path / "out", "mmdet")
    content = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    assert set(content) == {"state_dict", "meta"} and "neck.lateral_convs.0.bn.running_mean" in content["state_dict"]
    fragment = runpy.run_path(str(tmp_path / "out" / "mcl.py"))
    backbone = fragment["model"]["backbone"]
    assert (backbone["frozen_stages"], backbone["norm_eval"], backbone["style"]) == (-1, False, "pytorch")
    assert fragment["model"]["data_preprocessor"]["bgr_to_rgb"] and fragment["load_from"] == "model.pth"
    assert fragment["model"]["roi_head"]["bbox_head"]["type"] == "Shared4Conv1FCBBoxHead"


@torch.no_grad()
def test_target_network_leaves_stale_levels_out_or_makes_statistics(
    run: Path, pretraining: MCLForPreTraining, tmp_path: Path
) -> None:
    source = run / "pretraining"
    assert open_checkpoint(source).stale_levels == []
    assert open_checkpoint(source, "target").stale_levels == ["P2", "P3", "P4"]
    coverage = export_checkpoint(source, tmp_path / "bare", "torchvision", network="target")
    assert coverage.parts["FPN"] == (0, 48) and "never ran its P2, P3, P4" in str(coverage)
    tensors = load_file(tmp_path / "bare" / "detector.safetensors")
    assert all(name.startswith("backbone.body.") for name in tensors)
    assert torch.equal(tensors["backbone.body.conv1.weight"], pretraining.target.backbone.conv1.weight)

    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0)
    for index in range(9):
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(images / f"{index}.png")
    (images / "broken.png").write_bytes(b"no image")
    coverage = export_checkpoint(
        source, tmp_path / "whole", "transformers", network="target", data=str(images), num_images=10, batch_size=8
    )
    assert coverage.parts["fpn"] == (48, 48)
    model = MCLModel.from_pretrained(tmp_path / "whole")
    assert torch.equal(model.backbone.bn1.running_mean, pretraining.target.backbone.bn1.running_mean)
    # one batch of eight: the statistics of P5's lateral are those of its convolution's outputs
    pixels = torch.stack([_normalised(images / f"{index}.png") for index in range(8)])
    lateral = pretraining.target.fpn.lateral[3].conv(pretraining.target.backbone_maps(pixels)[3])
    assert torch.allclose(model.fpn.lateral[3].bn.running_mean, lateral.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.equal(model.fpn.lateral[0].conv.weight, pretraining.target.fpn.lateral[0].conv.weight)


def test_images_of_statistics_outside_of_their_folder_are_asked_for(run: Path, tmp_path: Path, capsys) -> None:
    for index in range(2):
        Image.new("RGB", (64, 64), (index, 9, 90)).save(tmp_path / f"{index}.png")
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"image": [f"{tmp_path}/0.png", f"{tmp_path}/1.png"]}), tmp_path / "table" / "t.parquet")
    argv = ["export", f"{run}/pretraining", "--to", "torchvision", "--network", "target", f"{tmp_path}/out"]
    argv += ["--data", f"{tmp_path}/table", "--batch-size", "2"]
    assert main(argv) == 2 and "give --allow-outside-paths if" in capsys.readouterr().err
    assert main([*argv, "--allow-outside-paths"]) == 0
    assert "batch-norm statistics" in capsys.readouterr().err, "the bar"
    assert (tmp_path / "out" / "detector.safetensors").is_file()


@pytest.mark.parametrize(
    ("stale", "to", "detector", "told"),
    [
        ((0,), "transformers", None, "P2 of the FPN was read by no level of this pre-training: it goes over as it was"),
        ((0, 1), "torchvision", None, "P2 and P3 of the FPN were read by no level"),
        ((0, 1), "mmdet", "retinanet", "note: P3 of the FPN was read"),
        ((0,), "detectron2", "retinanet", None),
        ((0, 1), "timm", None, None),
    ],
)
def test_levels_without_training_are_a_note_where_they_go_along(
    run: Path, tmp_path: Path, stale: tuple, to: str, detector: str | None, told: str | None
) -> None:
    model = MCLModel.from_pretrained(run)
    for index in range(4):
        for part in (model.fpn.lateral, model.fpn.output):
            part[index].bn.num_batches_tracked.fill_(0 if index in stale else 5)
    model.save_pretrained(tmp_path / "run")
    coverage = export_checkpoint(tmp_path / "run", tmp_path / "out", to, detector=detector, network="online")
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(coverage) in text and "left out: P" not in text
    assert (told in text and "  note: P" in text) if told else "no level of this" not in text


def _normalised(path: Path) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    return (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]


def test_transformers_target_is_whole_without_training_state(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "step"
    MCLForPreTraining.from_pretrained(run / "pretraining").save_pretrained(source)
    (source / "training_state.safetensors").write_bytes(b"")
    export_checkpoint(source, tmp_path / "all", "transformers")
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert len(load_file(tmp_path / "all" / "model.safetensors")) == len(load_file(source / "model.safetensors"))
    slim = export_checkpoint(source, tmp_path / "slim", "transformers", network="online")
    assert slim.parts == {"backbone": (120, 120), "fpn": (48, 48), "region_head": (36, 36)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN/nothing", "--to", "timm", "OUT"], "no checkpoint at"),
        (["RUN/model.safetensors", "--to", "timm", "OUT"], "is a file"),
        (["OTHER", "--to", "timm", "OUT"], "has model_type 'bert'"),
        (["EMPTY", "--to", "timm", "OUT"], "no config.json"),
        (["DAMAGED", "--to", "timm", "OUT"], "is damaged"),
        (["RUN", "--to", "timm", "RUN"], "not empty"),
        (["RUN", "--to", "caffe", "OUT"], "invalid choice"),
        (["RUN", "--to", "timm", "--network", "target", "OUT"], "holds no target network"),
        (["RUN", "--to", "timm", "--detector", "retinanet", "OUT"], "--detector is for"),
        (["RUN", "--to", "timm", "--data", "photos", "OUT"], "--data is for --network target"),
        (["RUN", "--to", "timm", "--num-images", "8", "OUT"], "--num-images is for the images of --data"),
        (["RUN", "--to", "timm", "."], ". is no name for a folder"),
        (["RUN", "--to", "timm", "OUT/a/.."], "is no name for a folder"),
        (["TINY", "--to", "mmdet", "OUT/a/b"], "mmdet has no names"),
        (["ODD", "--to", "timm", "OUT"], "config.json cannot be used: Validation error for field 'fpn_channels'"),
        (["RUN", "--to", "timm", "--with-code", "OUT"], "--with-code is for --to transformers"),
        (["TINY", "--to", "detectron2", "OUT"], "detectron2 has no names for the backbone resnet10t"),
        (["TINY", "--to", "mmdet", "OUT"], "mmdet has no names"),
        (["TINY", "--to", "torchvision", "OUT"], "--to timm and --to onnx take any"),
    ],
)
def test_wrong_input_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], message: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    odd = '{"model_type": "mcl_dense", "fpn_channels": "wide"}'
    texts = {"OTHER": '{"model_type": "bert"}', "ODD": odd, "DAMAGED": (run / "config.json").read_text()}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "DAMAGED" / "model.safetensors").write_bytes(b"\x08" + b"\0" * 20)
    if "TINY" in arguments:
        MCLModel(
            MCLConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, fpn_channels=8, hidden_dim=8)
        ).save_pretrained(tmp_path / "TINY")
    paths = {"RUN": run, **{name: tmp_path / name for name in ("OUT", "EMPTY", "TINY", *texts)}}
    filled = [str(paths.get(text.split("/")[0], text)) + text.partition("/")[1] + text.partition("/")[2]
              if text.split("/")[0] in paths else text for text in arguments]  # fmt: skip
    assert main(["export", *filled]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in errors if line.startswith("mcl-hf: error:")]) == 1 and message in errors[-1]
    assert not (tmp_path / "OUT").exists() and not list(tmp_path.glob(".*"))


def test_online_levels_that_no_montage_read_are_named(tmp_path: Path) -> None:
    config = MCLConfig(
        backbone="resnet18", fpn_channels=8, hidden_dim=8, montage_ratios=[1, 2], montage_fractions=[1, 0.25],
        level_weights=[0.5, 0.5],
    )  # fmt: skip
    model = MCLModel(config)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked") and not name.startswith(
            ("fpn.lateral.0", "fpn.lateral.1", "fpn.output.0", "fpn.output.1")
        ):
            buffer.fill_(3)
    model.save_pretrained(tmp_path / "run")
    assert "P2 and P3 of the FPN were read by no level" in str(
        export_checkpoint(tmp_path / "run", tmp_path / "o", "mmdet")
    )


def test_unknown_names_of_options_in_python(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--network must be one of"):
        export_checkpoint(run, tmp_path / "out", "timm", network="both")
