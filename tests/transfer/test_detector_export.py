"""A fine-tuned detector is the same detector elsewhere: kind, heads, settings, names of its classes."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
import yaml
from PIL import Image

from mcl_hf import (
    MCLConfig,
    MCLDetectorConfig,
    MCLForInstanceSegmentation,
    MCLForObjectDetection,
    MCLImageProcessor,
    MCLModel,
)
from mcl_hf.detectors.proposals import FixedStrideAnchors
from mcl_hf.errors import InputError
from mcl_hf.transfer import export_checkpoint
from mcl_hf.transfer.checkpoint import open_checkpoint
from mcl_hf.transfer.convert import convert
from mcl_hf.transfer.detector_heads import head_table, head_values
from mcl_hf.transfer.keymaps import TABLES
from tests.transfer.norms import randomise_norms

REFERENCE = Path(__file__).parents[1] / "reference"
NAMES = {0: "cup", 1: 'it\'s a "fork"', 2: "spoon\n", 3: "knife"}
KINDS = {"mask_rcnn": "MaskRCNN", "faster_rcnn": "FasterRCNN", "retinanet": "RetinaNet"}


def detector_config(detector: str, **fields: Any) -> MCLDetectorConfig:
    """Small, and with no setting at its usual value."""
    several = [[12, 15, 19], [25, 31, 39], [50, 62, 79], [100, 124, 158], [200, 248, 316]]
    own: dict[str, Any] = {
        "detector": detector, "backbone": "resnet18", "fpn_channels": 8, "box_fc_dim": 16, "id2label": NAMES,
        "min_size": 96, "max_size": 160, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.2],
        "anchor_sizes": several if detector == "retinanet" else [[16], [32], [64], [128], [256]],
        "aspect_ratios": [0.4, 1.0, 2.5], "rpn_post_nms_top_n_test": 40, "box_score_thresh": 0.004,
        "box_nms_thresh": 0.4, "box_detections_per_img": 15, "roi_canonical_size": 112, "topk_candidates": 50,
        "rpn_nms_thresh": 0.6, "rpn_conv_depth": 2, "box_head_convs": 4, "box_fg_iou_thresh": 0.6,
    }  # fmt: skip
    return MCLDetectorConfig(**{**own, **fields})


def saved_detector(folder: Path, detector: str, **fields: Any) -> Any:
    """One with random weights and statistics in a folder."""
    torch.manual_seed(0)
    config = detector_config(detector, **fields)
    model = (MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection)(config).eval()
    randomise_norms(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "cls_score" in name or "cls_logits" in name or name.endswith(("bbox_pred.bias", "bbox_reg.bias")):
                tensor.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("detector", "heads"), [("mask_rcnn", 42), ("faster_rcnn", 14), ("retinanet", 24)])
def test_torchvision_builds_the_same_detector(tmp_path: Path, capsys, detector: str, heads: int) -> None:
    ours = saved_detector(tmp_path / "detector", detector)
    coverage = export_checkpoint(tmp_path / "detector", tmp_path / "out", "torchvision")
    parts = ("fc1", "box predictor", "mask head", "RPN", "P6 and P7", "RetinaNet head")
    assert sum(coverage.parts.get(part, (0, 0))[0] for part in parts) == heads and not coverage.left_out
    script = runpy.run_path(str(tmp_path / "out" / "build_detector.py"))
    theirs = script["build_detector"]().eval()
    assert f"{coverage.given} of {coverage.total}" in capsys.readouterr().out and coverage.given == coverage.total
    assert type(theirs) is getattr(torchvision.models.detection, KINDS[detector])
    assert script["CLASSES"][-4:] == list(NAMES.values())
    assert (theirs.transform.min_size, theirs.transform.max_size) == ((96,), 160)

    pixels = torch.randint(0, 256, (96, 130, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    processor = MCLImageProcessor.from_config(ours.config)
    output = ours(**processor(Image.fromarray(pixels.numpy()), return_tensors="pt"))
    expected = processor.post_process_object_detection(output, threshold=0, target_sizes=[(96, 130)])[0]
    found = theirs([pixels.permute(2, 0, 1) / 255])[0]
    assert len(expected["boxes"]) == len(found["boxes"]) == 15, "detections of an image"
    named = [script["CLASSES"][label] for label in found["labels"]]
    assert named == [NAMES[label] for label in expected["labels"].tolist()]
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-3)
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    theirs.train()
    labels = {"boxes": torch.tensor([[5.0, 5.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    theirs([pixels.permute(2, 0, 1) / 255], [labels | {"masks": torch.ones(1, 96, 130, dtype=torch.uint8)}])


@pytest.mark.parametrize("detector", KINDS)
def test_what_a_configuration_leaves_out_is_what_the_detector_has(tmp_path: Path, detector: str) -> None:
    """transformers writes no names of two classes that have none, and whoever writes by hand leaves out more."""
    kind = MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection
    kind(MCLDetectorConfig(detector=detector, backbone="resnet18", fpn_channels=8)).save_pretrained(tmp_path / "plain")
    written = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "id2label" not in written
    shutil.copytree(tmp_path / "plain", tmp_path / "short")
    short = {name: written[name] for name in ("model_type", "detector", "backbone", "fpn_channels")}
    (tmp_path / "short" / "config.json").write_text(json.dumps(short))
    for target, file in (("torchvision", "build_detector.py"), ("detectron2", "config.yaml"), ("mmdet", "mcl.py")):
        texts = []
        for name in ("plain", "short"):
            coverage = export_checkpoint(tmp_path / name, tmp_path / f"{target}-{name}", target)
            assert coverage.given == coverage.total and not coverage.left_out
            texts.append((tmp_path / f"{target}-{name}" / file).read_text())
        assert texts[0] == texts[1] and "LABEL_1" in texts[0]


@torch.no_grad()
def test_another_kind_takes_what_it_shares(tmp_path: Path) -> None:
    ours = saved_detector(tmp_path / "mask", "mask_rcnn")
    coverage = export_checkpoint(tmp_path / "mask", tmp_path / "faster", "torchvision", detector="faster_rcnn")
    assert coverage.parts["fc1"] == (2, 2) and "mask head: 28 tensors without a place" in str(coverage)
    faster = runpy.run_path(str(tmp_path / "faster" / "build_detector.py"))["build_detector"]()
    assert not faster.roi_heads.has_mask()
    assert torch.equal(faster.roi_heads.box_predictor.cls_score.weight, ours.roi_heads.box_predictor.cls_score.weight)
    export_checkpoint(tmp_path / "mask", tmp_path / "retinanet", "torchvision", detector="retinanet")
    dense = runpy.run_path(str(tmp_path / "retinanet" / "build_detector.py"))["build_detector"]()
    assert dense.anchor_generator.sizes[0] == (32, 40, 50), "anchors of another kind of detector do not fit"
    assert dense.head.classification_head.num_classes == 4 and dense.transform.min_size == (96,)


@pytest.mark.parametrize(("detector", "reference"), [("mask_rcnn", "maskrcnn_r50_fpn_4conv1fc"),
                                                     ("retinanet", "retinanet_r50")])  # fmt: skip
def test_names_and_shapes_are_those_of_real_detectron2_models(detector: str, reference: str) -> None:
    real = json.loads((REFERENCE / f"detectron2_{reference}.json").read_text())
    config = MCLDetectorConfig(detector=detector, num_labels=80)
    with torch.device("meta"):
        model = (MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection)(config)
        tensors, more = head_values(model.state_dict(), "detectron2", 3)
    renamed = {name.replace("roi_heads.box_head.conv.", "region_head.conv."): t for name, t in tensors.items()}
    if detector == "retinanet":
        moved = {}
        for name, tensor in renamed.items():
            part = name.split(".")
            moved[".".join([*part[:2], str(int(part[2]) + 1), *part[3:]]) if part[0] == "fpn" else name] = tensor
        renamed = moved
    table = (*TABLES["detectron2", detector], *head_table("detectron2", detector, 4))
    found, coverage = convert(renamed, table, "detectron2", detector)
    assert {name: list(tensor.shape) for name, tensor in found.items()} == real
    assert coverage.given == coverage.total == len(real) and not coverage.left_out and more == 0


@torch.no_grad()
def test_detectron2_has_classes_anchors_and_settings_in_its_order(tmp_path: Path) -> None:
    ours = saved_detector(tmp_path / "mask", "mask_rcnn").state_dict()
    coverage = export_checkpoint(tmp_path / "mask", tmp_path / "d2", "detectron2")
    assert not coverage.left_out and "roi_canonical_size 112 has no option" in str(coverage)
    theirs = torch.load(tmp_path / "d2" / "model.pth", weights_only=True)["model"]
    predictor = "roi_heads.box_predictor"
    assert torch.equal(theirs[f"{predictor}.cls_score.weight"][-1], ours[f"{predictor}.cls_score.weight"][0])
    assert torch.equal(theirs[f"{predictor}.cls_score.weight"][:-1], ours[f"{predictor}.cls_score.weight"][1:])
    assert torch.equal(theirs[f"{predictor}.bbox_pred.bias"], ours[f"{predictor}.bbox_pred.bias"][4:])
    logits = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    assert torch.equal(theirs["roi_heads.mask_head.predictor.weight"], ours[logits][1:])
    assert torch.equal(theirs["proposal_generator.rpn_head.conv.conv1.weight"], ours["rpn.head.conv.1.0.weight"])
    text = (tmp_path / "d2" / "config.yaml").read_text()
    assert json.loads(text.splitlines()[0].partition("= ")[2]) == list(NAMES.values())
    settings = yaml.safe_load(text)
    model = settings["MODEL"]
    assert settings["INPUT"]["MIN_SIZE_TEST"] == 96 and settings["INPUT"]["MAX_SIZE_TEST"] == 160
    assert settings["TEST"]["DETECTIONS_PER_IMAGE"] == 15 and settings["TEST"]["PRECISE_BN"]["ENABLED"]
    assert model["ROI_HEADS"]["NUM_CLASSES"] == 4 and model["ROI_HEADS"]["SCORE_THRESH_TEST"] == 0.004
    assert model["RPN"]["POST_NMS_TOPK_TEST"] == 40 and model["ANCHOR_GENERATOR"]["SIZES"][0] == [16]
    assert model["ROI_BOX_HEAD"]["FC_DIM"] == 16 and model["MASK_ON"] is True
    saved_detector(tmp_path / "faster", "faster_rcnn")
    export_checkpoint(tmp_path / "faster", tmp_path / "d2-faster", "detectron2")
    model = yaml.safe_load((tmp_path / "d2-faster" / "config.yaml").read_text())["MODEL"]
    assert model["MASK_ON"] is False and "ROI_MASK_HEAD" not in model

    config = saved_detector(tmp_path / "dense", "retinanet").config
    ours = open_checkpoint(tmp_path / "dense").tensors
    export_checkpoint(tmp_path / "dense", tmp_path / "d2-dense", "detectron2")
    theirs = torch.load(tmp_path / "d2-dense" / "model.pth", weights_only=True)["model"]
    anchors = FixedStrideAnchors(config.anchor_sizes, config.aspect_ratios, (8, 16, 32, 64, 128))
    sides = anchors.generate_anchors(config.anchor_sizes[0], config.aspect_ratios)[:, 2:] * 2  # (9, 2) as ours count
    wanted = [(size / ratio**0.5, size * ratio**0.5) for size in config.anchor_sizes[0] for ratio in (0.4, 1.0, 2.5)]
    order = [int((sides - torch.tensor(pair)).abs().sum(dim=1).argmin()) for pair in wanted]  # as detectron2 counts
    assert sorted(order) == list(range(9)) != order
    for ours_name, theirs_name, width in (("classification_head.cls_logits", "cls_score", 4),
                                          ("regression_head.bbox_reg", "bbox_pred", 4)):  # fmt: skip
        rows = ours[f"retinanet.head.{ours_name}.weight"].unflatten(0, (9, width))
        assert torch.equal(theirs[f"head.{theirs_name}.weight"], rows[order].flatten(0, 1))
    model = yaml.safe_load((tmp_path / "d2-dense" / "config.yaml").read_text())["MODEL"]
    assert model["RETINANET"]["NUM_CLASSES"] == 4 and model["RETINANET"]["TOPK_CANDIDATES_TEST"] == 50
    assert model["ANCHOR_GENERATOR"]["SIZES"] == config.anchor_sizes


@torch.no_grad()
def test_mmdet_has_heads_and_settings(tmp_path: Path) -> None:
    ours = saved_detector(tmp_path / "mask", "mask_rcnn").state_dict()
    assert not export_checkpoint(tmp_path / "mask", tmp_path / "out", "mmdet").left_out
    theirs = torch.load(tmp_path / "out" / "model.pth", weights_only=True)["state_dict"]
    assert torch.equal(theirs["roi_head.bbox_head.shared_fcs.0.weight"], ours["roi_heads.box_head.fc1.weight"])
    assert torch.equal(theirs["roi_head.bbox_head.fc_cls.bias"][-1], ours["roi_heads.box_predictor.cls_score.bias"][0])
    assert torch.equal(theirs["rpn_head.rpn_conv.1.conv.weight"], ours["rpn.head.conv.1.0.weight"])
    assert len(theirs["roi_head.mask_head.conv_logits.weight"]) == 4
    parts = runpy.run_path(str(tmp_path / "out" / "mcl.py"))
    assert parts["model"]["roi_head"]["mask_head"]["num_classes"] == 4
    assert parts["model"]["roi_head"]["mask_head"]["conv_out_channels"] == 8, "mmdet's heads are 256 wide unasked"
    assert parts["model"]["rpn_head"]["feat_channels"] == 8
    assert parts["model"]["test_cfg"]["rcnn"]["max_per_img"] == 15
    assert parts["model"]["rpn_head"]["anchor_generator"]["sizes"] == [[16], [32], [64], [128], [256]]
    assert parts["custom_imports"]["imports"] == ["mcl_anchors"] and (tmp_path / "out" / "mcl_anchors.py").is_file()
    test = parts["test_dataloader"]["dataset"]
    assert test["metainfo"]["classes"] == tuple(NAMES.values()) and test["pipeline"][1]["scale"] == (160, 96)

    sizes = [[side, side * 1.25] for side in (16, 32, 64, 128, 256)]
    dense = saved_detector(tmp_path / "dense", "retinanet", anchor_sizes=sizes)
    export_checkpoint(tmp_path / "dense", tmp_path / "dense-out", "mmdet")
    theirs = torch.load(tmp_path / "dense-out" / "model.pth", weights_only=True)["state_dict"]
    norm = torch.nn.BatchNorm2d(8).eval()
    kind = "neck.fpn_convs.3."
    norm.load_state_dict({k.removeprefix(kind + "bn."): t for k, t in theirs.items() if k.startswith(kind + "bn.")})
    c5 = torch.randn(2, 512, 4, 4)
    p6 = norm(torch.nn.functional.conv2d(c5, theirs[f"{kind}conv.weight"], stride=2, padding=1))
    assert torch.allclose(p6, dense.extra_levels.p6(c5), atol=1e-5)
    assert "bbox_head.reg_convs.3.conv.bias" in theirs and len(theirs["bbox_head.retina_reg.bias"]) == 24
    anchors = runpy.run_path(str(tmp_path / "dense-out" / "mcl.py"))["model"]["bbox_head"]["anchor_generator"]
    assert runpy.run_path(str(tmp_path / "dense-out" / "mcl.py"))["model"]["bbox_head"]["feat_channels"] == 8
    assert anchors["sizes"] == sizes and anchors["strides"][0] == 8


class GeneratorOfMmdet:
    """What of mmdet's `AnchorGenerator` ours builds upon: its formula."""

    def __init__(self, strides, ratios, scales, base_sizes):
        self.ratios = torch.tensor(ratios)
        self.base_anchors = self.gen_base_anchors()

    def gen_single_level_base_anchors(self, base_size, scales, ratios):
        w, h = ((base_size * side[:, None] * scales).flatten() for side in (ratios**-0.5, ratios**0.5))
        return torch.stack([-0.5 * w, -0.5 * h, 0.5 * w, 0.5 * h], dim=1)


