"""Rebuilds the inputs of the published code's reference numbers: weights and images by rule, files as that code wrote
them.

The rule is described in `tests/reference/README.md`.
"""

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

REFERENCE = Path(__file__).parents[1] / "reference"
SEED = 0

# Canonical prefix -> published name, for the online network and its momentum copy.
_PUBLISHED = (
    ("backbone.", "encoder_{}.0."),
    ("fpn.lateral.", "encoder_{}.1.lateral_convs."),
    ("fpn.output.", "encoder_{}.1.fpn_convs."),
    ("head.conv.", "encoder_{}.2.cls_convs."),
    ("head.mlp.", "encoder_{}.2.mlp."),
)


def load_case(name: str) -> dict[str, Any]:
    """One case of the reference files."""
    for file in ("reference_r18_public.json", "reference_r50_public.json"):
        for case in json.loads((REFERENCE / file).read_text())["cases"]:
            if case["case"] == name:
                return case
    raise KeyError(name)


def _rng(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(f"{SEED}/{name}".encode()) & 0xFFFFFFFF)


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Value of a parameter by its canonical name, float64."""
    if name.startswith("target."):
        online = name.removeprefix("target.")
        return 0.9 * fill(online, shape) + 0.1 * _fill_one(name, shape)
    return _fill_one(name, shape)


def _fill_one(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.from_numpy(_rng(name).standard_normal(shape))
    if name.endswith(".bias"):
        return 0.1 * values
    return 1 + 0.1 * values if len(shape) == 1 else values * (2 / np.prod(shape[1:])) ** 0.5


def canonical_name(ours: str) -> str:
    """Canonical name of one of our parameters."""
    name = ours.replace("region_head.", "head.").replace("predictors.", "predictor.")
    return name.removeprefix("mcl.")


def published_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict that the published code would save for a model of this shape, filled by rule.

    Parameters follow the rule, buffers have their defaults; the online backbone occurs twice, as in the real files.
    """
    parameters = dict(model.named_parameters())
    state: dict[str, torch.Tensor] = {}
    for ours, tensor in model.state_dict().items():
        canonical = canonical_name(ours)
        value = fill(canonical, tuple(tensor.shape)) if ours in parameters else tensor.clone()
        if value.is_floating_point():
            value = value.double()
        if canonical.startswith("predictor."):
            state[f"head.{canonical}"] = value
            continue
        side = "k" if canonical.startswith("target.") else "q"
        plain = canonical.removeprefix("target.")
        for prefix, published in _PUBLISHED:
            if plain.startswith(prefix):
                state[published.format(side) + plain.removeprefix(prefix)] = value
        if side == "q" and plain.startswith("backbone."):
            state[plain] = value
    return state


@lru_cache(maxsize=256)
def image(index: int, view: int, size: int = 224) -> torch.Tensor:
    """View `view` of image `index`, `(3, size, size)` float64."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    noise = _rng(f"image/{index}/{view}").standard_normal((3, size, size))
    channels = []
    for c in range(3):
        a, b = 1 + (7 * index + 3 * c) % 5, 1 + (5 * index + 2 * c + 1) % 7
        phase = 0.9 * index + 0.35 * view + 1.3 * c + 0.01 * SEED
        wave = np.sin(2 * np.pi * (a * x + b * y) / size + phase)
        channels.append(wave + 0.5 * np.cos(2 * np.pi * (a + b) * x * y / size**2 + 0.5 * phase) + 0.1 * noise[c])
    return torch.from_numpy(np.stack(channels))


def case_inputs(case: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """Arguments of `forward` for a case: q is side a, k is side b; full views sub-sampled by `[::r, ::r]`."""
    levels, ratios = len(case["ratios"]), case["ratios"]
    inputs: dict[str, list[torch.Tensor]] = {}
    for side, published, first_view in (("a", "q", 0), ("b", "k", levels)):
        inputs[f"views_{side}"] = [
            torch.stack([image(i, first_view + level) for i in range(case["n"])])[..., ::ratio, ::ratio]
            for level, ratio in enumerate(ratios)
        ]
        inputs[f"montage_{side}"] = [
            torch.tensor(case["perms"][f"level_{level}_{published}"]) % case["n"] for level in range(1, levels)
        ]
    return inputs
