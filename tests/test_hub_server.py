"""The tests' Hub answers the real clients as the Hub does, and fails when it is told to."""

import http.client
import json
import subprocess
import sys
import time
import urllib.error
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


def test_models_and_data_sets_go_up_and_come_down_again_bit_for_bit(hub, client):
    hub.cdn = True
    done = client(
        """
import numpy as np, timm, torch
from datasets import Dataset, load_dataset
from transformers import AutoModel, ResNetConfig, ResNetModel
torch.manual_seed(0)
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
model = ResNetModel(config)
model.push_to_hub("alice/resnet", private=True)
loaded = AutoModel.from_pretrained("alice/resnet").state_dict()
print(all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items()))
network = timm.create_model("resnet10t", channels=[8, 8, 8, 8], stem_width=4)
built = dict(channels=[8, 8, 8, 8], stem_width=4)
timm.models.push_to_hf_hub(network, "alice/t10", model_args=built)
loaded = timm.create_model("hf-hub:alice/t10", pretrained=True).state_dict()
print(all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items()))
rows = [{"number": number, "bytes": bytes([number])} for number in range(40)]
Dataset.from_list(rows).push_to_hub("alice/rows", num_shards=2)
print(list(load_dataset("alice/rows", split="train", streaming=True)) == rows)
print(load_dataset("alice/rows", split="train")[7])
""",
        token="hf_alice",
    )
    assert done.code == 0, done.text
    assert done.out.splitlines() == ["True", "True", "True", "{'number': 7, 'bytes': b'\\x07'}"]
    from_elsewhere = hub.asked("GET", "^/-/cdn/")
    assert from_elsewhere and not any("authorization" in one.headers for one in from_elsewhere)
    assert any("range" in one.headers for one in hub.asked("GET", "parquet|cdn"))


def test_tokens_rights_limits_and_what_has_moved_on(hub, client):
    hub.store.add("alice/secret", {"a.txt": b"one"}, private=True)
    hub.store.add("alice/open", {"a.txt": b"one"})
    hub.page_size = 3
    code = """
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
def say(what, call):
    try:
        print(what, call())
    except Exception as error:
        print(what, type(error).__name__, getattr(getattr(error, "response", None), "status_code", None))
say("whoami", lambda: api.whoami()["name"])
say("secret", lambda: open(hf_hub_download("alice/secret", "a.txt")).read())
say("open", lambda: open(hf_hub_download("alice/open", "a.txt")).read())
say("none", lambda: hf_hub_download("alice/open", "none"))
say("revision", lambda: hf_hub_download("alice/open", "a.txt", revision="v9"))
say("create", lambda: api.create_repo("alice/open").repo_id)
say("elsewhere", lambda: api.create_repo("lab/new").repo_id)
say("write", lambda: len(api.upload_file(repo_id="alice/open", path_in_repo="b", path_or_fileobj=b"two").oid))
say("stale", lambda: api.upload_file(repo_id="alice/open", path_in_repo="c", path_or_fileobj=b"3",
                                     parent_commit=api.list_repo_commits("alice/open")[-1].commit_id))
"""
    told = {token: client(code, token=token, home=hub.store.root / str(token)).out.splitlines()
            for token in ("hf_alice", "hf_bob", "hf_reader", "hf_wrong", None)}  # fmt: skip
    missing = ["none RemoteEntryNotFoundError 404", "revision RevisionNotFoundError 404"]
    refused = ["create HfHubHTTPError 403", "elsewhere HfHubHTTPError 403", "write HfHubHTTPError 403"]
    assert told["hf_alice"] == [
        "whoami alice", "secret one", "open one", *missing, "create HfHubHTTPError 409", "elsewhere lab/new",
        "write 40", "stale HfHubHTTPError 412",
    ]  # fmt: skip
    assert told["hf_bob"][:2] == ["whoami bob", "secret RepositoryNotFoundError 404"]
    assert told["hf_bob"][5:8] == refused
    assert told["hf_reader"][:2] == ["whoami alice", "secret one"] and told["hf_reader"][5:8] == refused
    assert {line.split(" ", 1)[1] for line in told["hf_wrong"]} == {"HfHubHTTPError 401"}
    assert told[None][:3] == ["whoami LocalTokenNotFoundError None", "secret RepositoryNotFoundError 401", "open one"]
    assert [one.title for one in hub.store.repos["model", "alice/open"].history()].count(
        "Upload b with huggingface_hub"
    ) == 1

    hub.store.add("alice/many", {f"{number:02}/x": b"" for number in range(10)})
    hub.store.max_file_bytes, hub.store.max_storage_bytes = 1000, 1500
    done = client(
        """
from huggingface_hub import HfApi
api = HfApi()
print(len(api.list_repo_files("alice/many")))
for name, size in (("a.bin", 900), ("b.bin", 1100), ("c.txt", 1100), ("d.bin", 901)):
    try:
        api.upload_file(repo_id="alice/many", path_in_repo=name, path_or_fileobj=bytes(size))
        print(name)
    except Exception as error:
        print(name, type(error).__name__, str(error).splitlines()[0])
""",
        token="hf_alice",
    )
    lines = done.out.splitlines()
    assert lines[:2] == ["11", "a.bin"] and lines[2].startswith("b.bin ") and lines[3].startswith("c.txt "), done.text
    assert lines[4].startswith("d.bin HfHubHTTPError")
    assert sorted(hub.store.repos["model", "alice/many"].commit().files)[-1] == "a.bin"


