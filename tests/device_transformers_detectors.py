"""Fine-tuning steps and predictions of transformers' detectors on a device: the CPU's bits, and few waits."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS, start_transformers_detector
from mcl_hf.engine.health import FiniteGuard
from mcl_hf.evaluation.predict_data import predict
from mcl_hf.finetuning import ema
from mcl_hf.finetuning.step import forward_backward
from mcl_hf.finetuning.train_loader import DetectionBatch
from tests.detectors.test_transformers_detectors import OPTIONS
from tests.device import DEVICE, Device, host
from tests.tiny_detector import tiny_labels

WAITS = {
    "rt_detr_v2": (58, 8), "d_fine": (98, 8), "deimv2": (102, 8), "deformable_detr": (17, 7), "detr": (18, 8),
    "mask2former": (21, 2),
}  # fmt: skip
"""Detector -> how often transformers' own code makes the host wait in a step of training with averages, and in a
prediction, both of two images: matching is done on the host, and losses, checks and post-processing read values."""
COUNTED_WITH = "5.24."
"""Release of transformers; in others only this library's own are held to their number."""
COUNTED = transformers.__version__.startswith(COUNTED_WITH)
SPEED = (Path(__file__).parents[1] / "docs" / "speed.md").read_text(encoding="utf-8")

STEPS = 2
SIDES = (64, 64)


def batch(step):
    pixels = torch.randint(0, 256, (2, 3, *SIDES), dtype=torch.uint8, generator=torch.Generator().manual_seed(step))
    return DetectionBatch(step, pixels, [SIDES] * 2, [tiny_labels(*SIDES, 2, 0), tiny_labels(*SIDES, 1, 1)], None)


def tiny(name):
    torch.manual_seed(0)
    names = {0: "a", 1: "b", 2: "c"}
    model = start_transformers_detector("random", name, names, "resnet10t", **OPTIONS[name])[0].train()
    model.set_attn_implementation("eager")  # the CPU has a kernel of its own for attention
    return model


def train(name, model, device, waits=None):
    """Two steps of fine-tuning with averaged weights; the averages, losses by name, and what the second waited for."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    arguments = SimpleNamespace(detector=name, seed=0, gradient_accumulation_steps=1, channels_last=False, ema=True)
    run = SimpleNamespace(
        arguments=arguments,
        accelerator=SimpleNamespace(
            device=device, num_processes=1, process_index=0, backward=lambda loss: loss.backward()
        ),
        model=model, network=model, optimizer=SimpleNamespace(optimizer=optimizer),
        guard=FiniteGuard(device, scaled=False, keep=2),
        mean=torch.full((3, 1, 1), 120.0).to(device), scale=torch.full((3, 1, 1), 60.0).to(device),
    )  # fmt: skip
    waits = Counter() if waits is None else waits
    for step in range(STEPS):
        before = waits.copy()
        optimizer.zero_grad()
        outputs = forward_backward(run, step, batch(step), step, lambda last: torch.enable_grad())
        optimizer.step()
        ema.update(run, step)
    averages = [state[slot] for state, slot, _ in ema._tracked(run)]
    return averages, outputs, waits - before


def near(one, other):
    """Some matrix products read another layout than on the CPU, which costs the last bits of a tensor's largest."""
    largest = float(one.detach().abs().max()) if one.numel() else 0.0
    torch.testing.assert_close(host(other), one.detach(), rtol=1e-3, atol=1e-3 * largest + 1e-6)


def parted(waits):
    """This library's, by line, and how many are of transformers."""
    theirs = {line for line in waits if line.rpartition(" ")[2].startswith(("transformers/", "elsewhere"))}
    return {line: count for line, count in waits.items() if line not in theirs}, sum(waits[line] for line in theirs)


@pytest.mark.parametrize("name", TRANSFORMERS_DETECTORS)
def test_steps_with_averages_are_those_of_the_cpu(name):
    reference = tiny(name)
    expected, losses, _ = train(name, reference, torch.device("cpu"))
    with Device() as device:
        model = device.put(tiny(name))
        found, own_losses, waits = train(name, model, DEVICE, device.waits)
        assert parted(waits) == ({}, WAITS[name][0] if COUNTED else sum(waits.values())), waits
        for key, loss in losses.items():
            near(loss, own_losses[key])
        assert len(expected) > 20
        pairs = [*zip(reference.parameters(), model.parameters(), strict=True), *zip(expected, found, strict=True)]
        for one, other in [*pairs, *zip(reference.buffers(), model.buffers(), strict=True)]:
            near(one, other)
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                near(one.grad, other.grad)


@pytest.mark.parametrize("name", TRANSFORMERS_DETECTORS)
def test_what_is_found_is_what_the_cpu_finds(name):
    kind = TRANSFORMERS_DETECTORS[name]
    processor = kind.image_processor([0.5] * 3, [0.25] * 3, 64, 96)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    items = [SimpleNamespace(image_id=n, height=40, width=60, decode=lambda n=n: pixels[n]) for n in range(2)]
    with torch.no_grad():  # the device knows no inference mode
        expected = predict.__wrapped__(tiny(name).eval(), processor, items)
    with Device() as device, torch.no_grad():
        found = predict.__wrapped__(device.put(tiny(name)).eval(), processor, items)
        waits = device.waits.copy()
    sizes = {"new_tensor at evaluation/predict_data.py": 2} if kind.masks else {}
    own, theirs = parted(waits)
    assert own == {"copy to the host at evaluation/predict_data.py": 6, **sizes}
    if COUNTED:
        ours = sum(sizes.values())
        assert theirs == WAITS[name][1], waits
        assert f"| {name} | {WAITS[name][0]} | 0 | {theirs + ours} | {ours} |" in SPEED
    for one, other in zip(expected, found, strict=True):
        assert len(one.scores) > 5 and one.masks == other.masks
        for part in ("boxes", "scores", "labels"):
            np.testing.assert_allclose(getattr(other, part), getattr(one, part), rtol=1e-4, atol=1e-4)
