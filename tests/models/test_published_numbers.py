"""The published code's own numbers in float64: losses, cosines, gradients, buffers, a step, eval mode.

The training steps of the two larger cases take a minute and a half of a core each: they run with MCL_ALL_NUMBERS=1, as
in the workflow.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mcl_hf import MCLConfig, MCLForPreTraining

from .published_case import canonical_name, case_inputs, image, load_case, published_state_dict

CASES = [
    "r18_n4_l3",
    pytest.param("r18_n16_l4", marks=pytest.mark.slow),
    pytest.param("r50_n4_l4", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_case(request.param)


@pytest.fixture(scope="module")
def checkpoint(case: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the published code's runner saves it."""
    levels = len(case["ratios"])
    template = MCLForPreTraining(
        MCLConfig(
            backbone=f"resnet{case['depth']}",
            fpn_channels=case["fpn_channels"],
            hidden_dim=case["hidden"],
            embedding_dim=case["out"],
            montage_ratios=case["ratios"],
            montage_fractions=[1.0, 0.25, 0.0625, 0.03125][:levels],
            level_weights=case["loss_weight"],
        )
    )
    path = tmp_path_factory.mktemp(case["case"]) / "epoch_100.pth"
    torch.save({"meta": {"epoch": 100, "config": "..."}, "state_dict": published_state_dict(template)}, path)
    return path


def open_model(checkpoint: Path, **overrides: Any) -> MCLForPreTraining:
    return MCLForPreTraining.from_official(checkpoint, dtype=torch.float64, **overrides)


def assert_losses(output: Any, expected: dict[str, float], tolerance: float) -> None:
    """Compare one forward's losses and cosines."""
    for column, side in enumerate("qk"):
        for level in range(len(output.level_losses)):
            found = {
                f"loss_{side}_level_{level}": output.level_losses[level, column],
                f"pos_cos_dist_{side}_level_{level}": output.positive_similarity[level, column],
                f"neg_cos_dist_{side}_level_{level}": output.negative_similarity[level, column],
            }
            for name, value in found.items():
                assert value.item() == pytest.approx(expected[name], abs=tolerance), name
    assert output.loss.item() == pytest.approx(expected["total"], abs=tolerance)


def test_rebuilt_inputs_are_the_reference_inputs(case: dict[str, Any], checkpoint: Path) -> None:
    model = open_model(checkpoint)
    names = {canonical_name(name) for name, _ in model.named_parameters()}
    assert len(names) == case["n_canonical_names"]
    assert hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest() == case["canonical_names_sha256"]
    by_name = {canonical_name(name): tensor for name, tensor in model.named_parameters()}
    for name, values in case["check_fill"].items():
        assert by_name[name].flatten()[:4].tolist() == pytest.approx(values, abs=1e-12)
    assert image(0, 0).flatten()[:4].tolist() == pytest.approx(case["check_input"]["first"], abs=1e-12)
    assert sum(p.numel() for p in model.target.parameters()) == case["n_params_target"]


def test_training_step_in_published_scope(case: dict[str, Any], checkpoint: Path) -> None:
    if case["case"] != "r18_n4_l3" and not os.environ.get("MCL_ALL_NUMBERS"):
        pytest.skip("MCL_ALL_NUMBERS=1 runs it")
    model = open_model(checkpoint, region_scope="published").train()
    inputs = case_inputs(case)
    output = model(**inputs)
    assert_losses(output, case["train_step1"], 1e-8)

    buffers = {canonical_name(name): tensor for name, tensor in model.named_buffers()}
    for name, values in case["bn_buffers_after_step1"].items():
        assert buffers[name].flatten()[:4].tolist() == pytest.approx(values, abs=1e-10), name
    for name, count in case["num_batches_tracked_after_step1"].items():
        assert buffers[name].item() == count, name

    output.loss.backward()
    gradients = {canonical_name(n): p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, norm in case["grad_norm"].items():
        if norm < 1e-10:  # biases in front of a batch norm: exactly zero but for rounding
            assert gradients[name].norm().item() < 1e-10, name
        else:
            assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-6), name
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert total.item() == pytest.approx(case["grad_norm_total"], rel=1e-6)
    for name, values in case["grad_first4"].items():
        assert gradients[name].flatten()[:4].tolist() == pytest.approx(values, rel=1e-6, abs=1e-9), name

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.update_target(0.99)
    parameters = {canonical_name(name): tensor for name, tensor in model.named_parameters()}
    for name, values in case["after_sgd_ema_first4"].items():
        assert parameters[name].flatten()[:4].tolist() == pytest.approx(values, abs=1e-8), name
    with torch.no_grad():
        assert_losses(model(**inputs), case["train_step2"], 1e-6)


@pytest.mark.parametrize("region_scope", ["lean", "published"])
def test_eval_mode_is_the_same_function_in_both_scopes(
    case: dict[str, Any], checkpoint: Path, region_scope: str
) -> None:
    if region_scope == "published" and case["case"] != "r18_n4_l3":
        pytest.skip("the training step has this scope in every case; in eval mode one case says it")
    model = open_model(checkpoint, region_scope=region_scope).eval()
    with torch.no_grad():
        assert_losses(model(**case_inputs(case)), case["eval_mode"], 1e-8)
