"""Pre-training that goes on from a ConvNeXt of timm: what travels with the start, and how near to it a run stays."""

import json

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import mcl_hf
from mcl_hf import MCLBackbone, load_starting_weights
from mcl_hf.engine.provenance import start_record
from mcl_hf.engine.state import RECORD
from mcl_hf.errors import InputError
from mcl_hf.hub.card import render_card
from mcl_hf.pretraining.arguments import load_arguments
from mcl_hf.transfer import export_checkpoint
from tests.scenes import write_scenes

RECIPE = "mcl-convnext-tiny-dinov3"
SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "ls_init_value": 1.0}  # in trained weights branches are open
STATISTICS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
FROM_START = {"backbone": "convnext_atto", "backbone_kwargs": SMALL}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder as timm writes it, of weights with statistics and a licence of their own."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    described = {"mean": STATISTICS["image_mean"], "std": STATISTICS["image_std"], "license": "dinov3-license"}
    network = timm.create_model("convnext_atto", num_classes=0, **SMALL)
    model_config = {"pretrained_cfg": described, "model_args": SMALL}
    timm.models.save_for_hf(network, folder, model_config=model_config, safe_serialization=True)
    return folder


def features(folder) -> list[torch.Tensor]:
    """C2..C5 of one batch."""
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return list(MCLBackbone.from_pretrained(folder).eval()(pixels).feature_maps)


def test_a_run_of_the_recipe_stays_nearer_to_its_start_than_one_of_the_defaults(tiny_run, start, tmp_path):
    backbone = MCLBackbone(load_arguments(**FROM_START, **STATISTICS).model_config())
    load_starting_weights(backbone, str(start))
    backbone.save_pretrained(tmp_path / "start")
    first, moved = features(tmp_path / "start"), {}
    for name, recipe, warmup in (("recipe", RECIPE, 2), ("defaults", None, 1)):  # their shares of the run
        options = {**FROM_START, "init": str(start), "max_steps": 10, "warmup_steps": warmup, "precision": "fp32"}
        last = features(tiny_run(name, recipe=recipe, queue_size=0, **options).output_dir)
        moved[name] = [float((a - b).norm() / b.norm()) for a, b in zip(last, first, strict=True)]
    assert all(0 < near < 0.1 * far for near, far in zip(moved["recipe"], moved["defaults"], strict=True)), moved


def test_backbone_statistics_and_licence_are_those_of_the_start(tiny_run, start, tmp_path):
    run = tiny_run(init=str(start), backbone=None, backbone_kwargs=None, max_steps=2).output_dir
    config = json.loads((run / "config.json").read_text())
    assert (config["backbone"], config["backbone_kwargs"]) == ("convnext_atto", SMALL)
    assert {name: config[name] for name in STATISTICS} == STATISTICS
    record = json.loads((run / RECORD).read_text())["start"]
    assert record == {"kind": "folder", "name": start.name, "licence": "dinov3-license"}
    card = ModelCard(render_card(run))
    assert "from weights under the licence `dinov3-license`" in card.text and card.data.license is None
    own = ModelCard(render_card(run, license="dinov3-license")).data
    assert (own.license, own.license_name) == ("other", "dinov3-license")
    with pytest.raises(InputError, match="'apache-2.0' is not yours to give: claim dinov3-license"):
        render_card(run, license="apache-2.0")
    assert start_record(str(run))["licence"] == "dinov3-license"  # of what is trained from the run
    coverage = export_checkpoint(run, tmp_path / "timm", "timm")
    assert coverage.parts["final layer"][0] == 0
    again = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, features_only=True)
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again.eval()(pixels), features(run), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster_rcnn", "d_fine"])
def test_detectors_from_such_a_run_name_the_licence_too(tiny_run, start, tmp_path, detector):
    run = tiny_run(init=str(start), backbone=None, backbone_kwargs=None, max_steps=1).output_dir
    scenes = write_scenes(tmp_path / "scenes", 4, width=96, height=96)
    small = {} if detector == "faster_rcnn" else {
        "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 12, "d_model": 32, "encoder_hidden_dim": 32,
        "decoder_in_channels": [32] * 3, "num_denoising": 4,
    }  # fmt: skip
    result = mcl_hf.finetune(
        init=str(run), detector=detector, data=str(scenes), val_data=str(scenes), val_split="train", batch_size=2,
        output_dir=str(tmp_path / "detector"), detector_options=small, min_size_train=[96], max_size_train=96,
        min_size_test=96, max_size_test=96, max_steps=1, precise_bn_steps=1, num_workers=0, device="cpu",
    )  # fmt: skip
    text = (result.output_dir / "README.md").read_text()
    assert "from weights under the licence `dinov3-license`" in text and ModelCard(text).data.license is None
    processor = json.loads((result.output_dir / "preprocessor_config.json").read_text())
    assert {name: processor[name] for name in STATISTICS} == STATISTICS
    assert mcl_hf.predict(result.output_dir, scenes / "train", threshold=0.0).results is not None


def test_weights_of_dinov3s_shape_start_the_recipes_network(monkeypatch, tmp_path):
    """The way of timm's own loader, which is handed random weights of that shape in place of those it would fetch."""
    torch.manual_seed(0)
    fetched = timm.create_model("convnext_tiny", num_classes=0).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(fetched))
    arguments = load_arguments(RECIPE)
    model = MCLBackbone(arguments.model_config())
    report = load_starting_weights(model, arguments.init)
    assert report.parts["backbone"] == (len(model.state_dict()),) * 2 and not report.pixels
    assert torch.equal(model.backbone.stages_2.blocks[8].gamma, fetched["stages.2.blocks.8.gamma"])
    record = start_record(arguments.init)
    assert (record["licence"], record["repository"]) == ("dinov3-license", "timm/convnext_tiny.dinov3_lvd1689m")


@pytest.mark.parametrize(
    "init", ["timm:resnet5O", "timm:resnet50.a2_in1m", "torchvision:maskrcnn_resnet50", "no/such/one"]
)
def test_a_mistyped_start_is_refused_before_the_data_are_opened(init, tmp_path):
    absent = {"data": str(tmp_path / "absent"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match=f"--init {init}: ") as caught:
        mcl_hf.finetune(init=init, **absent)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"--init {init}: "):
        mcl_hf.pretrain(init=init, **absent)
    with pytest.raises(InputError, match=f"start {init}: "):
        mcl_hf.compare(starts=["random", init], data=absent["data"], output_dir=absent["output_dir"])
    assert not (tmp_path / "run" / "checkpoints").exists()
