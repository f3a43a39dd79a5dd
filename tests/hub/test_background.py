"""`--push-to-hub`: checkpoints and the finished model go to the Hub beside training, whatever the Hub does."""

import json
import re

import pytest

from tests.hub.test_publish import files_of, tags, titles
from tests.training.conftest import TINY

SMALL = {key: value for key, value in TINY.items() if key not in ("max_steps",)}
TRAIN = """
import sys, mcl_hf
import mcl_hf.hub.background as background
import mcl_hf.hub.push_worker as push_worker
background._TELL_EVERY, push_worker.WAITS = 0.2, (0.05, 0.05)
{before}
from mcl_hf.cli.hub_flags import hub_callbacks
from mcl_hf.cli.command import run_command
import argparse
from mcl_hf import pretrain
from mcl_hf.pretraining import PretrainArguments
import mcl_hf.cli.hub_flags
options = {options!r}
flags = argparse.Namespace(push_to_hub={repository!r}, hub_private={private!r}, hub_public=False)

class Watch:
    def on_log(self, run, record):
        {on_log}

def main(argv):
    arguments = PretrainArguments(**options)
    with hub_callbacks(flags, arguments) as push:
        for one in push:
            one.end_seconds, one.stop_seconds = {end_seconds}, 5.0
        result = pretrain(arguments, callbacks=[Watch(), *push])
    print("steps", result.steps)
sys.exit(run_command(main, []))
"""


@pytest.fixture
def train(client, run, tmp_path):
    """Runs a tiny pre-training with `--push-to-hub alice/net` in a process of its own; steps wait for nothing."""
    photos = json.loads((run / "checkpoints" / "last" / "training_state.json").read_text())["arguments"]["data"]

    def start(on_log="pass", before="", private=False, repository="alice/net", token="hf_alice", end=30.0, **options):
        given = {**SMALL, "data": photos, "output_dir": str(tmp_path / "run"), "max_steps": 4, "save_every_steps": 1,
                 "keep_last": 2, **options}  # fmt: skip
        code = TRAIN.format(
            options=given, repository=repository, private=private, on_log=on_log, before=before, end_seconds=end
        )
        return client(code, token=token, waits=1.0)

    return start


def steps_of(hub, name="alice/net"):
    return sorted(
        {int(found[1]) for path in files_of(hub, name) if (found := re.match(r"checkpoints/step-(\d+)/", path))}
    )


WAIT = "import time; time.sleep(0.25)"


def test_checkpoints_and_the_finished_model_are_pushed_beside_training(hub, train, tmp_path):
    done = train(on_log=WAIT)
    assert done.code == 0, done.text
    assert "published: alice/net holds the finished model and its last checkpoint" in done.err
    assert "warning: pushing" not in done.text and "Traceback" not in done.err
    assert steps_of(hub) == [3, 4], "as many as the run keeps"
    repo = hub.store.repos["model", "alice/net"]
    assert repo.private and max(map(titles(hub).count, titles(hub))) == 1
    assert titles(hub)[0].startswith("The finished model") and list(tags(hub)) == ["v1"]
    local = tmp_path / "run" / "checkpoints" / "step-00000004"
    for path in local.iterdir():
        assert hub.store.read("alice/net", f"checkpoints/step-00000004/{path.name}") == path.read_bytes(), path.name
    assert hub.store.read("alice/net", "model.safetensors") == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert b"library_name: transformers" in hub.store.read("alice/net", "README.md")
    assert not (tmp_path / "run" / ".hub").exists()
    for commit in repo.history():  # whoever reads at any moment finds whole checkpoints
        files = commit.files
        steps = {path.split("/")[1] for path in files if path.startswith("checkpoints/")}
        if steps:
            log = hub.store.blob_path(files["log.jsonl"].sha256).read_text().splitlines()
            newest = int(max(steps).removeprefix("step-"))
            assert [json.loads(line)["step"] for line in log] == list(range(1, newest + 1))
        for step in steps:
            manifest = json.loads(hub.store.blob_path(files[f"checkpoints/{step}/manifest.json"].sha256).read_bytes())
            for name, told in manifest["files"].items():
                assert files[f"checkpoints/{step}/{name}"].sha256 == told["sha256"]


def test_the_newest_checkpoint_takes_the_place_of_one_that_waits(hub, train):
    hub.fault("slow", "POST", "/commit/", count=1, delay_s=4.0)
    done = train(max_steps=6, keep_last=6)
    assert done.code == 0, done.text
    assert 6 in steps_of(hub) and len(steps_of(hub)) < 6
    assert len(titles(hub)) < 6


