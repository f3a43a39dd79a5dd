"""A stream over HTTP outlasts what servers do, keeps its order, and says which source is gone."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mcl_hf.data import ViewBatch, ViewLoader, open_source
from mcl_hf.data.packing.pack import pack_images
from mcl_hf.data.sources.addresses import expand_braces
from mcl_hf.data.sources.licences import describe_sources
from mcl_hf.data.sources.remote_files import RetryPolicy, open_remote
from mcl_hf.errors import InputError
from mcl_hf.new_folder import output_folder
from tests.data.shard_files import jpeg, write_parquet, write_shards
from tests.data.stream_server import Server, serving

SMALL = {"view_size": 16, "ratios": (1, 2), "seed": 5, "batch_size": 8}
SIZES = (40, 25, 30)


@pytest.fixture(autouse=True)
def _impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcl_hf.data.sources.remote_files.RETRY", RetryPolicy(attempts=4, timeout_s=0.4))
    monkeypatch.setattr("mcl_hf.retry.FIRST_WAIT_S", 0.02)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "files").mkdir()
    with serving(tmp_path / "files") as running:
        yield running


def take(loader: ViewLoader, count: int) -> list[ViewBatch]:
    return list(itertools.islice(loader, count))


def assert_same(ones: list[ViewBatch], others: list[ViewBatch]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.sample_ids, other.sample_ids)
        assert torch.equal(one.views_a[0], other.views_a[0])


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_faults_in_the_middle_leave_the_order_exact(server: Server, kind: str, num_workers: int) -> None:
    local = write_shards(server.root, kind, SIZES)
    expected = take(ViewLoader(open_source(local, streaming=True), **SMALL), 20)
    source = open_source(f"{server.address}/part-{{000..002}}.{kind}")
    assert "95 images in 3 shards" in source.description
    loader = iter(ViewLoader(source, num_workers=num_workers, **SMALL))
    found = list(itertools.islice(loader, 2))
    server.faults += ["drop", "busy", "slow", "none", "busy", "busy", "drop", "slow"]
    found += list(itertools.islice(loader, 18))
    assert_same(found, expected)
    assert {"drop", "busy", "slow"} <= set(server.happened)


def test_faults_while_opening(server: Server) -> None:
    write_shards(server.root, "parquet", SIZES)
    server.faults += ["busy", "none", "drop", "slow"]
    assert len(open_source(f"{server.address}/part-{{000..002}}.parquet")) == 95


def test_exactly_the_bytes_asked_for(server: Server) -> None:
    data = bytes(range(256)) * 40
    (server.root / "file.bin").write_bytes(data)
    file = open_remote(f"{server.address}/file.bin")
    server.faults += ["drop"] * 8  # more than the attempts, but each of them brings half of what is left
    assert file.read(100, 5000) == data[100:5100]


def test_a_file_exchanged_for_one_of_equal_size_is_noticed(server: Server) -> None:
    (server.root / "file.bin").write_bytes(bytes(5000))
    file = open_remote(f"{server.address}/file.bin")
    assert file.read(0, 10) == bytes(10)
    server.version = "-exchanged"
    with pytest.raises(InputError, match="has changed since the run began"):
        file.read(10, 10)


def test_other_bytes_than_asked_for_are_not_taken_and_no_more_are_read(server: Server) -> None:
    data = bytes(range(256)) * 400
    (server.root / "file.bin").write_bytes(data)
    file = open_remote(f"{server.address}/file.bin")
    server.faults += ["shifted", "flood"]
    assert file.read(300, 50_000) == data[300:50_300]
    server.faults += ["shifted"] * 4
    with pytest.raises(InputError, match="could not be read: .*asked for bytes from 300 on"):
        file.read(300, 50_000)
    assert server.bytes_sent < 50 * 2**20  # what lay in buffers when the connection was closed


def test_a_byte_and_silence_again_and_again_counts_as_gone(server: Server) -> None:
    (server.root / "file.bin").write_bytes(bytes(50_000))
    file = open_remote(f"{server.address}/file.bin")
    before = server.requests
    server.faults += ["trickle"] * 20
    with pytest.raises(InputError, match="file.bin could not be read: ReadTimeout"):
        file.read(0, 50_000)
    assert server.requests - before == 4


def test_redirects_that_never_end_are_one_line(server: Server) -> None:
    (server.root / "a.tar").write_bytes(bytes(5000))
    server.faults += ["loop"] * 100
    with pytest.raises(InputError, match="a.tar could not be opened: .*redirects"):
        open_source(f"{server.address}/a.tar")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_that_is_gone_stops_with_its_name(server: Server, num_workers: int) -> None:
    write_shards(server.root, "parquet", SIZES)
    loader = iter(ViewLoader(open_source(f"{server.address}/part-000.parquet"), num_workers=num_workers, **SMALL))
    next(loader)
    server.gone = True
    with pytest.raises(InputError, match=r"part-000.parquet is not there \(HTTP 404\)") as caught:
        list(itertools.islice(loader, 20))
    assert "\n" not in str(caught.value)


def test_a_server_that_stays_busy_or_stops_counts_as_gone(server: Server) -> None:
    path = write_parquet(server.root / "a.parquet", range(30), group_rows=5)
    source = open_source(f"{server.address}/a.parquet")
    server.faults += ["busy"] * 20
    with pytest.raises(InputError, match="could not be read: the server answers 503"):
        source.sample(29)
    server.faults.clear()
    assert source.sample(29).bytes_ == jpeg(29)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match="has changed"):
        source.sample(12)
    server.close()
    with pytest.raises(InputError, match="could not be opened: ConnectError"):
        open_source(f"{server.address}/a.parquet")


def test_servers_without_ranges_and_files_that_are_not_there(server: Server) -> None:
    write_parquet(server.root / "a.parquet", range(3))
    with pytest.raises(InputError, match=r"b.parquet is not there \(HTTP 404\)"):
        open_source(f"{server.address}/{{a,b}}.parquet")
    server.ranges = False
    with pytest.raises(InputError, match="sends whole files only"):
        open_source(f"{server.address}/a.parquet")


def test_a_signed_address_is_longer_than_a_path_may_be_and_tells_nobody(server: Server, tmp_path: Path) -> None:
    write_parquet(server.root / "a.parquet", range(3))
    address = f"{server.address}/a.parquet?signature={'5ecret' * 60}"
    assert len(open_source(address)) == 3
    assert describe_sources([address])[0]["name"] == "a.parquet"
    assert output_folder(str(tmp_path / "run"), [address]) == tmp_path / "run"
    assert pack_images(address, tmp_path / "packed").total.images == 3
    for options in ({"image_column": "x"}, {"label_column": "x"}, {"data_files": ["*"]}):
        with pytest.raises(InputError, match="/a.parquet") as caught:
            open_source(address, **options)
        assert "5ecret" not in str(caught.value)


def test_an_archive_is_gone_through_once(server: Server, tmp_path: Path) -> None:
    write_shards(server.root, "tar", (200,))
    first = open_source(f"{server.address}/part-000.tar", label_column="cls")
    sent, size = server.bytes_sent, (server.root / "part-000.tar").stat().st_size
    assert sent > size * 0.8
    second = open_source(f"{server.address}/part-000.tar", label_column="cls")
    assert server.bytes_sent - sent < size / 2  # the block with the example
    assert first.fingerprint == second.fingerprint
    assert second.labels.tolist() == [number % 3 for number in range(200)]
    [index] = (tmp_path / "hub").rglob("*.parquet")
    index.write_bytes(b"PAR1")  # as after a loss of power
    assert open_source(f"{server.address}/part-000.tar", label_column="cls").fingerprint == first.fingerprint


def test_an_archive_opens_where_the_cache_cannot_be_written(server: Server, tmp_path: Path) -> None:
    write_shards(server.root, "tar", SIZES)
    (tmp_path / "hub").write_text("")  # where the cache's folder would be
    assert len(open_source(f"{server.address}/part-000.tar")) == SIZES[0]
    (tmp_path / "hub").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pyarrow.parquet.write_table", lambda *_: os.open("", os.O_RDONLY)
        )  # an OSError, as of a full disk
        assert len(open_source(f"{server.address}/part-000.tar")) == SIZES[0]


def test_parquet_is_read_by_row_groups(server: Server) -> None:
    path = write_parquet(server.root / "a.parquet", range(400), group_rows=20)
    source = open_source(f"{server.address}/a.parquet")
    before, requests = server.bytes_sent, server.requests
    for index in range(100, 120):
        assert source.sample(index).bytes_ == jpeg(index)
    assert server.bytes_sent - before < path.stat().st_size / 10
    assert server.requests - requests == 1


def test_a_data_set_of_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        server.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.address)
    for number in range(2):
        write_parquet(server.root / "data" / f"train-0000{number}-of-00002.parquet", range(5 * number, 5 * number + 5))
    write_parquet(server.root / "data" / "test-00000-of-00001.parquet", range(3))
    source = open_source("user/images", streaming=True)
    assert source.description.startswith(
        "Hub data set user/images, split train, read in a stream: 10 images in 2 shards"
    )
    assert source.sample(7).bytes_ == jpeg(7)
    assert len(open_source("user/images", streaming=True, split="test")) == 3
    assert len(open_source("hf://datasets/user/images/data/t*-00000-*.parquet")) == 8
    assert len(open_source("hf://datasets/user/images@c0ffee/data/train-{00000,00001}-of-00002.parquet")) == 10
    chosen = open_source("user/images", streaming=True, data_files=["data/*-00000-of-*.parquet"])
    assert "user/images, 2 files, read in a stream: 8 images" in chosen.description
    assert len(open_source("hf://datasets/user/images", data_files=["**/test-*"])) == 3
    assert len(open_source("hf://datasets/user/images@c0ffee/", data_files=["data/train-*"])) == 10

    def nothing_found(*_: object, **__: object) -> None:
        raise FileNotFoundError("Couldn't find any data file")

    monkeypatch.setattr("datasets.load_dataset", nothing_found)
    for options in ({"streaming": True}, {}):
        with pytest.raises(InputError, match=r"on the Hub matches 'val\*': there are data/test-00000-of-00001.parquet"):
            open_source("user/images", data_files=["data/t*", "val*"], **options)
    with pytest.raises(InputError, match="or name the files with --data-files"):
        open_source("hf://datasets/user/images/")
    with pytest.raises(InputError, match="no file of the data set user/images on the Hub matches"):
        open_source("hf://datasets/user/images/data/*.tar")
    with pytest.raises(InputError, match="has no split 'validation': its shards belong to test, train"):
        open_source("user/images", streaming=True, split="validation")
    with pytest.raises(InputError, match="'user/typo' is no local file or folder, and no data set on the Hub"):
        open_source("user/typo", streaming=True)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the Hub cannot be asked for the data set user/images"):
        open_source("user/images", streaming=True)


def test_a_downloaded_data_set_of_the_hub_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    rows = [{"image": {"bytes": jpeg(number), "path": None}, "label": number % 2} for number in range(4)]
    asked = []

    def load_dataset(name: str, split: str) -> Dataset:
        asked.append((name, split))
        return Dataset.from_list(rows, features=features)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = open_source("user/images", split="validation")
    assert asked == [("user/images", "validation")]
    assert source.label_names == ["cat", "dog"]
    assert "Hub data set user/images, split validation: 4 images" in source.description
    assert source.sample(3).bytes_ == jpeg(3)


def test_braces() -> None:
    assert list(expand_braces("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert list(expand_braces("{a,b}/{0..1}")) == ["a/0", "a/1", "b/0", "b/1"]
    assert list(expand_braces("plain")) == ["plain"]


@pytest.mark.parametrize("fault", [{"kind": "status", "count": 2}, {"kind": "reset"}, {"kind": "close"}])
def test_a_hub_that_is_busy_is_asked_again_which_shards_there_are(hub, client, tmp_path, fault) -> None:
    shard = write_parquet(tmp_path / "train.parquet", range(8))
    hub.store.add("alice/photos", {"train.parquet": shard.read_bytes()}, type="dataset", private=True)
    hub.fault(path="/api/datasets/", **fault)
    code = "from mcl_hf.data import open_source\nprint(len(open_source('alice/photos', streaming=True)))"
    done = client(code, token="hf_alice")
    assert done.out.strip() == "8" and not hub.waiting_faults(), done.text
    hub.fault("status", path="/api/datasets/", status=403)
    assert "cannot be asked" in client(code, token="hf_alice").err.splitlines()[-1]
    assert len(hub.asked("GET", "/api/datasets/")) == fault.get("count", 1) + 2


@pytest.mark.parametrize(
    ("token", "streaming", "told"),
    [
        ("hf_wrong", True, "does not know your token; mend or unset HF_TOKEN, where it comes from"),
        ("hf_wrong", False, "does not know your token; mend or unset HF_TOKEN, where it comes from"),
        ("hf_bob", True, "check the token in HF_TOKEN, which goes before a login if it is private"),
        (None, True, "log in with 'hf auth login' if it is private"),
        (None, False, "log in with 'hf auth login' if it is private"),
    ],
)
def test_a_data_set_that_the_token_does_not_open_says_which_token(hub, client, tmp_path, token, streaming, told):
    shard = write_parquet(tmp_path / "train.parquet", range(8))
    hub.store.add("alice/photos", {"train.parquet": shard.read_bytes()}, type="dataset", private=True)
    code = f"from mcl_hf.data import open_source\nopen_source('alice/photos', streaming={streaming})"
    done = client(code, token=token)
    last = done.err.splitlines()[-1]
    assert told in last and (token is None or token not in done.text), done.text


@pytest.mark.parametrize(("token", "told"), [("hf_wrong", "mend or unset HF_TOKEN"), ("hf_bob", "check the token in"),
                                             (None, "and log in with 'hf auth login'")])  # fmt: skip
def test_a_file_of_the_hub_that_the_token_does_not_open_says_which_token(hub, client, tmp_path, token, told):
    shard = write_parquet(tmp_path / "train.parquet", range(8))
    hub.store.add("alice/photos", {"train.parquet": shard.read_bytes()}, type="dataset", private=True)
    address = f"{hub.endpoint}/datasets/alice/photos/resolve/main/train.parquet"
    done = client(f"from mcl_hf.data.sources.remote_files import open_remote\nopen_remote({address!r})", token=token)
    last = done.err.splitlines()[-1]
    assert address in last and told in last, done.text
