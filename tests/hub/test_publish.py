"""`mcl-hf push` with the real client against the tests' Hub: what a release holds, and that nothing is done twice."""

import json

import pytest

from tests.hub_server import titles

SLIM = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
RECORD = ["log_summary.json", "training_arguments.json"]


def files_of(hub, name="alice/net", revision="main"):
    found = hub.store.repos["model", name].commit(revision).files
    return sorted(path for path in found if path != ".gitattributes" and not path.endswith(".png"))


def pushes(hub, name="alice/net"):
    """Titles of its commits, the newest first, without the one that made it."""
    return [one.title for one in hub.store.repos["model", name].history()][:-1]


def tags(hub, name="alice/net"):
    repo = hub.store.repos["model", name]
    return {ref.removeprefix("refs/tags/"): oid for ref, oid in repo.refs.items() if ref.startswith("refs/tags/")}


def test_a_run_is_published_in_one_commit_with_a_tag(hub, command, run):
    done = command("push", str(run), "alice/net", token="hf_alice")
    assert done.code == 0, done.text
    print(done.text)
    assert files_of(hub) == sorted([*SLIM, *RECORD])
    assert pushes(hub) == ["v1 (mcl_hf 0.1.0)"] or len(pushes(hub)) == 1
    assert list(tags(hub)) == ["v1"]
    assert hub.store.read("alice/net", "model.safetensors") == (run / "model.safetensors").read_bytes()
