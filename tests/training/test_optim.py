import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcl_hf.engine.optim import LARS, build_optimizer, is_excluded, learning_rate_warning, parameter_groups
from mcl_hf.errors import InputError

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "reference_optim.json").read_text())


def published_random(name, shape):
    """The documented fill of the reference vectors: standard normal, seeded by the crc32 of "0/name"."""
    state = np.random.RandomState(zlib.crc32(f"0/{name}".encode()) & 0xFFFFFFFF)
    return torch.from_numpy(state.standard_normal(shape))


@pytest.mark.parametrize("case", REFERENCE["lars_public"], ids=["published", "excluded", "heavy_decay"])
def test_lars_gives_the_published_weights(case):
    weight = nn.Parameter(published_random("lars/w", case["shape"]))
    lars = LARS(
        [weight],
        lr=case["lr"],
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        trust_coefficient=case["eta"],
        adapt=not case["lars_exclude"],
    )
    for t, expected in enumerate(case["weights_after_each_step"]):
        weight.grad = published_random(f"lars/g/{t}", case["shape"]) * (0.5 + t)
        lars.step()
        assert torch.allclose(
            weight.detach().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_lars_takes_the_plain_step_where_a_norm_is_zero():
    zeros, still = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    lars = LARS([zeros, still], lr=2.0, weight_decay=0.0)
    zeros.grad, still.grad = torch.ones(3), torch.zeros(3)
    lars.step()
    assert torch.equal(zeros.detach(), torch.full((3,), -2.0))
    assert torch.equal(still.detach(), torch.ones(3))


class _Net(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.config = type("Config", (), {"backbone": backbone})()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.linear(x)).square().sum()


@pytest.mark.parametrize("name", ["lars", "adamw", "sgd"])
@pytest.mark.parametrize("first_step_is_broken", [True, False])
def test_a_step_with_found_inf_changes_nothing(name, first_step_is_broken):
    def one_step(net, optimizer, broken):
        optimizer.zero_grad()
        net(x).backward()
        if broken:
            for p in net.parameters():
                p.grad.fill_(float("nan"))
        optimizer.found_inf = torch.tensor(float(broken))
        optimizer.step()

    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    outcomes = []
    for with_broken_step in (False, True):
        torch.manual_seed(0)
        net = _Net("resnet50")
        optimizer = build_optimizer(net, name, lr=0.1, weight_decay=0.01)
        for step in range(3):
            if with_broken_step and step == (0 if first_step_is_broken else 2):
                one_step(net, optimizer, broken=True)
            one_step(net, optimizer, broken=False)
        outcomes.append([p.detach().clone() for p in net.parameters()])
    for plain, with_skip in zip(*outcomes, strict=True):
        assert torch.equal(plain, with_skip)


def test_grad_scale_divides_the_gradients():
    weights = []
    for scale in (1.0, 128.0):
        w = nn.Parameter(torch.arange(1.0, 5.0))
        lars = LARS([w], lr=1.0)
        w.grad = torch.tensor([1.0, -1.0, 0.5, 2.0]) * scale
        lars.grad_scale = torch.tensor(scale)
        lars.step()
        weights.append(w.detach())
    assert torch.equal(*weights)


def _our_name(published):
    """The name of a published parameter in `MCLForPreTraining`."""
    if published.startswith("head."):
        return "mcl.region_" + published
    return (
        "predictors." + published.removeprefix("predictor.")
        if published.startswith("predictor.")
        else "mcl." + published
    )


def test_published_rule_keeps_the_batch_norm_scales_that_its_pattern_misses():
    scale = torch.ones(4)
    for published in REFERENCE["param_groups_r50"]["adapted_1d_params_not_matched_by_the_regex"]:
        assert not is_excluded(_our_name(published), scale, "resnet50")
        assert is_excluded(_our_name(published), scale, "convnext_tiny")
    for name in (
        "mcl.backbone.layer1.0.bn2.weight",
        "mcl.fpn.lateral.0.bn.bias",
        "mcl.region_head.mlp.0.bias",
        "mcl.backbone.bn1.weight",
    ):
        assert is_excluded(name, scale, "resnet50.a1_in1k")


def test_parameter_groups_of_a_resnet50_are_the_published_ones():
    models = pytest.importorskip("mcl_hf.models.modeling_mcl_pretraining")
    configuration = pytest.importorskip("mcl_hf.models.configuration_mcl")
    with torch.device("meta"):
        model = models.MCLForPreTraining(configuration.MCLConfig(backbone="resnet50", region_scope="published"))
    adapted, excluded = parameter_groups(model, "lars", 1e-5)
    expected = REFERENCE["param_groups_r50"]
    assert len(excluded["params"]) == expected["excluded"]
    assert sum(p.ndim > 1 for p in adapted["params"]) == expected["adapted_weights"]
    assert sum(p.ndim == 1 for p in adapted["params"]) == len(expected["adapted_1d_params_not_matched_by_the_regex"])
    assert (adapted["weight_decay"], excluded["weight_decay"]) == (1e-5, 0.0)
    assert (adapted["adapt"], excluded["adapt"]) == (True, False)
    names = {id(p): name for name, p in model.named_parameters()}
    kept = {names[id(p)] for p in adapted["params"] if p.ndim == 1}
    assert kept == {_our_name(name) for name in expected["adapted_1d_params_not_matched_by_the_regex"]}


def test_adamw_and_sgd_decay_no_1d_parameter():
    net = _Net("resnet50")
    for name in ("adamw", "sgd"):
        decayed, free = parameter_groups(net, name, 0.1)
        assert [p.ndim for p in decayed["params"]] == [2]
        assert [p.ndim for p in free["params"]] == [1, 1, 1]


def test_unknown_optimizer_names_the_choices():
    with pytest.raises(InputError, match="choose one of lars, adamw, sgd"):
        build_optimizer(_Net("resnet50"), "adam", 0.1, 0.0)


def test_the_learning_rate_rule_warns_outside_of_the_batches_it_was_used_with():
    assert learning_rate_warning("lars", 4096) == learning_rate_warning("adamw", 64) == []
    (line,) = learning_rate_warning("lars", 256)
    assert line.startswith("warning: ") and "lars" in line and "4096" in line and "256" in line
    assert "16 to 64" in learning_rate_warning("adamw", 1024)[0]
