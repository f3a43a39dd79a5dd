"""The tests' Hub answers the real clients as the Hub does, and fails when it is told to."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.hub_server import titles

UPLOAD = """
from huggingface_hub import HfApi
from pathlib import Path
Path("files/sub").mkdir(parents=True)
Path("files/a.txt").write_text("one")
Path("files/sub/b.txt").write_text("two")
Path("files/model.safetensors").write_bytes(bytes(range(256)) * 400)
api = HfApi()
api.create_repo("alice/net", exist_ok=True)
print(api.upload_folder(repo_id="alice/net", folder_path="files", commit_message="all").oid)
"""


def test_everything_that_the_client_does_with_a_repository(hub, client):
    done = client(
        UPLOAD
        + """
import json
from huggingface_hub import hf_hub_download, snapshot_download
head = api.model_info("alice/net").sha
again = api.upload_folder(repo_id="alice/net", folder_path="files", commit_message="all")  # nothing has changed
api.create_tag("alice/net", tag="v1")
api.create_branch("alice/net", branch="next")
api.upload_file(repo_id="alice/net", path_in_repo="a.txt", path_or_fileobj=b"three", commit_message="more",
                parent_commit=head)
api.delete_file("sub/b.txt", "alice/net", commit_message="less")
told = dict(
    me=api.whoami()["name"], exists=[api.repo_exists("alice/net"), api.repo_exists("alice/none")],
    files=api.list_repo_files("alice/net"), tagged=api.list_repo_files("alice/net", revision="v1"),
    sizes={f.rfilename: f.size for f in api.model_info("alice/net", files_metadata=True).siblings},
    paths=[p.path for p in api.get_paths_info("alice/net", ["a.txt", "none", "model.safetensors"])],
    titles=[c.title for c in api.list_repo_commits("alice/net")],
    refs=[r.name for r in api.list_repo_refs("alice/net").branches],
    now=open(hf_hub_download("alice/net", "a.txt")).read(),
    then=open(hf_hub_download("alice/net", "a.txt", revision="v1")).read(),
    whole=len(open(snapshot_download("alice/net") + "/model.safetensors", "rb").read()),
    has=api.file_exists("alice/net", "sub/b.txt"), unchanged=again.oid == head,
)
print(json.dumps(told))
""",
        token="hf_alice",
    )
    assert done.code == 0, done.text
    told = json.loads(done.out.splitlines()[-1])
    assert told == {
        "me": "alice", "exists": [True, False], "whole": 102400, "has": False, "unchanged": True,
        "files": [".gitattributes", "a.txt", "model.safetensors"],
        "tagged": [".gitattributes", "a.txt", "model.safetensors", "sub/b.txt"],
        "sizes": {".gitattributes": told["sizes"][".gitattributes"], "a.txt": 5, "model.safetensors": 102400},
        "paths": ["a.txt", "model.safetensors"], "titles": ["less", "more", "all", "initial commit"],
        "refs": ["main", "next"], "now": "three", "then": "one",
    }  # fmt: skip
    assert hub.store.read("alice/net", "sub/b.txt", "v1") == b"two"
    assert max(titles(hub.store.repos["model", "alice/net"]).values()) == 1
    assert len(hub.asked("PUT")) == 1 and "authorization" not in hub.asked("PUT")[0].headers


def test_a_stranger_may_propose_but_not_push(hub, client):
    hub.store.add("alice/net", {"a.txt": b"one"})
    done = client(
        """
from huggingface_hub import HfApi
api = HfApi()
try:
    api.upload_file(repo_id="alice/net", path_in_repo="a.txt", path_or_fileobj=b"mine")
except Exception as error:
    print(type(error).__name__, error.response.status_code)
info = api.upload_file(repo_id="alice/net", path_in_repo="b.bin", path_or_fileobj=bytes(300), create_pr=True,
                       commit_message="add b")
print(info.pr_revision, [p.title for p in api.get_repo_discussions("alice/net")])
print(api.list_repo_files("alice/net", revision="refs/pr/1"), api.list_repo_files("alice/net"))
print([ref.ref for ref in api.list_repo_refs("alice/net", include_pull_requests=True).pull_requests])
""",
        token="hf_bob",
    )
    assert done.code == 0, done.text
    assert done.out.splitlines() == [
        "HfHubHTTPError 403",
        "refs/pr/1 ['add b']",
        "['.gitattributes', 'a.txt', 'b.bin'] ['.gitattributes', 'a.txt']",
        "['refs/pr/1']",
    ]
