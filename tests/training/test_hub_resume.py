"""A run goes on from the checkpoints of a repository, bit for bit, and in no other folder than a free one."""

import json
from pathlib import Path

import pytest

from tests.training.conftest import TINY

RUN = """
import json, sys
import mcl_hf
from mcl_hf.errors import InputError
try:
    mcl_hf.pretrain(**json.loads({options!r}))
except InputError as error:
    sys.exit(f"refused: {{error}}")
"""


def options(photos: Path, folder: Path, **more: object) -> str:
    return json.dumps({**TINY, "data": str(photos), "output_dir": str(folder), "save_every_steps": 1, **more})


@pytest.fixture
def whole(tiny_run):
    """An uninterrupted run of three steps, with all its checkpoints."""
    return tiny_run("whole", save_every_steps=1).output_dir


def put(hub, folder: Path, *steps: int, damaged: int = 0) -> None:
    """The checkpoints of a run into the repository alice/run."""
    files = {}
    for step in steps:
        for path in (folder / "checkpoints" / f"step-{step:08d}").iterdir():
            files[f"checkpoints/step-{step:08d}/{path.name}"] = path.read_bytes()
    if damaged:
        files[f"checkpoints/step-{damaged:08d}/model.safetensors"] += b"?"
    hub.store.add("alice/run", files, private=True)


def test_the_newest_whole_checkpoint_is_continued_bit_for_bit(hub, client, photos, whole, tmp_path):
    put(hub, whole, 1, 2, damaged=2)
    log = (whole / "log.jsonl").read_bytes()
    hub.store.add("alice/run", {"log.jsonl": log + b"\xff no record\n"}, private=True)
    here = tmp_path / "here"
    run = RUN.format(options=options(photos, here, resume="alice/run"))
    done = client(run, token="hf_alice")
    assert done.code == 0, done.text
    assert "step-00000002 of alice/run is damaged" in done.text and "resuming after step 1" in done.text
    assert (here / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    lines = [(here / "log.jsonl").read_bytes().splitlines(), log.splitlines()]
    assert [json.loads(line)["step"] for line in lines[0]] == [1, 2, 3] and lines[0][0] == lines[1][0]
    record = json.loads((here / "checkpoints" / "fetched.json").read_text())
    assert (
        record["checkpoint"] == "step-00000001"
        and record["commit"] == hub.store.repos["model", "alice/run"].refs["main"]
    )

    (here / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"")
    hub.go_away()  # the same command again needs no Hub
    done = client(run, token="hf_alice", home=tmp_path / "empty")
    assert done.code == 0 and "went on from alice/run before" in done.text and "resuming after step 2" in done.text
    assert (here / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("resume", "token", "home", "words"),
    [
        ("alice/none", "hf_alice", "", "there is no folder alice/none here, and no repository alice/none on the Hub"),
        ("alice/run", None, "", "no repository alice/run on the Hub that can be seen"),
        ("alice/run", "hf_wrong", "", "the Hub does not know your token"),
        ("alice/run@v9", "hf_alice", "", "the repository alice/run on the Hub has no revision v9"),
        ("alice/empty", "hf_alice", "", "it has no checkpoints/step-... of a run"),
        ("alice/run/checkpoints/step-00000007", "hf_alice", "", "manifest.json is missing"),
        ("alice/run", "hf_alice", "whole", "already holds a run: continue it with --resume auto"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(hub, client, photos, whole, tmp_path, resume, token, home, words):
    put(hub, whole, 1)
    hub.store.add("alice/empty", {"config.json": b"{}"})
    before = sorted(path.name for path in whole.rglob("*"))
    folder = whole if home else tmp_path / "here"
    done = client(RUN.format(options=options(photos, folder, resume=resume)), token=token)
    assert done.code == 1 and words in done.err.splitlines()[-1], done.text
    assert "allow_patterns" not in done.err
    assert sorted(path.name for path in whole.rglob("*")) == before
    assert not (tmp_path / "here").exists() or not list((tmp_path / "here").iterdir())
