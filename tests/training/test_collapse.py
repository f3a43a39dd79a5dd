"""The rules on log records, and real runs that do and do not break them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.engine.state import newest_whole_checkpoint, read_training_state
from mcl_hf.pretraining.collapse import CollapseError, HealthBounds, broken_rules, observe, verdicts

BOUNDS = HealthBounds(embedding_dim=64, possible_rank=64, warmup_steps=50)


def record(step, std=0.11, rank=30.0, loss=0.8, chance=1.0, positive=0.04):
    """Two levels, two sides; what is given is put into level 1."""
    return {
        "step": step,
        "level_losses": [[0.8, 0.8], [loss, loss]],
        "random_losses": [[1.0, 1.0], [chance, chance]],
        "positive_similarity": [[positive, positive], [positive, positive]],
        "negative_similarity": [[0.0, 0.0], [0.0, 0.0]],
        "feature_std": [[0.12, 0.12], [std, std]],
        "effective_rank": [[40.0, 40.0], [rank, rank]],
    }


def judge(records, bounds=BOUNDS, streaks=None):
    streaks = streaks or {}
    found = {}
    for one in records:
        streaks = observe(streaks, one, bounds)
        found = verdicts(streaks, one, bounds)
    return found, streaks


@pytest.mark.parametrize(
    ("numbers", "rules"),
    [
        ({}, set()),
        ({"std": 0.013}, set()),
        ({"std": 0.012}, {"point"}),  # a tenth of 1 / sqrt(64)
        ({"rank": 2.3}, set()),
        ({"rank": 2.2}, {"directions"}),  # 1 + 2 % of 63 = 2.26
        ({"std": 0.001, "rank": 1.0}, {"point", "directions"}),
    ],
)
def test_bounds_of_one_record(numbers, rules):
    assert broken_rules(record(60, **numbers), BOUNDS) == rules


def flat_after(numbers, bounds=BOUNDS, **more):
    """Whether 30 records of these numbers, 10 steps apart, are called flat."""
    records = [{**record(step, **numbers), **more} for step in range(60, 360, 10)]
    return "flat" in judge(records, bounds)[0]


@pytest.mark.parametrize(
    ("numbers", "flat"),
    [
        ({"loss": 1.17}, False),
        ({"loss": 1.19}, True),  # 1.6 + 2.38 of 4
        ({"loss": 1.19, "positive": 0.06}, False),  # it tells them apart and pays for being sure
    ],
)
def test_bounds_of_a_flat_loss(numbers, flat):
    assert flat_after(numbers) is flat


def test_the_warm_up_absent_numbers_and_one_class_are_not_flat():
    late = HealthBounds(embedding_dim=64, possible_rank=64, warmup_steps=400)
    assert not flat_after({"loss": 2.0}, late)
    assert judge([{"step": step, "loss": 3.0} for step in range(60, 360, 10)]) == ({}, {})
    no_cosines = {"positive_similarity": None, "negative_similarity": None}
    assert flat_after({"loss": 1.2}, **no_cosines)  # supervised
    assert not flat_after({}, level_losses=[0.0], random_losses=[0.0], **no_cosines)


def test_collapse_is_named_after_five_records_in_a_row_with_level_cause_and_cure():
    collapsed = [record(step, std=0.001, rank=1.1) for step in range(10, 60, 10)]
    assert judge(collapsed[:4])[0] == {}
    assert judge([*collapsed[:4], record(50), *collapsed[:4]])[0] == {}  # one good record starts the count anew
    found, _ = judge(collapsed)
    assert list(found) == ["point"]  # which says more than few directions
    line = found["point"]
    for words in ("level 1", "since step 10", "std 0.001", "0.12", "--base-learning-rate"):
        assert words in line
    assert "\n" not in line
    few, _ = judge([record(step, rank=1.5) for step in range(10, 60, 10)])
    assert "effective rank 1.5 of 64 possible" in few["directions"]


def test_a_flat_loss_is_named_after_twenty_records_over_a_hundred_steps_past_the_warm_up():
    flat = [record(step, loss=1.2) for step in range(10, 900, 10)]
    assert judge([one for one in flat if one["step"] <= 50 + 190])[0] == {}
    found, streaks = judge([one for one in flat if one["step"] <= 50 + 200])
    assert (
        list(found) == ["flat"] and "since step 60, its mean is 1.00 times" in found["flat"] and "(4)" in found["flat"]
    )
    assert "since step 60" in judge(flat)[0]["flat"]  # windows later
    learning = [record(step, loss=0.9) for step in range(260, 660, 10)]
    assert judge(learning[:19], streaks=streaks)[0] and not judge(learning, streaks=streaks)[0]
    every_step = [record(step, loss=1.2) for step in range(51, 200)]
    assert judge(every_step[:100])[0] == {} and "flat" in judge(every_step[:101])[0]


def test_the_loss_of_a_small_batch_may_jump_without_hiding_that_it_is_flat():
    jumping = [record(step, loss=1.2 + (0.3 if step % 20 else -0.3)) for step in range(60, 360, 10)]
    assert "flat" in judge(jumping)[0]


def test_streaks_go_through_json_and_a_resumed_run_judges_alike():
    records = [record(step, std=0.001, loss=1.2 + step / 7000) for step in range(60, 300, 10)]
    assert set(judge(records)[0]) == {"point", "flat"}
    for cut in (2, 11, 20, 23):
        resumed = json.loads(json.dumps(judge(records[:cut])[1]))
        assert judge(records[cut:], streaks=resumed) == judge(records)
    assert judge(records[20:])[0] == {}


# ----------------------------------------------------------------------------------------------------------------
# real runs

SGD = {"optimizer": "sgd", "base_learning_rate": 100.0, "batch_size": 8, "warmup_steps": 0}


def test_the_demo_run_breaks_no_rule():
    """Its log as it was, 120 steps of the recipe `demo` (embedding_dim 64, batch_size 64)."""
    lines = (Path(__file__).parent / "demo_log.jsonl").read_text().splitlines()
    bounds = HealthBounds(embedding_dim=64, possible_rank=64, warmup_steps=12, flat_steps=20)
    for shift in (0, 40):  # also where it is shorter than the window, or the warm-up is long over
        records = [{**one, "step": one["step"] + shift} for one in map(json.loads, lines)]
        assert all(judge(records[:count], bounds)[0] == {} for count in range(1, len(records) + 1))
    assert len(records) == 24


def test_a_huge_learning_rate_collapses_and_stops_a_run_that_asks_for_it(tiny_run, read_log, tmp_path, capsys):
    with pytest.raises(CollapseError, match=r"^collapse: .* Stopped after step \d+, which is saved: .*--resume auto"):
        tiny_run(on_collapse="stop", **{**SGD, "max_steps": 60})
    log = read_log(tmp_path / "run")
    assert len(log) < 60 and log[-1]["health"][0].startswith("collapse") and "health" not in log[-2]
    checkpoint, _ = newest_whole_checkpoint(tmp_path / "run")
    state = read_training_state(checkpoint)
    assert state.step == len(log) and state.health == {}
    assert "finished" not in capsys.readouterr().out and not (tmp_path / "run" / "config.json").exists()
    steps = len(log) + 6
    tiny_run(resume="auto", **{**SGD, "max_steps": steps})
    assert "warning: collapse" in "".join(capsys.readouterr())
    assert read_log(tmp_path / "run")[-1]["step"] == steps


@pytest.mark.slow
def test_streaks_of_a_resumed_run_are_those_of_the_uninterrupted_one(tiny_run, read_log, tmp_path):
    """Saved in the middle of a streak, continued, and judged at the same step."""

    def said(folder):
        return [(one["step"], line) for one in read_log(folder) for line in one.get("health", [])]

    whole = {**SGD, "max_steps": 24, "save_every_steps": 18}
    tiny_run("whole", **whole)
    assert said(tmp_path / "whole")

    class Stop:
        def on_save(self, run, checkpoint):
            run.stop.name = "SIGTERM"

    tiny_run("parts", callbacks=[Stop()], **whole)
    saved = read_training_state(tmp_path / "parts" / "checkpoints" / "step-00000018")
    assert saved.health["streaks"]
    tiny_run("parts", resume="auto", **whole)
    assert said(tmp_path / "parts") == said(tmp_path / "whole")


@pytest.mark.slow
def test_images_that_are_all_alike_give_a_flat_loss(tiny_run, read_log, tmp_path):
    same = tmp_path / "same"
    same.mkdir()
    for number in range(16):
        Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(same / f"{number}.png")
    tiny_run(data=str(same), max_steps=115, warmup_steps=5, batch_size=8)
    said = [(one["step"], line) for one in read_log(tmp_path / "run") for line in one.get("health", [])]
    assert [line.split(":")[0] for _, line in said] == ["flat loss"] and said[0][0] > 105


@pytest.mark.slow
def test_a_supervised_run_that_learns_is_not_warned_of(tiny_run, read_log, tmp_path):
    stripes = tmp_path / "stripes"
    for number in range(16):
        folder = stripes / ("lying" if number % 2 else "standing")
        folder.mkdir(parents=True, exist_ok=True)
        lines = np.repeat(np.arange(64) // (4 + number // 4) % 2 * 255, 64).reshape(64, 64).astype(np.uint8)
        Image.fromarray(lines if number % 2 else lines.T).save(folder / f"{number}.png")
    wide = {"fpn_channels": 16, "hidden_dim": 32, "embedding_dim": 16, "data": str(stripes)}
    tiny_run(objective="supervised", max_steps=130, batch_size=8, base_learning_rate=0.1, warmup_steps=5, **wide)
    log = read_log(tmp_path / "run")
    assert [one["health"] for one in log if "health" in one] == []
    assert len(log[-1]["feature_std"]) == len(log[-1]["effective_rank"]) == 3
    assert np.sum(log[-1]["random_losses"]) == pytest.approx(np.log(2), rel=1e-5)
    assert np.mean([one["loss"] for one in log[-20:]]) < 0.99 * np.log(2)
