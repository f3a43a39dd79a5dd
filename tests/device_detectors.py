"""Detectors on a device give what they give on the CPU, and make the host wait as seldom as written here."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from mcl_hf import MCLImageProcessor
from tests.device import Device, host
from tests.tiny_detector import DETECTORS, tiny_detector, tiny_labels

SIZES = [(64, 96), (60, 80)]

# By line of this library, for a batch of two images. The sampler asks how many candidates there are, of each kind,
# image and stage; a region's level and its being an object decide on shapes.
OWN_WAITS: dict[str, dict[str, int]] = {
    "mask_rcnn": {
        "nonzero at detectors/proposals.py": 8,
        "tolist at models/region_cut.py": 2,
        "nonzero at detectors/roi_heads.py": 2,
    },
    "faster_rcnn": {"nonzero at detectors/proposals.py": 8, "tolist at models/region_cut.py": 1},
    "retinanet": {"boolean index at elsewhere": 2},  # backward of torchvision's choice of anchors
}
# In evaluation, as `predict` asks: sizes from the mask of pixels, boxes, and masks drawn. Also of two images.
EVALUATION_WAITS: dict[str, dict[str, int]] = {
    "mask_rcnn": {
        "tolist at detectors/modeling_detector.py": 1,
        "tolist at models/region_cut.py": 2,
        "nonzero at models/image_processing_mcl.py": 4,
        "tolist at models/image_processing_mcl.py": 4,
    },
    "faster_rcnn": {
        "tolist at detectors/modeling_detector.py": 1,
        "tolist at models/region_cut.py": 1,
        "nonzero at models/image_processing_mcl.py": 2,
    },
    "retinanet": {"tolist at detectors/modeling_detector.py": 1, "nonzero at models/image_processing_mcl.py": 2},
}
TORCHVISION_EVALUATION_WAITS = {"mask_rcnn": 12, "faster_rcnn": 12, "retinanet": 40}
TORCHVISION_WAITS = {"mask_rcnn": 14, "faster_rcnn": 14, "retinanet": 13}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_page_on_speed_has_these_numbers(name):
    train, evaluation = OWN_WAITS[name], sum(EVALUATION_WAITS[name].values())
    own = sum(count for line, count in train.items() if "elsewhere" not in line)
    whole = sum(train.values()) + TORCHVISION_WAITS[name], evaluation + TORCHVISION_EVALUATION_WAITS[name]
    page = (Path(__file__).parents[1] / "docs" / "speed.md").read_text(encoding="utf-8")
    assert f"| {name} | {whole[0]} | {own} | {whole[1]} | {evaluation} |" in page


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def labels() -> list[dict[str, torch.Tensor]]:
    return [tiny_labels(64, 96, 2, 0), tiny_labels(64, 96, 0, 1)]


def train(model, images, targets):
    output = model(images, labels=targets, image_sizes=SIZES, generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    return output


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_training_step_is_that_of_the_cpu(detector):
    reference = tiny_detector(detector).train()
    expected = train(reference, pixels(), labels())
    with Device() as device:
        model = device.put(tiny_detector(detector)).train()
        output = train(model, device.put(pixels()), device.put(labels()))
        waits = device.waits.copy()
        assert host(output.loss_dict).keys() == expected.loss_dict.keys()
        for name, loss in host(output.loss_dict).items():
            assert torch.equal(loss, expected.loss_dict[name]), name
        for (name, one), other in zip(reference.named_parameters(), model.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), name
            assert one.grad is None or torch.equal(one.grad, other.grad.host), name
        for (name, one), other in zip(reference.named_buffers(), model.buffers(), strict=True):
            assert torch.equal(one, other.host), name
    check_waits(waits, OWN_WAITS[detector], TORCHVISION_WAITS[detector])


def check_waits(waits: Counter[str], own: dict[str, int], of_torchvision: int) -> None:
    ours = {line: count for line, count in waits.items() if not line.rpartition(" ")[2].startswith("torchvision/")}
    assert ours == own, waits
    assert sum(waits.values()) - sum(ours.values()) == of_torchvision, waits


@pytest.mark.parametrize("detector", DETECTORS)
def test_detections_and_their_masks_are_those_of_the_cpu(detector):
    def look(model, images, mask):
        with torch.no_grad():
            output = model(images, pixel_mask=mask)
        processor = MCLImageProcessor.from_config(model.config)
        sizes = [(100, 150), (90, 120)]
        found = [processor.post_process_object_detection(output, 0.0, sizes)]
        if detector == "mask_rcnn":
            asked = {"target_sizes": sizes, "return_binary_maps": True}
            found.append(processor.post_process_instance_segmentation(output, 0.0, **asked))
        return dict(output), found

    mask = torch.zeros(2, 64, 96, dtype=torch.int64)
    for image, (height, width) in zip(mask, SIZES, strict=True):
        image[:height, :width] = 1
    expected = look(tiny_detector(detector), pixels(), mask)
    with Device() as device:
        found = look(device.put(tiny_detector(detector)), device.put(pixels()), device.put(mask))
        waits: Counter[str] = device.waits.copy()
    flat = torch.utils._pytree.tree_leaves
    pairs = list(zip(flat(expected), flat(host(found)), strict=True))
    assert len(pairs) > 8
    for one, other in pairs:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    check_waits(waits, EVALUATION_WAITS[detector], TORCHVISION_EVALUATION_WAITS[detector])