class GeneratorOfDetectron2:
    """The same of detectron2's `DefaultAnchorGenerator`."""

    def generate_cell_anchors(self, sizes, aspect_ratios):
        sides = [((s**2.0 / a) ** 0.5, a * (s**2.0 / a) ** 0.5) for s in sizes for a in aspect_ratios]
        return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])


def test_anchors_of_other_frameworks_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frameworks are not here: `scripts/check_doors.py` runs the real ones."""
    config = saved_detector(tmp_path / "dense", "retinanet").config
    register = {"register": lambda: lambda kind: kind, "register_module": lambda: lambda kind: kind}
    names = {
        "detectron2.modeling.anchor_generator": {
            "ANCHOR_GENERATOR_REGISTRY": SimpleNamespace(**register), "DefaultAnchorGenerator": GeneratorOfDetectron2,
        },
        "mmdet.models.task_modules.prior_generators": {"AnchorGenerator": GeneratorOfMmdet},
        "mmdet.registry": {"TASK_UTILS": SimpleNamespace(**register)},
    }  # fmt: skip
    for name, members in names.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))
    kinds = {}
    for to in ("detectron2", "mmdet"):
        export_checkpoint(tmp_path / "dense", tmp_path / to, to)
        kinds[to] = runpy.run_path(str(tmp_path / to / "mcl_anchors.py"))["WholePixelAnchors"]
        assert "mcl_anchors" in (tmp_path / to / "README.md").read_text()
    ours = FixedStrideAnchors(config.anchor_sizes, config.aspect_ratios, (8, 16, 32, 64, 128)).cell_anchors
    of_mmdet = kinds["mmdet"](config.anchor_sizes, config.aspect_ratios, [8, 16, 32, 64, 128]).base_anchors
    for sizes, one, other in zip(config.anchor_sizes, ours, of_mmdet, strict=True):
        assert torch.equal(one, other) and torch.equal(one, one.round())
        of_detectron2 = kinds["detectron2"]().generate_cell_anchors(sizes, config.aspect_ratios)
        assert torch.equal(one, of_detectron2.unflatten(0, (3, 3)).transpose(0, 1).flatten(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("fine_tuned", [True, False])
def test_gray_detectors_read_gray_pictures_elsewhere(tmp_path: Path, fine_tuned: bool) -> None:
    gray: dict[str, Any] = {"num_channels": 1, "image_mean": [0.2], "image_std": [0.1]}
    if fine_tuned:
        saved_detector(tmp_path / "gray", "faster_rcnn", **gray)
    else:
        MCLModel(MCLConfig(backbone="resnet18", fpn_channels=8, hidden_dim=8, **gray)).save_pretrained(
            tmp_path / "gray"
        )
    for to in ("detectron2", "mmdet", "torchvision"):
        export_checkpoint(tmp_path / "gray", tmp_path / to, to)
        readme = (tmp_path / to / "README.md").read_text()
        assert "values in [0, 1], gray." in readme and " RGB" not in readme
    settings = yaml.safe_load((tmp_path / "detectron2" / "config.yaml").read_text())
    assert (settings["INPUT"]["FORMAT"], settings["MODEL"]["PIXEL_MEAN"]) == ("L", [51.0])
    parts = runpy.run_path(str(tmp_path / "mmdet" / "mcl.py"))
    pixels = parts["model"]["data_preprocessor"]
    assert (pixels["mean"], pixels["std"], pixels["bgr_to_rgb"]) == ([51.0], [25.5], False)
    for split in ("train", "val", "test"):
        steps = parts[f"{split}_dataloader"]["dataset"]["pipeline"]
        assert steps[0] == {"type": "LoadImageFromFile", "color_type": "grayscale"}
        size = next(step["scale"] for step in steps if step["type"] == "Resize")
        assert size == ((160, 96) if fine_tuned else (1333, 800))
        assert ("metainfo" in parts[f"{split}_dataloader"]["dataset"]) == fine_tuned
    opened = readme.partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(opened, scope)
    assert scope["network"].conv1.in_channels == 1


def test_detectors_of_four_channels(tmp_path: Path) -> None:
    MCLModel(MCLConfig(backbone="resnet18", num_channels=4, fpn_channels=8, hidden_dim=8)).save_pretrained(
        tmp_path / "4"
    )
    with pytest.raises(InputError, match="takes 4 channels, and mmdet 1 or 3"):
        export_checkpoint(tmp_path / "4", tmp_path / "mmdet", "mmdet")
    assert not (tmp_path / "mmdet").exists()
    notes = export_checkpoint(tmp_path / "4", tmp_path / "detectron2", "detectron2").notes
    assert any("no INPUT.FORMAT reads 4 channels" in note for note in notes)
