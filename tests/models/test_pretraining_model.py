"""`MCLForPreTraining` as a training loop uses it."""

import copy
import math
from typing import Any

import pytest
import torch

from mcl_hf import MCLForPreTraining
from mcl_hf.models.configuration_mcl import LEVEL_PAIRINGS

from .tiny import tiny_batch, tiny_config, tiny_views


def build(**overrides: Any) -> MCLForPreTraining:
    torch.manual_seed(0)
    return MCLForPreTraining(tiny_config(**overrides))


def test_target_starts_as_a_copy_and_follows() -> None:
    model = build()
    pairs = model._target_pairs()
    assert all(torch.equal(target, online) for target, online in pairs)
    before = model.target.fpn.output[3].conv.weight.clone()
    with torch.no_grad():
        model.mcl.fpn.output[3].conv.weight += 1
    model.update_target(0.9)
    assert torch.allclose(model.target.fpn.output[3].conv.weight, before + 0.1, atol=1e-6)


def test_untrained_loss_is_near_chance() -> None:
    output = build()(**tiny_batch(tiny_config(), 16))
    assert output.loss.item() == pytest.approx(4 * math.log(16), rel=0.1)  # sum over sides and levels of 2 w ln N
    assert output.level_losses.sum().item() == pytest.approx(output.loss.item(), rel=1e-6)
    assert output.feature_std.shape == (4, 2) and output.feature_std.min() > 0.01


@pytest.mark.parametrize("region_scope", ["lean", "published"])
@pytest.mark.parametrize("level_pairing", LEVEL_PAIRINGS)
def test_every_promised_gradient_comes(region_scope: str, level_pairing: str) -> None:
    model = build(region_scope=region_scope, level_pairing=level_pairing)
    model(**tiny_batch(model.config)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.target.parameters())


@pytest.mark.parametrize("ratios", [(1,), (1, 2, 4), (1, 8), (1, 4)])
def test_fewer_levels_leave_no_parameter_waiting(ratios: tuple[int, ...]) -> None:
    levels = len(ratios)
    for scope in ("lean", "published"):
        model = build(
            montage_ratios=ratios, montage_fractions=[1] * levels, level_weights=[1] * levels, region_scope=scope
        )
        model(**tiny_batch(model.config)).loss.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("level_pairing", LEVEL_PAIRINGS)
def test_scopes_are_the_same_function_of_each_sample(level_pairing: str) -> None:
    lean = build(level_pairing=level_pairing).double().eval()
    published = build(level_pairing=level_pairing, region_scope="published").double().eval()
    published.load_state_dict(lean.state_dict())
    batch = tiny_batch(lean.config, 6, torch.float64)
    montages = {f"montage_{side}": lean.draw_montages(6, torch.Generator().manual_seed(3)) for side in "ab"}
    with torch.no_grad():
        found, expected = lean(**batch, **montages), published(**batch, **montages)
    assert torch.allclose(found.level_losses, expected.level_losses, atol=1e-10)
    assert torch.allclose(found.negative_similarity, expected.negative_similarity, atol=1e-10)


@pytest.mark.parametrize("overrides", [{}, {"level_pairing": "all"}, {"region_scope": "published"}, {"queue_size": 5}])
def test_sides_in_turn_give_the_same_gradients(overrides: dict[str, Any]) -> None:
    together, in_turn = build(**overrides).double(), build(**overrides).double()
    in_turn.load_state_dict(together.state_dict())
    batch = tiny_batch(together.config, 4, torch.float64)
    montages = {f"montage_{side}": together.draw_montages(4, torch.Generator().manual_seed(3)) for side in "ab"}
    whole = together(**batch, **montages)
    whole.loss.backward()
    keys = in_turn.compute_keys(**batch, **montages)
    parts = [in_turn(**batch, **montages, keys=keys, sides=(side,)) for side in "ab"]
    for part in parts:
        part.loss.backward()
    for name in ("level_losses", "positive_similarity", "negative_similarity", "feature_std"):
        assert torch.allclose(parts[0][name] + parts[1][name], whole[name], atol=1e-12), name
    for (name, a), b in zip(together.named_parameters(), in_turn.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) and (
            a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-10)
        ), name
    assert all(torch.equal(a, b) for a, b in zip(together.contrast.buffers(), in_turn.contrast.buffers(), strict=True))


