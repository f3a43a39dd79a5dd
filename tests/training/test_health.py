from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from mcl_hf.engine.health import FiniteGuard, NonFiniteLossError, effective_rank, relative_distance, second_moments
from mcl_hf.engine.launch import launched
from mcl_hf.engine.loop import LARGEST_SCALE, optimizer_step
from mcl_hf.pretraining.arguments import load_arguments


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
    with pytest.raises(NonFiniteLossError, match=r"on rank 0: 10, 11, 12\. Look at"):
        watch.check(tmp_path / "absent", rank=0)  # as on a full disk


def test_an_infinite_gradient_is_a_fault_without_a_scaler_and_none_with_one(tmp_path):
    plain, scaled = guard(), guard(scaled=True)
    for watch in (plain, scaled):
        assert watch.update_mask(torch.tensor(float("inf")), 0) == 1
    scaled.check(tmp_path, rank=0)
    with pytest.raises(NonFiniteLossError):
        plain.check(tmp_path, rank=0)


def test_effective_rank_counts_the_directions_that_vectors_use():
    random = torch.Generator().manual_seed(0)
    flat = torch.nn.functional.normalize(torch.randn(500, 3, generator=random) @ torch.randn(3, 32, generator=random))
    point = torch.nn.functional.normalize(torch.ones(500, 32) + 1e-4 * torch.randn(500, 32, generator=random))
    full = torch.eye(32).repeat(4, 1)
    ranks = effective_rank(second_moments([[full, flat, point]]))
    assert ranks.shape == (1, 3) and ranks.dtype == torch.float64
    assert ranks[0, 0] == pytest.approx(32) and 2 < ranks[0, 1] <= 3.001 and ranks[0, 2] < 1.05
    singular = torch.linalg.svdvals(flat.double())  # the definition, on the vectors themselves
    shares = singular / singular.sum()
    assert ranks[0, 1] == pytest.approx(float(torch.exp(-(shares * (shares + 1e-300).log()).sum())), rel=1e-3)


def test_effective_rank_of_all_ranks_is_that_of_their_vectors_together():
    vectors = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(1)))
    parts = sum(second_moments([[part]]) for part in vectors.split(10))
    assert torch.allclose(effective_rank(parts), effective_rank(second_moments([[vectors]])))
    assert torch.isfinite(effective_rank(torch.full((16, 16), float("nan"))))


def test_relative_distance():
    online = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    target = [torch.tensor([3.0, 1.0]), torch.tensor([[4.0]])]
    assert relative_distance(target, online).item() == pytest.approx(1 / 5)
    assert relative_distance(online, online).item() == 0


def test_fp16_gradients_that_overflow_at_every_step_are_named():
    guard = FiniteGuard(torch.device("cpu"), scaled=True, keep=1)
    for skipped in [*[True] * 9, False, *[True] * 9]:
        guard.count_overflow(skipped)
        assert guard.overflow_line() is None
    guard.count_overflow(True)
    assert "last 10 steps were too large for fp16" in guard.overflow_line()


def test_the_scale_of_fp16_never_exceeds_the_published_one(tmp_path):
    """2^14, where the recipe of the paper starts; torch's scaler would double it after steps without overflow."""
    assert load_arguments("mcl-r50-in1k-100ep").precision == "fp16"
    arguments = SimpleNamespace(
        precision="fp32", device="cpu", report_to=[], gradient_accumulation_steps=1, clip_grad_norm=500.0
    )
    network = torch.nn.Linear(2, 1)
    with launched(arguments, tmp_path / "run") as accelerator:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=LARGEST_SCALE, growth_interval=1)
        optimizer = AcceleratedOptimizer(torch.optim.SGD(network.parameters(), lr=0.1), False, accelerator.scaler)
        guard = FiniteGuard(torch.device("cpu"), scaled=True, keep=1)
        run = SimpleNamespace(arguments=arguments, network=network, model=network, accelerator=accelerator,
                              optimizer=optimizer, guard=guard)  # fmt: skip

        def forward_backward(batch, position, meet, factor):
            with meet(True):
                accelerator.scaler.scale(network(torch.ones(1, 2)).sum() * factor).backward()
            return {}

        scales = []
        for step, factor in enumerate([1.0, 1.0, float("inf"), 1.0, 1.0]):
            batch = SimpleNamespace(broken=[], sample_ids=torch.tensor([0]))
            optimizer_step(run, iter([batch]), step, [], partial(forward_backward, factor=factor))
            scales.append(accelerator.scaler.get_scale())
    assert scales == [2.0**14, 2.0**14, 2.0**13, 2.0**14, 2.0**14]
