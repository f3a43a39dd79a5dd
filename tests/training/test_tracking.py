import json

import pytest

from mcl_hf.engine import tracking
from mcl_hf.engine.tracking import Tracking, check_trackers, flatten, last_step, log_up_to, truncate_log
from mcl_hf.errors import InputError
from mcl_hf.viz import read_log


def test_resuming_drops_the_lines_after_the_checkpoint_and_a_torn_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    truncate_log(path, last_step=2)
    assert read_log(path) == [{"step": 1}, {"step": 2}]
    truncate_log(tmp_path / "absent.jsonl", last_step=2)


def test_a_record_that_is_not_finite_stays_json(tmp_path):
    log = Tracking(tmp_path, is_main=True, max_steps=2, first_step=0)
    numbers = {"images_per_second": 1.0, "data_wait_share": 0.0}
    log.log({"step": 1, "loss": 1.0, "grad_norm": float("inf"), "level_losses": [[float("nan"), 1.0]], **numbers})
    log.close()
    [record] = read_log(tmp_path / "log.jsonl")
    assert record["grad_norm"] is None and record["level_losses"] == [[None, 1.0]]


def test_other_processes_write_nothing(tmp_path):
    log = Tracking(tmp_path, is_main=False, max_steps=2, first_step=0)
    log.log({"step": 1, "loss": 1.0})
    log.advance()
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_log_is_cut_to_a_step_and_rid_of_what_stays_here():
    text = '{"step": 1, "loss": 2.50}\n{"step": 2, "broken": ["a.jpg"], "loss": 1}\n[]\n{"step": 3}\n{"st'
    assert log_up_to(text, 2, without=("broken",)) == '{"step": 1, "loss": 2.50}\n{"step": 2, "loss": 1}\n'
    assert log_up_to(text, 9).count("\n") == 3 and not log_up_to("", 9)


def test_tracker_names_of_levels_and_sides():
    record = {"step": 3, "loss": 2.0, "level_losses": [[1.0, 2.0], [3.0, 4.0]], "accuracy": [0.5], "broken": ["a.jpg"]}
    assert flatten(record) == {
        "loss": 2.0,
        "level_losses/0a": 1.0,
        "level_losses/0b": 2.0,
        "level_losses/1a": 3.0,
        "level_losses/1b": 4.0,
        "accuracy/0": 0.5,
    }


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install mcl_hf\[wandb\]"):
        check_trackers(["wandb"])


def test_the_last_step_of_a_log_is_read_while_it_is_written(tmp_path):
    log = tmp_path / "log.jsonl"
    assert last_step(log) == 0
    log.write_text('{"step": 20, "loss": 1.0}\n{"step": 40, "loss": 0.5}\n{"step": 6')
    assert last_step(log) == 40
    log.write_text("torn")
    assert last_step(log) == 0