def raw(hub, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=5)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


ALICE = {"Authorization": "Bearer hf_alice"}
BRANCH = ("POST", "/api/models/alice/net/branch/next", b"{}")


def test_every_fault_is_what_it_says_and_happens_as_often_as_it_should(hub):
    hub.store.add("alice/net", {"a.txt": b"0123456789"})
    repo = hub.store.repos["model", "alice/net"]
    path = "/alice/net/resolve/main/a.txt"
    hub.fault("status", path="a.txt", status=429, count=2, skip=1, retry_after=9)
    assert [raw(hub, "GET", path)[0] for _ in range(4)] == [200, 429, 429, 200]
    hub.fault("reset", "GET")
    with pytest.raises(ConnectionResetError):
        raw(hub, "GET", path)
    hub.fault("close", "POST")
    with pytest.raises(http.client.RemoteDisconnected):
        raw(hub, *BRANCH, **ALICE)
    assert "next" not in repo.refs
    hub.fault("lose", "POST")
    with pytest.raises(http.client.RemoteDisconnected):
        raw(hub, *BRANCH, **ALICE)
    assert "next" in repo.refs and raw(hub, *BRANCH, **ALICE)[0] == 409
    del repo.refs["next"]
    hub.fault("lose", "POST", reset=True)
    with pytest.raises(ConnectionResetError):
        raw(hub, *BRANCH, **ALICE)
    assert "next" in repo.refs
    hub.fault("truncate", "GET")
    with pytest.raises(http.client.IncompleteRead) as cut:
        raw(hub, "GET", path)
    assert cut.value.partial == b"01234"
    hub.fault("truncate", "GET", reset=True)
    with pytest.raises(ConnectionResetError):
        raw(hub, "GET", path)
    hub.fault("slow", "GET", delay_s=0.3)
    began = time.monotonic()
    assert raw(hub, "GET", path) == (200, b"0123456789") and time.monotonic() - began >= 0.3
    assert raw(hub, "GET", path, Range="bytes=2-4") == (206, b"234")
    assert [one.fault for one in hub.asked("GET", "a.txt")] == [
        None, "status", "status", None, "reset", "truncate", "truncate", "slow", None,
    ]  # fmt: skip
    assert not hub.waiting_faults()
    hub.go_away()
    with pytest.raises(ConnectionRefusedError):
        raw(hub, "GET", path)
    hub.come_back()
    assert raw(hub, "GET", path)[0] == 200


def test_as_a_process_it_keeps_what_it_had_when_it_was_killed(tmp_path):
    def start() -> tuple[subprocess.Popen[str], str]:
        file = Path(__file__).with_name("hub_server.py")
        process = subprocess.Popen(
            [sys.executable, str(file), "--port", "0", "--root", str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def ask(endpoint: str, method: str, path: str, body: dict | None = None) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(endpoint + path, data, ALICE, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    first, endpoint = start()
    assert ask(endpoint, "POST", "/api/repos/create", {"name": "net"}) == 200
    first.kill()
    first.wait()
    second, endpoint = start()
    try:
        assert ask(endpoint, "GET", "/api/models/alice/net") == 200
        assert ask(endpoint, "POST", "/-/faults", {"kind": "status", "status": 502}) == 200
        assert [ask(endpoint, "GET", "/api/models/alice/net") for _ in range(2)] == [502, 200]
        with urllib.request.urlopen(f"{endpoint}/-/requests", timeout=10) as answer:
            assert [one["status"] for one in json.load(answer)] == [200, 502, 200]
    finally:
        second.kill()
        second.wait()
