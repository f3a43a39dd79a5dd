"""Pre-training, embeddings and statistics on a device: the CPU's bits, and no wait between two log lines."""

import pytest
import torch

from mcl_hf import MCLForPreTraining, MCLForSupervisedPreTraining, MCLModel
from mcl_hf.data.views.draw import PUBLISHED_A, PUBLISHED_B, draw_views
from mcl_hf.data.views.finish import augment_batch, collect_draws
from mcl_hf.engine.health import FiniteGuard, effective_rank, relative_distance, second_moments
from mcl_hf.engine.optim import build_optimizer
from mcl_hf.models.precise_bn import update_statistics
from mcl_hf.probe.region_features import calibrate_norms, features_of_boxes
from tests.device import DEVICE, Device, host
from tests.models.tiny import tiny_batch, tiny_config, tiny_views


def same_tensors(reference: torch.nn.Module, model: torch.nn.Module) -> None:
    """Parameters, gradients and buffers, to the last bit."""
    for (name, one), other in zip(reference.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other.detach().host), name
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, other.grad.host), name
    for (name, one), other in zip(reference.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(one, other.host), name


def steps(model, views, montages, groups, device, in_turn=False):
    optimizer = build_optimizer(model, "lars", 0.1, 1e-4)
    guard = FiniteGuard(device, scaled=False, keep=2)
    for step in range(2):
        optimizer.zero_grad()
        both = {**views, **montages, "group_ids": groups}
        if in_turn:
            keys = model.compute_keys(**views, **montages)
            parts = [{"keys": keys, "sides": (side,)} for side in "ab"]
        else:
            parts = [{}]
        for part in parts:
            output = model(**both, **part)
            guard.watch(output.loss, step).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimizer.found_inf = guard.update_mask(norm, step)
        optimizer.step()
        model.update_target(0.9)
    return output


@pytest.mark.parametrize(
    ("fields", "in_turn", "grouped"),
    [
        ({}, False, True),
        ({"region_scope": "published"}, False, False),
        ({"queue_size": 6}, True, False),
        ({"queue_size": 3, "level_pairing": "all"}, False, True),
        ({"level_pairing": "same"}, False, False),
        ({"level_pairing": "adjacent", "queue_size": 6}, False, False),
    ],
    ids=["groups", "published", "queue, in turn", "all", "same", "adjacent"],
)
def test_pretraining_is_that_of_the_cpu_and_waits_for_nothing(fields, in_turn, grouped):
    config = tiny_config(**fields)
    torch.manual_seed(0)
    reference = MCLForPreTraining(config).train()
    torch.manual_seed(0)
    model = MCLForPreTraining(config).train()
    views = tiny_batch(config)
    montages = {f"montage_{side}": reference.draw_montages(4) for side in "ab"}
    groups = torch.tensor([0, 0, 1, 2]) if grouped else None
    expected = steps(reference, views, montages, groups, torch.device("cpu"), in_turn)
    with Device() as device:
        device.put(model)
        output = steps(model, device.put(views), device.put(montages), device.put(groups), DEVICE, in_turn)
        moments = second_moments(output.queries)
        effective_rank(moments), relative_distance(model.target.parameters(), model.mcl.parameters())
        assert not device.waits
        for name in ("loss", "level_losses", "random_losses", "positive_similarity", "negative_similarity"):
            assert torch.equal(host(output[name]), output_of(expected, name)), name
        same_tensors(reference, model)


def output_of(output, name):
    return output[name].detach()


def test_supervised_pretraining_is_that_of_the_cpu():
    config = tiny_config(num_labels=5)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(MCLForSupervisedPreTraining(config).train())
    reference, model = models
    views, classes, montage = tiny_views(config), torch.tensor([0, 4, 2, 2]), reference.draw_montages(4)
    expected = reference(views, classes, montage)
    expected.loss.backward()
    with Device() as device:
        output = device.put(model)(device.put(views), device.put(classes), device.put(montage))
        output.loss.backward()
        assert not device.waits
        assert torch.equal(host(output.loss), expected.loss.detach())
        same_tensors(reference, model)


def test_augmentation_on_a_device_is_that_of_the_cpu():
    draws = [draw_views(300, 200, [PUBLISHED_A, PUBLISHED_B], 0, position) for position in range(4)]
    for view in range(2):
        collected = collect_draws([draw[view] for draw in draws], 3, 1.0)
        pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        expected = augment_batch(pixels.clone(), collected)
        with Device() as device:
            found = augment_batch(device.put(pixels.clone()), collected.map(device.put))
            assert not device.waits
            assert torch.equal(host(found), expected)


def test_probes_embeddings_and_precise_norms_are_those_of_the_cpu():
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images.float() / 255
    boxes = [torch.tensor([[0.0, 0.0, 30.0, 30.0], [8.0, 8.0, 60.0, 64.0]])] * 4

    def look(model, to):
        calibrate_norms(model, images, True)
        found = [features_of_boxes(model, images, boxes)]
        with torch.no_grad():
            found += [model.embed_regions(to(pixels), to(boxes)), model.embed_regions(to(pixels), boxes)]
        model.train()
        update_statistics(model, lambda batch: model(batch), [to(pixels), to(pixels.flip(0))])
        return found

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(MCLModel(tiny_config()))
    expected = look(models[0], lambda tree: tree)
    with Device() as device:
        found = look(device.put(models[1]), device.put)
        same_tensors(*models)
        leaves = torch.utils._pytree.tree_leaves
        for one, other in zip(leaves(expected), leaves(host(found)), strict=True):
            assert torch.equal(one, other)


def test_what_the_device_refuses_and_counts():
    with Device() as device:
        values = device.put(torch.arange(3.0))
        with pytest.raises(RuntimeError, match="mixes devices"):
            values + torch.ones(3)
        for ask in (torch.Tensor.cpu, torch.Tensor.tolist, torch.nonzero, lambda x: x[x > 0], lambda x: x.sum().item()):
            before = sum(device.waits.values())
            ask(values)
            assert sum(device.waits.values()) == before + 1, ask