@pytest.mark.parametrize(
    ("token", "repository", "says"),
    [
        ("hf_wrong", "alice/net", "does not know your token"),
        (None, "alice/net", "there is no token for the Hub"),
        ("hf_reader", "alice/net", "your token may only read"),
        ("hf_alice", "bob/net", "may publish under alice, lab, not under bob"),
        ("hf_alice", "net", "write user/name"),
    ],
)
def test_what_cannot_work_ends_the_run_before_its_first_step(token, repository, says, hub, train, tmp_path):
    done = train(token=token, repository=repository)
    assert done.code == 2 and says in done.err and len(done.err.splitlines()) == 1, done.text
    assert not (tmp_path / "run").exists() and not hub.store.repos
    assert token is None or token not in done.text


def test_a_new_run_does_not_mix_with_the_checkpoints_of_another(hub, train):
    hub.store.add("alice/net", {"checkpoints/step-00000900/manifest.json": b"{}"})
    done = train()
    assert done.code == 2 and "holds checkpoints of a run already (step 900)" in done.err
    assert "--resume alice/net" in done.err and steps_of(hub) == [900]


def test_a_run_goes_on_from_the_hub_and_removes_what_came_after(hub, train, tmp_path):
    assert train(max_steps=2).code == 0
    hub.store.add("alice/net", {"checkpoints/step-00000900/model.safetensors": b"no manifest", "notes.md": b"mine"})
    done = train(max_steps=3, resume="alice/net", output_dir=str(tmp_path / "elsewhere"))
    assert done.code == 0 and "resuming after step 2" in done.text, done.text
    assert steps_of(hub) == [2, 3] and "notes.md" in files_of(hub) and list(tags(hub)) == ["v1", "v2"]
    here = (tmp_path / "elsewhere" / "log.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in here.splitlines()] == [1, 2, 3], "the log is whole"
    assert hub.store.read("alice/net", "log.jsonl") == here
    assert b"The log begins" not in hub.store.read("alice/net", "README.md")


def test_a_hub_that_is_away_costs_warnings_and_is_pushed_to_once_it_is_back(hub, train, client, tmp_path):
    hub.fault("status", "", "", count=10)
    done = train(on_log=WAIT)
    assert done.code == 0, done.text
    assert "Training goes on; pushing is tried again at every checkpoint and at the end" in done.err
    assert "steps 4" in done.out and steps_of(hub)[-1] == 4 and list(tags(hub)) == ["v1"]


def test_a_hub_that_stays_away_neither_stops_nor_holds_up_a_run(hub, train, run, command, tmp_path):
    hub.go_away()
    done = train(end=1.0)
    assert done.code == 0 and "steps 4" in done.out, done.text
    folder = tmp_path / "run"
    assert f"publish it with: mcl-hf push {folder} alice/net\n" in done.err
    assert (folder / "model.safetensors").is_file() and not done.err.count("Traceback")
    hub.come_back()
    again = command("push", str(folder), "alice/net", token="hf_alice")
    assert again.code == 0 and list(tags(hub)) == ["v1"], again.text


def test_rights_that_are_lost_on_the_way_are_told_and_the_run_is_not(hub, train):
    hub.fault("status", "POST", "/commit/", status=403, count=-1, message="hf_alice lost its rights")
    done = train(on_log=WAIT)
    assert done.code == 0 and "steps 4" in done.out, done.text
    assert "step 1 is not on the Hub: pushing to alice/net: the Hub forbids it" in done.text
    assert "publish it with: mcl-hf push" in done.err and "hf_alice" not in done.text
    assert titles(hub) == []


def test_a_lost_answer_makes_no_second_commit(hub, train):
    hub.fault("lose", "POST", "/commit/", count=2)
    done = train(on_log=WAIT)
    assert done.code == 0 and "is not on the Hub" not in done.text, done.text
    assert max(map(titles(hub).count, titles(hub))) == 1 and steps_of(hub) == [3, 4] and list(tags(hub)) == ["v1"]


def test_a_run_that_is_stopped_pushes_its_last_checkpoint(hub, train):
    stop = "import os, signal, time; time.sleep(0.2); record['step'] == 2 and os.kill(os.getpid(), signal.SIGTERM)"
    done = train(on_log=stop, save_every_steps=100)
    stopped = re.search(r"stopped by SIGTERM after step (\d)", done.text)
    assert done.code == 0 and stopped, done.text
    assert steps_of(hub) == [int(stopped[1])] and "model.safetensors" not in files_of(hub)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pretrain", "--output-dir", "out", "--hub-public"], "--hub-public belongs to --push-to-hub"),
        (
            ["finetune", "--init", "random", "--data", "x", "--output-dir", "out", "--hub-private"],
            "--hub-private belongs to --push-to-hub",
        ),
        (["pretrain", "--output-dir", "out", "--push-to-hub", "net"], "write user/name"),
    ],
)
def test_flags_that_do_not_fit(arguments, says, hub, command):
    done = command(*arguments, token="hf_alice")
    assert done.code == 2 and says in done.err and len(done.err.splitlines()) == 1, done.text
    assert not hub.asked()
