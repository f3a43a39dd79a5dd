"""Streams give the same samples wherever they are continued, with any number of workers and either number of ranks."""

import io
import itertools
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcl_hf.data import ImageSource, ViewBatch, ViewLoader, open_source
from mcl_hf.data.sources.addresses import split_mix
from mcl_hf.data.streams.streams import StreamSource
from mcl_hf.errors import InputError
from tests.data.shard_files import jpeg, write_parquet, write_shards, write_tar

SMALL = {"view_size": 16, "ratios": (1, 2), "seed": 5}
SIZES = (13, 7, 20, 5)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageSource]:
    root = tmp_path_factory.mktemp("shards")
    for number in range(45):
        (root / "folder").mkdir(exist_ok=True)
        (root / "folder" / f"{number}.jpg").write_bytes(jpeg(number))
    tar, parquet = write_shards(root / "tar", "tar", SIZES), write_shards(root / "parquet", "parquet", SIZES)
    return {
        "map": open_source(str(root / "folder")),
        "parquet": open_source(parquet, streaming=True),
        "tar": open_source(tar),
        "mixed": open_source([f"{tar}=0.6", f"{root / 'folder'}=0.4"]),
    }


def take(loader: ViewLoader, count: int) -> list[ViewBatch]:
    return list(itertools.islice(loader, count))


def same(one: ViewBatch, other: ViewBatch) -> bool:
    views = zip(one.views_a + (one.views_b or []), other.views_a + (other.views_b or []), strict=True)
    return torch.equal(one.sample_ids, other.sample_ids) and all(torch.equal(left, right) for left, right in views)


@pytest.mark.parametrize("kind", ["map", "parquet", "tar", "mixed"])
@settings(max_examples=4, deadline=None)
@example(stop=9, before=4, after=2, world_size=2)
@example(stop=4, before=1, after=4, world_size=1)
@example(stop=17, before=2, after=0, world_size=2)
@given(
    stop=st.integers(0, 40),
    before=st.sampled_from([0, 1, 2, 4]),
    after=st.sampled_from([0, 1, 2, 4]),
    world_size=st.sampled_from([1, 2]),
)
def test_continuing_gives_what_would_have_come(
    sources: dict[str, ImageSource], kind: str, stop: int, before: int, after: int, world_size: int
) -> None:
    """Compared with one rank that never stopped: both ranks' parts, up to a random stop and from there on."""
    whole = take(ViewLoader(sources[kind], batch_size=8, **SMALL), stop + 3)
    for rank in range(world_size):
        size = 8 // world_size
        part = {"batch_size": size, "rank": rank, "world_size": world_size, **SMALL}
        first = ViewLoader(sources[kind], num_workers=before, start_step=max(0, stop - 2), **part)
        seen = take(first, min(stop, 2))
        state = first.state_dict()
        assert state == {"step": stop}
        second = ViewLoader(sources[kind], num_workers=after, **part)
        second.load_state_dict(state)
        seen += take(second, 3)
        for batch in seen:
            ids = whole[batch.step].sample_ids[rank * size : (rank + 1) * size]
            assert torch.equal(batch.sample_ids, ids)
            views = whole[batch.step].views_a[0][rank * size : (rank + 1) * size]
            assert torch.equal(batch.views_a[0], views)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_an_epoch_takes_every_image_once(sources: dict[str, ImageSource], kind: str) -> None:
    loaders = [ViewLoader(sources[kind], batch_size=3, rank=rank, world_size=3, **SMALL) for rank in range(3)]
    ids = [int(i) for loader in loaders for batch in take(loader, 5) for i in batch.sample_ids]
    assert sorted(ids) == list(range(45))


def test_the_same_bytes_in_every_kind(sources: dict[str, ImageSource]) -> None:
    for kind in ("parquet", "tar"):
        assert [sources[kind].sample(number).bytes_ for number in range(45)] == [jpeg(number) for number in range(45)]


def test_spawned_workers(sources: dict[str, ImageSource]) -> None:
    loader = ViewLoader(sources["mixed"], batch_size=4, num_workers=1, start_method="spawn", **SMALL)
    plain = ViewLoader(sources["mixed"], batch_size=4, **SMALL)
    assert all(same(one, other) for one, other in zip(take(loader, 3), take(plain, 3), strict=True))


