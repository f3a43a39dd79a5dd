"""Runs whose loss explodes but stays finite, and detectors that find nothing, are named; healthy runs are not."""

import pytest

from mcl_hf.engine.state import read_training_state
from mcl_hf.finetuning.health import DIVERGED, FINDS_NOTHING, observe, verdicts
from mcl_hf.hub.card import render_card
from mcl_hf.viz import read_log
from tests.finetuning.test_finetune import run, scenes  # noqa: F401 - fixtures


def judged(losses, every=20, max_steps=10_000, final_ap=None):
    """Rules that are broken after records of these losses, so many steps apart."""
    streak, found = {}, {}
    for number, loss in enumerate(losses):
        record = {"step": 1 + number * every, "loss": loss}
        streak = observe(streak, record)
        found = verdicts(streak, record, max_steps, final_ap)
    return found


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([4.0] + [12.1] * 6, True),
        ([4.0] + [11.9] * 50, False),  # not three times as much
        ([4.0] + [50.0] * 5, False),  # 80 steps are not long
        ([4.0] + [50.0] * 5 + [1.0] + [50.0] * 5, False),  # it came back
        ([4.0, 2.0, 1.0] + [50.0] * 6, True),
        ([0.2] + [5.9] * 50, False),  # a trained detector that learns something new
        ([0.2] + [6.1] * 6, True),
        ([4.0] + [1e30] * 6, True),
        ([4.0, 3.0, 2.0, 1.0] * 5, False),
    ],
)
def test_a_loss_far_above_its_start_for_long(losses, diverged):
    assert (DIVERGED in judged(losses)) == diverged


def test_in_a_short_run_a_tenth_of_it_is_long():
    assert DIVERGED in judged([4.0] + [50.0] * 5, every=1, max_steps=40)
    assert DIVERGED not in judged([4.0] + [50.0] * 5, every=1, max_steps=60)
    assert DIVERGED not in judged([4.0] + [50.0] * 4, every=1, max_steps=4)


def test_the_line_says_what_is_seen_and_what_to_try():
    line = judged([4.0, 3.0] + [5e7] * 6)[DIVERGED]
    assert "since step 41 " in line and "(5e+07 now, 4 then)" in line and "--base-learning-rate" in line
    assert "AP is 0.9 %" in judged([4.0, 1.0], final_ap=0.009)[FINDS_NOTHING]
    assert judged([4.0, 1.0], final_ap=0.011) == judged([4.0, 1.0]) == {}


def test_a_run_that_explodes_is_warned_of_and_goes_on(run, capsys):  # noqa: F811
    options = {"optimizer": "adamw", "base_learning_rate": 100.0, "warmup_steps": 0, "max_steps": 8}
    whole = run("whole", **options, eval_every_steps=8)
    assert whole.steps == 8
    log = read_log(whole.output_dir / "log.jsonl")
    assert max(record["loss"] for record in log) > 100 * log[0]["loss"]
    said = [line for record in log for line in record.get("health", [])]
    assert [line.split(":")[0] for line in said] == [DIVERGED, FINDS_NOTHING]
    assert read_training_state(whole.output_dir).health["said"] == [DIVERGED, FINDS_NOTHING]
    printed = "".join(capsys.readouterr())
    assert printed.count(f"warning: {DIVERGED}") == 2 and printed.count(f"warning: {FINDS_NOTHING}") == 1
    assert f"Warning of the run at step {log[-1]['step']}: finds nothing" in render_card(whole.output_dir)


def test_the_first_loss_is_always_in_the_log_and_outlives_an_interruption(run):  # noqa: F811
    folder = run(log_every_steps=3, save_every_steps=2, max_steps=4).output_dir
    log = read_log(folder / "log.jsonl")
    assert [record["step"] for record in log] == [1, 3, 4]
    state = read_training_state(folder / "checkpoints" / "step-00000002")
    assert state.health["streak"]["first_loss"] == log[0]["loss"]
