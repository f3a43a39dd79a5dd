"""Whole fine-tuning runs of transformers' detectors, tiny: what they leave, resume, start from and refuse."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_utils
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForUniversalSegmentation,
    DetrConfig,
    DetrImageProcessor,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    pipeline,
)

import mcl_hf
from mcl_hf import MCLConfig, MCLModel
from mcl_hf.detection import open_detector, start_detector
from mcl_hf.detectors.float32_boxes import keep_boxes_in_float32
from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS, start_transformers_detector
from mcl_hf.errors import InputError
from mcl_hf.evaluation.predict_data import instances_of_queries
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.finetuning.step import other_inputs
from mcl_hf.finetuning.train_loader import DetectionBatch
from mcl_hf.models import MCLBackbone, recompute
from tests.finetuning.test_finetune import assert_equal, logged
from tests.scenes import write_scenes

KWARGS = {"channels": [8, 16, 24, 32], "stem_width": 8}
SMALL = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12, "d_model": 32,
}  # fmt: skip
WITH_MASKS = {
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "encoder_feedforward_dim": 32,
    "dim_feedforward": 32, "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "num_queries": 12,
    "train_num_points": 64,
}  # fmt: skip
OPTIONS = dict.fromkeys(("detr", "deformable_detr"), SMALL) | {"mask2former": WITH_MASKS}
OPTIONS |= {
    name: {**SMALL, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "num_denoising": 4}
    for name in ("rt_detr_v2", "d_fine", "deimv2")
}
RUN = {
    "max_steps": 2, "batch_size": 2, "log_every_steps": 1, "save_every_steps": 1, "num_workers": 0, "device": "cpu",
    "min_size_train": [64, 96], "max_size_train": 128, "min_size_test": 96, "max_size_test": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 6, width=96, height=72)
    return write_scenes(folder, 2, width=96, height=72, split="val")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    config = MCLConfig(backbone="resnet10t", backbone_kwargs=KWARGS, fpn_channels=8, hidden_dim=8, embedding_dim=8)
    MCLModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(scenes, start, tmp_path):
    torch.set_num_threads(1)

    def finetune(name, detector, **options):
        given = {**RUN, "init": str(start), "detector_options": OPTIONS[detector], **options}
        return mcl_hf.finetune(data=str(scenes), output_dir=str(tmp_path / name), detector=detector, **given)

    return finetune


@pytest.mark.slow
@pytest.mark.parametrize("detector", TRANSFORMERS_DETECTORS)
def test_a_killed_run_ends_as_the_uninterrupted_one(run, detector, capsys):
    options = {"ema": True, "augment": "strong"}
    whole = run("whole", detector, **options).output_dir
    assert "weights from" in capsys.readouterr().out
    cut = whole.with_name("cut")
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "step-00000002")
    (cut / "checkpoints" / "last").unlink()
    (cut / "model.safetensors").unlink()
    run("cut", detector, resume="auto", **options)
    assert_equal(whole, cut)
    assert_equal(whole / "checkpoints" / "last", cut / "checkpoints" / "last")
    assert logged(whole) == logged(cut)
    model, processor = open_detector(str(whole))
    assert type(model) is TRANSFORMERS_DETECTORS[detector].model_class
    assert list(model.config.id2label.values()) == ["ellipse", "triangle", "rectangle"]
    opener = AutoModelForUniversalSegmentation if detector == "mask2former" else AutoModelForObjectDetection
    assert isinstance(opener.from_pretrained(whole), type(model))
    assert processor.do_normalize and type(AutoImageProcessor.from_pretrained(whole)) is type(processor)
    assert (whole / "README.md").exists()


@pytest.mark.slow
def test_pipelines_open_it_and_the_run_says_what_is_frozen(run, scenes, capsys, monkeypatch):
    recomputed = []
    monkeypatch.setattr(recompute, "checkpoint", lambda f, *given, **_: recomputed.append(f) or f(*given))
    options = {"recipe": "auto", "activation_checkpointing": True, "precision": "bf16", "num_workers": 0}
    folder = run("run", "rt_detr_v2", max_steps=1, **options).output_dir
    said = capsys.readouterr().out
    assert "batch norms of the backbone" in said and "freeze-at" not in said and recomputed
    found = pipeline("object-detection", model=str(folder), threshold=0.0)(str(next(scenes.glob("val/*.png"))))
    assert found and {"score", "label", "box"} <= set(found[0])


def test_the_backbone_is_the_starts(start):
    for detector in TRANSFORMERS_DETECTORS:
        model, report = start_transformers_detector(str(start), detector, {0: "a", 1: "b"}, **OPTIONS[detector])
        loaded, total = report.parts["backbone"]
        assert loaded == total > 0 and report.parts["encoder"][0] == 0
        network = next(module for module in model.modules() if isinstance(module, MCLBackbone)).backbone
        wanted = MCLBackbone.from_pretrained(start).backbone.state_dict()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_a_detector_with_other_classes_takes_all_that_fits_and_classes_by_name(run, scenes, tmp_path):
    folder = run("first", "rt_detr_v2", max_steps=1).output_dir
    old, _ = open_detector(str(folder))
    same, report = start_transformers_detector(str(folder), "rt_detr_v2", dict(old.config.id2label))
    assert all(loaded == total for loaded, total in report.parts.values())
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(same.eval()(pixels).logits, old.float()(pixels).logits)
    other, report = start_transformers_detector(str(folder), "rt_detr_v2", {0: "new", 1: "triangle"})
    assert report.parts["classes known by name"] == (1, 2) and report.parts["decoder"][0] == report.parts["decoder"][1]
    row = other.model.enc_score_head.weight[1]
    assert torch.equal(row, old.model.enc_score_head.weight[1]) and other.model.enc_score_head.out_features == 2


PLACES = {"reference_points", "valid_ratios"}
COCO_NAMES = {0: "N/A", 1: "Triangle", 2: "N/A", 3: "zebra"}


def write_published(detector, folder):
    """A detector as on the Hub: transformers' own backbone, COCO's odd names, its image processor."""
    torch.manual_seed(0)
    if detector == "detr":
        backbone = {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": False}
        config, processor = DetrConfig(**backbone, **SMALL, id2label=COCO_NAMES), DetrImageProcessor()
    else:
        backbone = RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic", out_indices=[2, 3, 4]
        )
        own = {**OPTIONS[detector], "encoder_in_channels": [16, 24, 32]}
        config, processor = RTDetrV2Config(backbone_config=backbone, **own, id2label=COCO_NAMES), RTDetrImageProcessor()
    model = TRANSFORMERS_DETECTORS[detector].model_class(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    text = (folder / "config.json").read_text()
    text = text.replace(
        '"use_pretrained_backbone": false', '"use_pretrained_backbone": true'
    )  # as older releases wrote
    (folder / "config.json").write_text(text)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["rt_detr_v2", "detr"])
def test_a_published_detector_is_a_whole_start(run, detector, tmp_path):
    model, pixels = write_published(detector, tmp_path / "hub"), torch.rand(1, 3, 64, 96)
    same, report = start_transformers_detector(str(tmp_path / "hub"), detector, COCO_NAMES)
    assert all(loaded == total for loaded, total in report.parts.values())
    with torch.no_grad():
        given, expected = same.eval()(pixels), model(pixels)
    assert torch.equal(given.logits, expected.logits) and torch.equal(given.pred_boxes, expected.pred_boxes)
    folder = run("run", detector, init=str(tmp_path / "hub"), detector_options=None, max_steps=1).output_dir
    trained, processor = open_detector(str(folder))
    assert list(trained.config.id2label.values()) == ["ellipse", "triangle", "rectangle"]
    mean = [0.0] * 3 if detector == "rt_detr_v2" else [0.485, 0.456, 0.406]  # one of them takes pixels from 0 to 1
    assert list(processor.image_mean) == pytest.approx(mean)
    assert ("not ImageNet's" in report.pixels) is (detector == "rt_detr_v2")
    other, report = start_transformers_detector(str(tmp_path / "hub"), detector, COCO_NAMES, image_std=[0.5] * 3)
    assert other.config.image_std == [0.5] * 3 and "warning: its pixels had mean" in report.pixels
    other, report = start_transformers_detector(str(tmp_path / "hub"), detector, {0: "triangle", 1: "new"})
    assert report.parts["classes known by name"] == (1, 2)
    name = "class_labels_classifier" if detector == "detr" else "model.enc_score_head"
    weight, old = other.get_submodule(name).weight, model.get_submodule(name).weight
    assert torch.equal(weight[0], old[1]) and not torch.isin(weight[1], old).any()
    if detector == "detr":
        assert torch.equal(weight[2], old[4])  # no object
        with pytest.raises(InputError, match="hub is a detr of transformers: use --detector detr"):
            start_detector(str(tmp_path / "hub"), num_labels=2)


@pytest.mark.slow
def test_masks_are_measured_and_predicted_and_boxes_are_around_them(run, scenes):
    result = run("run", "mask2former", max_steps=1)
    assert {"eval/box/AP", "eval/mask/AP"} <= set(result.metrics)
    found = mcl_hf.predict(result.output_dir, scenes / "val", threshold=0.0).results
    assert found
    for one in found:
        rows, columns = np.nonzero(mask_utils.decode(one["segmentation"]))
        assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    objects = pipeline("image-segmentation", model=str(result.output_dir), threshold=0.0)
    assert objects(str(next(scenes.glob("val/*.png"))), subtask="instance")


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("detector", TRANSFORMERS_DETECTORS)
def test_boxes_and_places_stay_float32_in_half_precision(detector, precision):
    torch.manual_seed(0)
    model, _ = start_transformers_detector("random", detector, {0: "a"}, "resnet10t", **OPTIONS[detector])
    keep_boxes_in_float32(model.eval())
    places = {}

    def look(module, inputs, named):
        places.update({name: named[name].dtype for name in PLACES & set(named) if named[name] is not None})

    for module in model.modules():
        module.register_forward_pre_hook(look, with_kwargs=True)
    pixels = torch.rand(1, 3, 96, 128)
    with torch.autocast("cpu", precision):
        output = model(pixels)
    assert set(places.values()) <= {torch.float32} and (places or detector == "detr")
    if detector == "mask2former":
        assert output.class_queries_logits.dtype == precision
    else:
        assert output.pred_boxes.dtype == torch.float32 and output.logits.dtype == precision
        assert not torch.equal(output.pred_boxes, output.pred_boxes.to(precision).float())
    assert model.half()(pixels.half()).to_tuple()[0].dtype == torch.float16  # weights may be half, too


def test_masks_of_a_perfect_detector_are_the_annotated_ones():
    """Logits of what each cell of a map of 256 x 256 cells covers, of a picture whose lower part is padding."""
    height, width, padded = 384, 512, 512
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    sides = torch.tensor([6.0, 12.0, 25.0, 60.0])[:, None, None]
    centres = torch.tensor([[40.3, 50.7], [200.2, 150.9], [300.5, 320.1], [420.8, 100.4]])
    x, y = centres[:, :1, None], centres[:, 1:, None]
    masks = ((columns - x) / sides) ** 2 + ((rows - y) / sides / 0.8) ** 2 <= 1
    covered = F.adaptive_avg_pool2d(F.pad(masks.float(), (0, 0, 0, padded - height)), 256)
    output = SimpleNamespace(
        masks_queries_logits=(20 * (covered - 0.5))[None], class_queries_logits=torch.tensor([[[4.0, 0.0]] * 4])
    )
    present = torch.zeros(1, padded, padded, dtype=torch.int64)
    present[:, :height] = 1
    inputs = {"pixel_values": torch.zeros(1, 3, padded, padded), "pixel_mask": present}
    found, pasted = instances_of_queries(output, inputs, [(height, width)])
    assert found[0]["labels"].tolist() == [0] * 4 and found[0]["scores"].min() > 0.9
    found_masks = sorted(pasted[0], key=lambda mask: int(mask.sum()))
    ious = [float((a & b).sum() / (a | b).sum()) for a, b in zip(found_masks, masks, strict=True)]
    assert min(ious) > 0.93 and ious[-1] > 0.99, ious


def test_images_without_objects_teach_a_detector_with_masks():
    model, _ = start_transformers_detector("random", "mask2former", {0: "a"}, "resnet10t", **WITH_MASKS)
    labels = [{"class_labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64)}] * 2
    batch = DetectionBatch(0, torch.zeros(2, 3, 64, 64), [(64, 64)] * 2, labels, torch.arange(2))
    loss = model(pixel_values=batch.pixels, **other_inputs(model, batch, torch.Generator())).loss
    loss.backward()
    assert torch.isfinite(loss) and loss > 0


def test_published_settings_hold_where_none_are_given_and_sgd_does_not():
    filled = FinetuneArguments(detector="d_fine").resolved([640], [480])
    assert (filled.optimizer, filled.ema, filled.augment, filled.clip_grad_norm) == ("adamw", True, "strong", 0.1)
    assert filled.backbone_lr_scale == 0.05 and filled.milestones(100) == []
    assert FinetuneArguments(detector="d_fine", ema=False, auto=True).resolved([640], [480]).base_learning_rate < 1e-3
    ours = FinetuneArguments().resolved([640], [480])
    assert (ours.optimizer, ours.ema, ours.augment, ours.precise_bn_steps) == ("sgd", False, "off", 200)
    assert ours.milestones(90) == [60, 80] and ours.clip_grad_norm == 1e6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detector_options": {"num_querys": 3}}, "num_queries"),
        ({"detector_options": {"num_labels": 3}}, "follows from the data"),
        ({"min_size_test": 100}, "multiples of 32"),
        ({"init_parts": ["fpn"]}, "init_parts"),
        ({"backbone": "resnet18"}, "leave backbone out"),
        ({"detector_options": {"d_model": 33}}, "RT-DETRv2"),
    ],
)
def test_wrong_input_is_one_clear_line_before_training(run, tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        run("run", "rt_detr_v2", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
