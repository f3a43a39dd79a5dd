"""The whole way over HTTP: publish, start from it, train on streamed data and push; with a Hub that dies half way."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.data.shard_files import write_parquet
from tests.hub_client import ROOT, environment
from tests.hub_server import titles
from tests.hub_store import Store
from tests.training.conftest import TINY

STEPS, IMAGES = 24, 160
TOKEN = "hf_alice"
PUBLISH_DATA = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("alice/photos", repo_type="dataset", private=True)
api.upload_folder(repo_id="alice/photos", repo_type="dataset", folder_path="shards", commit_message="images")
"""


class HubProcess:
    """A Hub in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, root: Path) -> None:
        self.root, self.port, self._process = root, 0, None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.hub_server", "--port", str(self.port), "--root", str(self.root)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rpartition(":")[2])
        fault = {"kind": "slow", "method": "GET", "path": "/resolve/.*parquet", "count": -1, "delay_s": 0.15}
        self._post("/-/faults", fault)  # so that the data last as long as the run

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def asked(self) -> list[dict]:
        with urllib.request.urlopen(f"{self.endpoint}/-/requests", timeout=20) as answer:
            return json.load(answer)

    def _post(self, path: str, body: dict) -> None:
        request = urllib.request.Request(self.endpoint + path, json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request, timeout=20).close()


@pytest.fixture
def hub_process(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path / "hub")
    yield hub
    hub.kill()


@pytest.fixture
def start(hub_process: HubProcess, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a client on a machine of its own: its output goes to MACHINE/log, its cache is empty."""

    def popen(machine: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        folder = tmp_path / machine
        folder.mkdir(exist_ok=True)
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, stdout=log, stderr=log, text=True,
                env=environment(hub_process.endpoint, folder / "home", TOKEN, **more),
            )  # fmt: skip

    return popen


def wait_for(process: subprocess.Popen[str], log: Path) -> None:
    assert process.wait(timeout=300) == 0, log.read_text()[-3000:]


def last_step(folder: Path) -> int:
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"it ended too soon: {log.read_text()[-3000:]}"
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.05)


def contents(store: Store, repository: str) -> dict[str, str]:
    """Path -> SHA-256 of what `main` holds, of weights and optimizer."""
    files = store.repos["model", repository].commit().files
    return {path: blob.sha256 for path, blob in files.items() if path.endswith(".safetensors")}


@pytest.mark.slow
def test_a_hub_and_a_machine_that_die_half_way_change_no_bit(hub_process, start, run, tmp_path):
    # --- publish a data set and a model ---------------------------------------------------------------------------
    publisher = tmp_path / "publisher"
    for number in range(4):
        first = number * IMAGES // 4
        write_parquet(publisher / "shards" / "train" / f"{number:03}.parquet", range(first, first + IMAGES // 4))
    log = publisher / "log"
    wait_for(start("publisher", "-c", PUBLISH_DATA), log)
    wait_for(start("publisher", "-m", "mcl_hf.cli", "push", str(run), "alice/start", "--private",
                   "--with-pretraining", "--tag", "v1"), log)  # fmt: skip

    # --- train from both, undisturbed and disturbed ---------------------------------------------------------------
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**TINY, "max_steps": STEPS, "save_every_steps": 2, "keep_last": 3, "seed": 3}))

    def train(machine: str, repository: str, *more: str) -> subprocess.Popen[str]:
        return start(machine, "-m", "mcl_hf.cli", "pretrain", "--recipe", str(recipe), "--data", "alice/photos",
                     "--streaming", "--init", "alice/start/pretraining@v1", "--output-dir", "out",
                     "--push-to-hub", repository, "--hub-private", *more)  # fmt: skip

    wait_for(train("calm", "alice/calm"), tmp_path / "calm" / "log")

    log = tmp_path / "first" / "log"
    process = train("first", "alice/net")
    wait_until(lambda: last_step(tmp_path / "first" / "out") >= 5, process, log)
    hub_process.kill()
    down = time.monotonic()
    while time.monotonic() - down < 4:
        assert process.poll() is None, f"the run did not outlast the Hub: {log.read_text()[-3000:]}"
        time.sleep(0.1)
    stood = last_step(tmp_path / "first" / "out")
    assert stood < STEPS
    hub_process.start()
    wait_until(lambda: last_step(tmp_path / "first" / "out") >= stood + 6, process, log)
    wait_until(lambda: bool(checkpoints_of(hub_process.root, beyond=stood)), process, log)
    process.kill()  # and with it the machine: another one goes on from what is on the Hub
    process.wait()

    log = tmp_path / "second" / "log"
    wait_for(train("second", "alice/net", "--resume", "alice/net"), log)
    assert "resuming after step" in log.read_text()

    # --- the same bits, one commit for everything, no token anywhere ----------------------------------------------
    calm, second = tmp_path / "calm" / "out", tmp_path / "second" / "out"
    for name in ("model.safetensors", "pretraining/model.safetensors",
                 f"checkpoints/step-{STEPS:08d}/training_state.safetensors"):  # fmt: skip
        assert (calm / name).read_bytes() == (second / name).read_bytes(), name
    store = Store(hub_process.root)
    final = {path for path in contents(store, "alice/calm") if f"step-{STEPS:08d}" in path or "/" not in path}
    assert len(final) == 3
    for path in final:
        assert contents(store, "alice/net")[path] == contents(store, "alice/calm")[path], path
    for repository in ("alice/start", "alice/calm", "alice/net"):
        repo = store.repos["model", repository]
        counted = titles(repo)
        assert max(counted.values()) == 1, counted
        trees = [tuple(sorted((path, blob.sha256) for path, blob in one.files.items())) for one in repo.history()]
        assert len(set(trees)) == len(trees), "a commit that changes nothing"
        assert [name for name in repo.refs if name.startswith("refs/tags/")] == ["refs/tags/v1"] and repo.private
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert leaks == []
    blobs = [one for one in hub_process.asked() if one["path"].startswith("/-/lfs/")]
    assert not any("authorization" in one["headers"] for one in blobs)


def checkpoints_of(root: Path, beyond: int) -> list[str]:
    """Checkpoints of alice/net on the Hub after a step."""
    repo = next((one for one in json.loads((root / "state.json").read_text()) if one["id"] == "alice/net"), None)
    if repo is None or "main" not in repo["refs"]:
        return []
    files = repo["commits"][repo["refs"]["main"]]["files"]
    steps = {path.split("/")[1] for path in files if path.startswith("checkpoints/")}
    return sorted(name for name in steps if int(name.removeprefix("step-")) > beyond)