def test_queue_is_filled_once_both_sides_have_run_and_in_training_only() -> None:
    model = build(queue_size=6)
    batch = tiny_batch(model.config)
    model.eval()(**batch)
    assert not model.contrast.queue_present.any()
    model.train()
    keys = model.compute_keys(**batch)
    model(**batch, keys=keys, sides=("b",))
    assert not model.contrast.queue_present.any()
    model(**batch, keys=keys, sides=("a",))
    assert model.contrast.queue_present[0, 0].tolist() == [True] * 4 + [False] * 2


def test_images_absent_from_a_small_batchs_montages_do_no_harm() -> None:
    model = build(level_pairing="same", montage_fractions=(1, 0.1, 0.1, 0.1))
    output = model(**tiny_batch(model.config, 7))  # 4 cells at level 1 for 7 images
    output.loss.backward()
    assert torch.isfinite(output.level_losses).all()


def test_group_members_change_the_loss_only_through_negatives() -> None:
    model = build().eval()
    batch, groups = tiny_batch(model.config), torch.tensor([0, 0, 1, 2])
    montages = {f"montage_{side}": model.draw_montages(4, torch.Generator().manual_seed(3)) for side in "ab"}
    with torch.no_grad():
        plain, grouped = model(**batch, **montages), model(**batch, **montages, group_ids=groups)
    assert torch.allclose(plain.positive_similarity, grouped.positive_similarity)
    assert (grouped.level_losses < plain.level_losses).all()  # fewer terms in the sum


def test_bfloat16_autocast_keeps_the_loss_in_float32() -> None:
    model = build()
    batch = tiny_batch(model.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)


def test_a_few_steps_lower_the_loss() -> None:
    model = build()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    batch = tiny_batch(model.config, 8)
    losses = []
    for step in range(12):
        loss = model(**batch, generator=torch.Generator().manual_seed(step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target(0.99)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(views_a=b["views_a"][:3]), "views_a needs 4 views"),
        (lambda b: b.update(views_b=[v[..., 1:] for v in b["views_b"]]), r"views_b\[0\] must have shape"),
        (lambda b: b.update({k: [v[:1] for v in b[k]] for k in ("views_a", "views_b")}), "at least 2"),
        (lambda b: b.update(views_b=[v[:3] for v in b["views_b"]]), "views_a has 4 images and views_b 3"),
        (lambda b: b.update(sides=("c",)), "sides must be among"),
        (lambda b: b.update(group_ids=torch.zeros(3, dtype=torch.int64)), "group_ids must have shape"),
        (lambda b: b.update(montage_a=[torch.full((c,), 4) for c in (4, 16, 64)]), "batch has images 0 to 3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message: str) -> None:
    model = build()
    batch: dict[str, Any] = tiny_batch(model.config)
    change(batch)
    with pytest.raises(ValueError, match=message):
        model(**batch)


def test_keys_made_with_montages_ask_for_them_again() -> None:
    model = build(region_scope="published")
    batch = tiny_batch(model.config)
    with pytest.raises(ValueError, match="pass montage_a and montage_b"):
        model(**batch, keys=model.compute_keys(**batch), sides=("a",))


def test_deep_copy_trains() -> None:
    model = copy.deepcopy(build(queue_size=4))
    model(**tiny_batch(model.config)).loss.backward()


@pytest.mark.parametrize("num_channels", [1, 4, 12])
def test_other_numbers_of_channels(num_channels: int) -> None:
    model = build(num_channels=num_channels)
    assert torch.isfinite(model(**tiny_batch(model.config)).loss)


def test_inputs_of_other_sides() -> None:
    model = build(region_size=3)
    assert tiny_views(model.config)[0].shape[-1] == 96
    assert torch.isfinite(model(**tiny_batch(model.config)).loss)