def test_position_100_000_of_a_stream_is_reached_at_once(tmp_path: Path) -> None:
    table = pa.table({"image": [jpeg(number) for number in range(10)] * 2000})
    for number in range(3):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=100)
    source = open_source(str(tmp_path), streaming=True)
    start = time.perf_counter()
    take(ViewLoader(source, batch_size=8, start_step=100_000 // 8, **SMALL), 1)
    assert time.perf_counter() - start < 10


def test_row_groups_are_read_once_and_dropped_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", range(40), group_rows=10)
    source = open_source(str(tmp_path / "a.parquet"), streaming=True)
    shard = source._shards[0]
    read, plain = [], type(shard).read_block

    def counted(self, block: int, column: str):  # type: ignore[no-untyped-def]
        read.append(block)
        return plain(self, block, column)

    monkeypatch.setattr(type(shard), "read_block", counted)
    for _ in range(2):
        for index in range(10, 40):
            source.sample(index)
    assert read == [1, 2, 3]
    monkeypatch.setattr("mcl_hf.data.streams.streams.CACHE_BYTES", 1)
    source = pickle.loads(pickle.dumps(source))  # as a worker gets it: without what has been read
    for index in (15, 5, 15):
        source.sample(index)
    assert read == [1, 2, 3, 1, 0, 1]
    assert len(source._cache) == 1


def test_description_labels_and_groups(tmp_path: Path) -> None:
    for number in range(2):
        kinds = ["dog", "cat", "cow"] if number else ["dog", "dog", "cat"]
        write_parquet(tmp_path / f"train-{number}.parquet", range(3), kind=kinds, photo=["x", "y", f"z{number}"])
    write_parquet(tmp_path / "test-0.parquet", range(2), kind=["dog", "dog"], photo=["x", "x"])
    source = open_source(str(tmp_path), streaming=True, label_column="kind", group_column="photo")
    assert isinstance(source, StreamSource)
    assert source.label_names == ["cat", "cow", "dog"]
    assert source.labels.tolist() == [2, 2, 0, 2, 0, 1]
    assert source.groups.tolist() == [0, 1, 2, 0, 1, 3]
    assert source.sample(5).label == 1
    lines = source.description.splitlines()
    assert lines[0] == "2 local parquet files, read in a stream: 6 images in 2 shards"
    assert "columns: image, kind, photo (images from 'image', 3 labels from 'kind', 4 groups" in lines[1]
    assert "20x16 px, mode RGB" in lines[2]
    assert len(open_source(str(tmp_path), streaming=True, split="test")) == 2


def test_tar_labels_names_and_fingerprint(tmp_path: Path) -> None:
    write_tar(tmp_path / "one" / "a.tar", range(40))
    write_tar(tmp_path / "two" / "a.tar", range(41))
    source = open_source(str(tmp_path / "one" / "a.tar"), label_column="cls")
    assert source.labels.tolist() == [number % 3 for number in range(40)]
    assert source.sample(39).name.endswith("a.tar row 39 (folder/00039.jpg)")
    other = open_source(str(tmp_path / "two" / "*.tar"), label_column="cls")
    assert other.fingerprint != source.fingerprint
    assert open_source(str(tmp_path / "one"), label_column="cls").fingerprint == source.fingerprint


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_in_a_tar_that_are_no_utf8(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for number, name in enumerate((b"caf\xe9.jpg", b"caf\xe8.jpg")):
            member = tarfile.TarInfo(name.decode(errors="surrogateescape"))
            member.size = len(jpeg(number))
            archive.addfile(member, io.BytesIO(jpeg(number)))
    source = open_source(str(tmp_path / "a.tar"))
    assert [source.sample(row).bytes_ for row in range(2)] == [jpeg(0), jpeg(1)]
    assert source.name(1).endswith("a.tar row 1 (caf\\xe8.jpg)")


def test_arrow_files_are_a_table(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"image": [jpeg(number) for number in range(6)]}).save_to_disk(str(tmp_path / "saved"))
    source = open_source(str(tmp_path / "saved"))
    assert "arrow file: 6 images" in source.description
    assert source.sample(4).bytes_ == jpeg(4)


def test_files_that_are_written_anew_are_read_anew(tmp_path: Path) -> None:
    from datasets import Dataset

    for count in (3, 5):
        write_parquet(tmp_path / "new" / "a.parquet", range(count)).replace(tmp_path / "a.parquet")
        source = open_source(str(tmp_path / "a.parquet"), streaming=True)
        assert [source.sample(row).bytes_ for row in range(len(source))] == [jpeg(row) for row in range(count)]
        images = Dataset.from_dict({"image": [jpeg(number) for number in range(count)]})
        images.save_to_disk(str(tmp_path / "saved"), num_shards=count)
        assert len(open_source(str(tmp_path / "saved"))) == count


def test_broken_images_of_a_stream_cost_themselves(tmp_path: Path) -> None:
    images = [jpeg(number) if number % 10 else b"<html>" for number in range(200)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=16)
    source = open_source(str(tmp_path / "a.parquet"), streaming=True)
    batches = take(ViewLoader(source, batch_size=8, max_broken=1.0, **SMALL), 25)
    broken = [line for batch in batches for line in batch.broken]
    assert len(set(broken)) == 20
    assert all("not an image" in line and "a.parquet row" in line for line in broken)
    assert not any(int(index) % 10 == 0 for batch in batches for index in batch.sample_ids)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_is_damaged_stops_with_its_name(tmp_path: Path, num_workers: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", range(64), group_rows=8)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    source = open_source(str(path), streaming=True)
    with pytest.raises(InputError, match="a.parquet: row group") as caught:
        take(ViewLoader(source, batch_size=8, num_workers=num_workers, **SMALL), 8)
    assert "\n" not in str(caught.value)


def test_wrong_streams_are_one_clear_line(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "good" / "a.parquet", range(3))
    write_parquet(tmp_path / "uneven" / "a.parquet", range(3))
    pq.write_table(pa.table({"other": [1]}), tmp_path / "uneven" / "b.parquet")
    write_parquet(tmp_path / "kinds" / "a.parquet", range(3))
    pq.write_table(pa.table({"image": [1]}), tmp_path / "kinds" / "b.parquet")
    (tmp_path / "bad.tar").write_bytes(b"no archive" * 100)
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "both" / "a.tar", range(2))
    write_parquet(tmp_path / "both" / "a.parquet", range(2))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "rows.parquet")
    cases = {
        "uneven": ({"data": str(tmp_path / "uneven"), "streaming": True}, "b.parquet has no column 'image'"),
        "kinds": ({"data": str(tmp_path / "kinds"), "streaming": True}, "b.parquet holds Value('int64'), not images"),
        "bad tar": ({"data": str(tmp_path / "bad.tar")}, "cannot be read as tar"),
        "both": ({"data": str(tmp_path / "both")}, "is no parquet file"),
        "rows": ({"data": str(tmp_path / "rows.parquet"), "streaming": True}, "holds no images"),
        "label": ({"data": str(good), "streaming": True, "label_column": "x"}, "label_column 'x' is not in"),
        "weights": ({"data": [f"{good}=1", str(good)]}, "no weight above 0"),
        "zero": ({"data": [f"{good}=1", f"{good}=0"]}, "no weight above 0"),
        "none": ({"data": []}, "data is empty"),
        "scheme": ({"data": "s3://bucket/a.parquet"}, "no address and no name"),
        "wildcard": ({"data": "https://example.org/*.tar"}, "cannot list its files"),
        "hub form": ({"data": "hf://datasets/only"}, "write hf://datasets/USER/NAME/PATH"),
        "backwards": ({"data": "https://example.org/{9..1}.tar"}, "counts down"),
    }
    for case, (arguments, message) in cases.items():
        with pytest.raises(InputError) as caught:
            open_source(**arguments)
        assert message in str(caught.value), case
        assert "\n" not in str(caught.value), case


def test_shares_of_a_mix_hold_and_each_source_goes_through_its_epochs(sources: dict[str, ImageSource]) -> None:
    order = sources["mixed"].order(3, 8)
    ids = order.index(np.arange(20_000))
    counts = np.bincount(ids, minlength=90)
    assert counts[:45].sum() == 12_000  # of the tar shards
    assert np.ptp(counts[:45]) <= 1
    assert np.ptp(counts[45:]) <= 1
    assert 0.4 < (ids[:500] < 45).mean() < 0.8
    assert order.index(np.array([15_007]))[0] == ids[15_007]
    own = int(ids[11])
    assert (order.substitute(11, 1) < 45) == (own < 45)


def test_a_mix_without_weights_takes_every_image_once(tmp_path: Path) -> None:
    one, other = write_parquet(tmp_path / "a.parquet", range(4)), write_tar(tmp_path / "b.tar", range(12))
    mixed = open_source([str(one), str(other)], streaming=True)
    assert mixed.description.startswith("2 sources mixed: 16 images\nshare 25.00% of local parquet file")
    counts = np.bincount(mixed.order(0, 4).index(np.arange(16 * 625)), minlength=16)
    assert set(counts.tolist()) == {625}
    with pytest.raises(InputError, match="cannot fill 90.0% of a step"):
        open_source([f"{one}=9", f"{other}=1"], streaming=True).order(0, 8)
    with pytest.raises(InputError, match="at least 1 in 10000"):
        open_source([f"{one}=1", f"{other}=1e6"], streaming=True)


def test_an_equals_sign_of_an_address_is_no_weight():
    signed = "https://server/a.parquet?key=x&expires=3600"
    assert split_mix([signed, f"{signed}1"]) == ([signed, f"{signed}1"], None)
    assert split_mix([f"{signed}=0.5", "b=1/2"]) == ([signed, "b"], [0.5, 0.5])


def test_labels_of_a_mix_are_joined_by_name(tmp_path: Path) -> None:
    for name, classes in (("a", ("cat", "dog")), ("b", ("ant", "dog"))):
        for number, kind in enumerate(classes):
            (tmp_path / name / kind).mkdir(parents=True)
            (tmp_path / name / kind / "1.jpg").write_bytes(jpeg(number))
    mixed = open_source([str(tmp_path / "a"), str(tmp_path / "b")], group_column="folder")
    assert mixed.label_names == ["ant", "cat", "dog"]
    assert mixed.labels.tolist() == [1, 2, 0, 2]
    assert mixed.groups.tolist() == [0, 1, 2, 3]
    assert mixed.sample(2).label == 0
    assert mixed.name(2).endswith("b/ant/1.jpg")
