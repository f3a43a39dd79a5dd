import pytest
import torch

from mcl_hf.training.health import FiniteGuard, NonFiniteLossError


def guard(scaled=False):
    return FiniteGuard(torch.device("cpu"), scaled=scaled, keep=4)


def test_a_finite_loss_passes_unchanged(tmp_path):
    watch = guard()
    loss = torch.tensor(2.5, requires_grad=True)
    assert watch.watch(loss, 0).item() == 2.5
    assert watch.update_mask(torch.tensor(1.0), 0) == 0
    watch.check(tmp_path, rank=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_loss_is_sticky_and_named_with_its_samples(tmp_path, bad):
    watch = guard()
    for step, value in enumerate((1.0, bad, 1.0)):
        watch.remember(step, torch.arange(3) + 10 * step)
        loss = torch.tensor(value, requires_grad=True)
        watch.watch(loss, step).backward()
        assert torch.isfinite(loss.grad) == (
            step == 0
        )  # later updates are turned off on every rank through the gradient
    with pytest.raises(NonFiniteLossError, match=r"since step 2: .* on rank 0: 10, 11, 12 \(all"):
        watch.check(tmp_path, rank=0)


def test_an_infinite_gradient_is_a_fault_without_a_scaler_and_none_with_one(tmp_path):
    plain, scaled = guard(), guard(scaled=True)
    for watch in (plain, scaled):
        assert watch.update_mask(torch.tensor(float("inf")), 0) == 1
    scaled.check(tmp_path, rank=0)
    with pytest.raises(NonFiniteLossError):
        plain.check(tmp_path, rank=0)
