import json
from pathlib import Path

import pytest

from mcl_hf.engine.optim import learning_rate, target_momentum

SCHEDULE = json.loads((Path(__file__).parents[1] / "reference" / "reference_optim.json").read_text())["schedule"]


def test_learning_rate_is_the_published_one():
    values = [
        learning_rate(
            k,
            SCHEDULE["max_iters"],
            SCHEDULE["base_lr"],
            SCHEDULE["min_lr"],
            SCHEDULE["warmup_iters"],
            SCHEDULE["warmup_ratio"],
        )
        for k in SCHEDULE["iters"]
    ]
    assert values == pytest.approx(SCHEDULE["lr"], rel=1e-9)


def test_target_momentum_is_the_published_one():
    values = [target_momentum(k, SCHEDULE["max_iters"], SCHEDULE["base_momentum"]) for k in SCHEDULE["iters"]]
    assert values == pytest.approx(SCHEDULE["ema_momentum"], rel=1e-12)


def test_no_warm_up_starts_at_the_base_rate():
    assert learning_rate(0, 10, 0.5, 0.0, warmup_steps=0) == 0.5
