"""The same weights and images: ours against torchvision's own models, and maps against MCLModel's."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision.models.detection.roi_heads as torchvision_roi_heads

from mcl_hf import MCLConfig, MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection, MCLModel
from mcl_hf.detectors.roi_heads import mask_targets
from mcl_hf.transfer.detector_heads import head_table
from mcl_hf.transfer.keymaps import TABLES, to_theirs
from mcl_hf.transfer.starting_weights import rename_from_detector
from tests.tiny_detector import DETECTORS, FEW_REGIONS

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import benchmark_detector as benchmark

SIDE = 128


def config_of(detector: str) -> MCLDetectorConfig:
    """A ResNet-18, which timm and torchvision both have, with four convolutions in the heads."""
    return MCLDetectorConfig(
        detector=detector,
        backbone="resnet18",
        fpn_channels=8,
        box_fc_dim=16,
        num_labels=4,
        # everything that RetinaNet's untrained head finds: its scores start at 0.01
        box_score_thresh=0.05 if detector != "retinanet" else 0.005,
        **FEW_REGIONS,
    )


def torchvision_names(tensors, detector: str) -> dict[str, torch.Tensor]:
    """Our detector's names -> those of the torchvision model."""
    table = (*TABLES["torchvision", detector], *head_table("torchvision", detector, num_convs=4))
    return {to_theirs(name, table): tensor for name, tensor in rename_from_detector(tensors).items()}


@pytest.fixture(scope="module", params=DETECTORS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *benchmark.pair_of_models(config_of(request.param), SIDE, folder)


def test_every_tensor_has_a_partner(models) -> None:
    detector, ours, theirs = models
    own = torchvision_names(ours.state_dict(), detector)
    for name, tensor in theirs.state_dict().items():
        if not name.startswith("backbone.body.fc."):
            assert torch.equal(tensor, own.pop(name)), name
    assert not own


def test_detections_are_torchvisions(models) -> None:
    detector, ours, theirs = models
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs.eval()(list(images))
    with torch.no_grad():
        found = ours.eval().detections(images)
        output = ours(images)
    first_class = 0 if detector == "retinanet" else 1
    assert sum(len(image["scores"]) for image in expected) == 20  # the bound of both images: something to compare
    for index, (mine, reference) in enumerate(zip(found, expected, strict=True)):
        for name, offset in (("boxes", 0), ("scores", 0), ("labels", first_class)):
            assert torch.equal(mine[name] + offset, reference[name]), name
        assert torch.equal(output.pred_scores[index], reference["scores"])  # scores are kept exactly
        assert torch.equal(output.pred_labels[index] + first_class, reference["labels"])


def test_pasted_masks_are_near_torchvisions(tmp_path: Path) -> None:
    """torchvision rounds boxes to whole pixels before it pastes, which ours does not, on purpose."""
    from mcl_hf import MCLImageProcessor

    torch.manual_seed(0)
    ours, theirs = benchmark.pair_of_models(config_of("mask_rcnn"), SIDE, tmp_path)
    torch.nn.init.normal_(ours.roi_heads.mask_predictor.mask_fcn_logits.weight)  # masks that are neither empty nor full
    theirs.load_state_dict(torchvision_names(ours.state_dict(), "mask_rcnn"), strict=False)
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = theirs.eval()(list(image))[0]["masks"][:, 0] > 0.5
        outputs = ours.eval()(image)
    found = MCLImageProcessor.from_config(ours.config).post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=[(SIDE, SIDE)], return_binary_maps=True
    )[0]
    assert 0.01 < expected.float().mean() < 0.5
    assert (found["segmentation"] != expected).float().mean() < 0.1
    assert len(found["segments_info"]) == len(expected)


def test_training_losses_and_gradients_are_torchvisions(models, monkeypatch) -> None:
    """But for the targets of masks, which are aligned and hard as detectron2's, on purpose."""
    detector, ours, theirs = models
    aligned = lambda masks, boxes, matches, side: mask_targets(masks, boxes, matches, side).float()  # noqa: E731
    monkeypatch.setattr(torchvision_roi_heads, "project_masks_on_boxes", aligned)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    labels = [benchmark.synthetic_labels(count, SIDE, 4, generator) for count in (3, 1)]
    first_class = 0 if detector == "retinanet" else 1
    torch.manual_seed(5)
    expected = theirs.train()(list(images), [benchmark.for_torchvision(label, first_class) for label in labels])
    sum(expected.values()).backward()
    torch.manual_seed(5)
    output = ours.train()(images, labels=[benchmark.for_ours(label, SIDE) for label in labels])
    output.loss.backward()
    names = {"classification": "loss_classifier", "bbox_regression": "loss_box_reg"}
    assert len(output.loss_dict) == len(expected)
    for name, loss in expected.items():
        assert output.loss_dict[names.get(name, name)].item() == pytest.approx(loss.item(), rel=1e-6), name
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in torchvision_names(dict(ours.named_parameters()), detector).items():
        gradient = theirs_by_name[name].grad
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item()), name
    ours.zero_grad(), theirs.zero_grad()


def test_maps_are_exactly_those_of_the_pretrained_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pretrained = MCLModel(MCLConfig(backbone="resnet18", fpn_channels=8, hidden_dim=16)).eval()
    pretrained.train()(torch.randn(2, 3, 64, 64))  # running statistics that matter
    pretrained.eval().save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        expected = pretrained(pixels)
        mask_rcnn = MCLForInstanceSegmentation.from_pretraining(str(tmp_path), num_labels=2).eval()
        retinanet = MCLForObjectDetection.from_pretraining(str(tmp_path), num_labels=2, detector="retinanet").eval()
        for detector, skipped in ((mask_rcnn, 0), (retinanet, 1)):
            levels = detector.pyramid(pixels)
            assert len(levels) == 5
            own_maps = levels[: 4 - skipped]  # the fifth is P6; RetinaNet's are P3..P5, then P6 and P7
            for own, reference in zip(own_maps, expected.feature_maps[skipped:], strict=True):
                assert torch.equal(own, reference)
            for own, reference in zip(detector.backbone_maps(pixels), expected.backbone_feature_maps, strict=True):
                assert torch.equal(own, reference)
