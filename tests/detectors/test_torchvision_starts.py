"""torchvision's own detectors as starts: layouts of its constructors, equal outputs, classes by name, commands."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d

from mcl_hf.cli import finetune as finetune_command
from mcl_hf.comparison.starts import Start, network_fields, with_coco_weights
from mcl_hf.detection import open_detector, start_detector
from mcl_hf.detectors.start_detector import known_classes, read_start_config
from mcl_hf.errors import InputError
from mcl_hf.models.weight_files import read_safetensors
from mcl_hf.transfer.export import export_checkpoint
from mcl_hf.transfer.torchvision_detectors import LAYOUTS, torchvision_tensors
from tests.scenes import write_scenes

SIDES = (96, 150)  # padded to 96 x 160: torchvision's anchors of the coarse levels stand at other strides than ours


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights of a network that was built without any, such that activations stay small."""
    generator = torch.Generator().manual_seed(0)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.zero_()
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(float(name.endswith("weight")), 0.1, generator=generator)
            else:
                tensor.normal_(0, math.sqrt(1 / tensor[0].numel()), generator=generator)
    return model.eval()


def build(name: str, num_classes: int = 91) -> torch.nn.Module:
    """torchvision's own, which takes images as they are."""
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
    model.transform = GeneralizedRCNNTransform(SIDES[0], 1000, [0.0] * 3, [1.0] * 3)
    for part in (model, getattr(model, "rpn", None)):  # what was made on the meta device beside the weights
        if hasattr(part, "anchor_generator"):
            generator = part.anchor_generator
            cells = zip(generator.sizes, generator.aspect_ratios, strict=True)
            generator.cell_anchors = [generator.generate_anchors(*cell) for cell in cells]
    return fill(model)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    """Name of a detector, and number of its classes -> a file of its weights."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name: str, num_classes: int = 91) -> Path:
        path = folder / f"{name}-{num_classes}.pth"
        if not path.exists():
            torch.save(build(name, num_classes).state_dict(), path)
        return path

    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_are_torchvisions(name: str, files) -> None:
    theirs = build(name)
    detector = LAYOUTS[name]["detector"]
    few = {"box_score_thresh": 0.0, "box_detections_per_img": 20, "rpn_post_nms_top_n_test": 50}
    for holder in (theirs, getattr(theirs, "roi_heads", None)):
        if hasattr(holder, "score_thresh"):
            holder.score_thresh, holder.detections_per_img = 0.0, 20
    if hasattr(theirs, "rpn"):
        theirs.rpn._post_nms_top_n["testing"] = 50
    ours, report = start_detector(str(files(name)), detector=detector, verbose=False, **few)
    assert all(loaded == total for loaded, total in report.parts.values()), str(report)
    image = torch.rand(1, 3, *SIDES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(list(image))[0], ours.eval().detections(image)[0]
    assert len(expected["scores"]) == 20
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-5)
    assert torch.equal(found["labels"] + (detector != "retinanet"), expected["labels"])
    names = get_model_weights(name).DEFAULT.meta["categories"]
    assert [ours.config.id2label[int(label)] for label in found["labels"]] == [names[i] for i in expected["labels"]]


@pytest.mark.slow
def test_frozen_batch_norms_of_eps_0_and_old_names(tmp_path: Path) -> None:
    """As the files for COCO of the first generation are: no counters, and names of before torchvision 0.14."""
    with torch.device("meta"):
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
        model = FasterRCNN(backbone, 91)
    overwrite_eps(fill(model), 0.0)
    model.backbone.body.layer2[0].bn1.running_var[::2] = 1e-6  # where an eps of 1e-5 is another network
    tensors = {_old_name(name): tensor for name, tensor in model.state_dict().items()}
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.weight"} <= set(tensors)
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "old.pth")
    ours, report = start_detector(str(tmp_path / "old.pth"), detector="faster_rcnn", verbose=False)
    assert report.parts["backbone"] == (318, 318) and report.parts["RPN"] == (6, 6)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for level, expected in zip(ours.eval().pyramid(image), model.backbone(image).values(), strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def _old_name(name: str) -> str:
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn"])
def test_classes_are_taken_by_name_and_the_others_start_new(name: str, files) -> None:
    given = torchvision_tensors(files(name))
    names = {0: "spoon", 1: "Person", 2: "novel", 3: "toothbrush"}
    model, report = start_detector(str(files(name)), detector=LAYOUTS[name]["detector"], id2label=names, verbose=False)
    assert "classes known by name 3/4" in str(report) and model.config.id2label == names
    assert all(loaded == total for part, (loaded, total) in report.parts.items() if part != "classes known by name")
    own = model.state_dict()
    categories = get_model_weights(name).DEFAULT.meta["categories"]
    old = [categories.index(label) for label in ("spoon", "person", "toothbrush")]
    if name.startswith("retinanet"):
        for kind in ("weight", "bias"):
            tensor = f"retinanet.head.classification_head.cls_logits.{kind}"
            mine, theirs = own[tensor].unflatten(0, (9, 4)), given[tensor].unflatten(0, (9, 91))
            assert torch.equal(mine[:, [0, 1, 3]], theirs[:, old])
        assert mine[:, 2].eq(-math.log(99)).all()
        return
    rows = (("box_predictor.cls_score", 1), ("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1))
    for predictor, each in rows:
        for kind in ("weight", "bias"):
            tensor = f"roi_heads.{predictor}.{kind}"
            mine, theirs = (tensors[tensor].unflatten(0, (-1, each)) for tensors in (own, given))
            assert torch.equal(mine[[0, 1, 2, 4]], theirs[[0, *old]])
            assert not torch.isin(mine[3], theirs).all()


def test_names_that_say_nothing_are_known_by_number() -> None:
    unnamed = {0: "LABEL_0", 1: "LABEL_1"}
    assert known_classes({0: "cup", 1: "fork"}, unnamed) == [(0, 0), (1, 1)]
    assert known_classes({0: "LABEL_0"}, unnamed) == known_classes({0: "cup"}, unnamed) == []
    assert known_classes({0: "b", 1: "a", 2: "a"}, {0: "a", 1: "b", 2: "a"}) == [(0, 1), (1, 0), (2, 0)]


def test_a_name_alone_fetches_nothing() -> None:
    config = read_start_config("torchvision:fasterrcnn_resnet50_fpn_v2")
    assert (config.detector, config.rpn_conv_depth, config.box_head_fcs, config.num_labels) == ("faster_rcnn", 2, 1, 90)
    assert config.id2label[0] == "person" and config.id2label[89] == "toothbrush"
    network = {"backbone": "resnet50", "rpn_conv_depth": 2, "roi_sampling_ratio": 2}
    assert network_fields(config) == {**network, "roi_aligned": False, "fixed_anchor_strides": False}
    coco = with_coco_weights(Start(name="coco", init="coco"), "mask_rcnn")
    assert (coco.name, coco.init) == ("coco", "torchvision:maskrcnn_resnet50_fpn_v2")
    with pytest.raises(InputError, match="coco stands for weights of torchvision, which has no d_fine"):
        with_coco_weights(Start(name="coco", init="coco"), "d_fine")


@pytest.mark.slow
def test_weights_by_name_come_from_torchvisions_cache(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "retinanet_resnet50_fpn_v2"
    cached = tmp_path / "hub" / "checkpoints" / Path(get_model_weights(name).DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    cached.symlink_to(files(name))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model, processor = open_detector(f"torchvision:{name}")
    assert not model.training and processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    given = torch.load(cached, weights_only=True)
    assert torch.equal(model.retinanet.head.classification_head.conv[0][1].weight, given[_OF_GROUP_NORM])
    model.save_pretrained(tmp_path / "saved")
    saved = read_safetensors(tmp_path / "saved" / "model.safetensors")
    assert all(torch.equal(tensor, saved[key]) for key, tensor in model.state_dict().items())
    again, report = start_detector(str(tmp_path / "saved"), detector="retinanet", verbose=False)  # its own classes
    assert again.config.num_labels == 91 and all(loaded == total for loaded, total in report.parts.values())
    with pytest.raises(InputError, match="has conv_norm none, as torchvision's own detectors"):
        export_checkpoint(tmp_path / "saved", tmp_path / "exported", "detectron2")


_OF_GROUP_NORM = "head.classification_head.conv.0.1.weight"


@pytest.mark.slow
def test_the_commands_take_a_file(files, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_scenes(write_scenes(tmp_path / "data", 4, width=96, height=72), 2, width=96, height=72, split="val")
    file = str(files("fasterrcnn_resnet50_fpn", 4))  # of its own three classes, whose names no file holds
    small = ["--min-size-train", "64", "--max-size-train", "96", "--min-size-test", "64", "--max-size-test", "96"]
    given = ["--init", file, "--data", str(data), "--detector", "faster_rcnn", "--output-dir", str(tmp_path / "run")]
    length = ["--max-steps", "1", "--batch-size", "2", "--num-workers", "0", "--precise-bn-steps", "0"]
    few = {"rpn_post_nms_top_n_train": 30, "rpn_post_nms_top_n_test": 30, "box_batch_size_per_image": 16}
    length += ["--detector-options", json.dumps(few)]
    assert finetune_command.main([*given, *small, *length]) == 0
    printed = capsys.readouterr().out
    assert f"weights from {file}: backbone 318/318, FPN 16/16, fc1 2/2, fc2 2/2, box predictor 4/4, RPN 6/6" in printed
    assert list(open_detector(str(tmp_path / "run"))[0].config.id2label.values()) == [
        "ellipse",
        "triangle",
        "rectangle",
    ]


@pytest.mark.parametrize(
    ("init", "said"),
    [
        (
            "torchvision:fasterrcnn_resnet50",
            "torchvision:fasterrcnn_resnet50 cannot be started from: known are fasterrcnn",
        ),
        ("torchvision:ssd300_vgg16", "cannot be started from"),
        ("./nowhere.pth", "no checkpoint at ./nowhere.pth: neither random, timm:NAME, torchvision:NAME"),
        ("RESNET", "holds no detector of torchvision; it becomes a folder to start from by mcl-hf import"),
        ("TEXT", "it is a text"),
        ("OTHER", "looks like torchvision's fasterrcnn_resnet50_fpn, but its tensors are others: Missing key"),
    ],
)
def test_what_cannot_start_is_one_line(
    init: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if init.isupper():
        tensors = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
        if init == "OTHER":
            tensors = {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7), _SCORES: torch.zeros(4, 1024)}
        init = str(tmp_path / f"{init}.pth")
        torch.save(tensors, init)
        if "TEXT" in init:
            Path(init).write_text("no weights at all")
    data = write_scenes(tmp_path / "data", 2, width=64, height=64)
    given = ["--init", init, "--data", str(data), "--detector", "faster_rcnn", "--output-dir", str(tmp_path / "run")]
    assert finetune_command.main([*given, "--max-steps", "1", "--val-split", "train"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1] and "Traceback" not in error


_SCORES = "roi_heads.box_predictor.cls_score.weight"
