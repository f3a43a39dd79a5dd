"""Packed shards hold what training would have seen, in the source's order, whatever interrupted the packing."""

import errno
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mcl_hf.data import BrokenImage, decode_image, open_source
from mcl_hf.data.packing.pack import _packed, _relative, capped_size, pack_images, shrink_image
from mcl_hf.errors import InputError
from tests.data.odd_images import broken_files, encode, good_files, smooth_picture

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_folder(root: Path, count: int = 10) -> Path:
    """`count` JPEGs in two class folders, every third one larger than the cap of 64 px that the tests use."""
    for number in range(count):
        size = (120, 80) if number % 3 == 0 else (40, 30)
        file = root / ("cat", "dog")[number % 2] / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(smooth_picture(*size) ^ np.uint8(number % 256), "JPEG", quality=90))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ---- one image ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((400, 300), 200, (200, 150)), ((300, 400), 200, (150, 200)), ((200, 3), 200, (200, 3)), ((9999, 2), 10, (10, 1))],
)
def test_the_longer_side_is_capped_and_the_shape_kept(size, side, expected):
    assert capped_size(*size, side) == expected


@pytest.mark.parametrize(("name", "data", "pixels", "tolerance"), list(good_files()))
def test_every_kind_of_image_keeps_its_look(name, data, pixels, tolerance):
    """The reference shrinks the picture that `decode` is known to give; JPEG costs a few grey levels on top."""
    height, width = pixels.shape[:2]
    assert shrink_image(data, max(height, width), 92).data is data
    if min(height, width) < 16:
        return  # nothing to compare in a line of pixels
    shrunk = shrink_image(data, max(height, width) // 2, 92)
    expected = np.asarray(Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.LANCZOS))
    seen = decode_image(shrunk.data)
    assert shrunk.reencoded and seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).mean() < tolerance + 6
    stored = Image.open(io.BytesIO(shrunk.data))
    assert stored.format == "JPEG" and stored.mode in ("L", "RGB") and not stored.getexif()


def test_gray_stays_gray_and_large_jpegs_are_reduced_while_decoding_without_harm():
    large = smooth_picture(1600, 1200)
    gray = shrink_image(encode(large, "PNG", "L"), 100, 92)
    assert Image.open(io.BytesIO(gray.data)).mode == "L"
    seen = decode_image(shrink_image(encode(large, "JPEG", quality=95), 100, 95).data)
    expected = np.asarray(Image.fromarray(large).resize((100, 75), Image.Resampling.LANCZOS))
    assert seen.shape == (75, 100, 3) and np.abs(seen.astype(int) - expected).mean() < 3


@pytest.mark.parametrize(("width", "side"), [(800, 390), (800, 200), (800, 100)])
def test_reduction_while_decoding_leaves_the_detail_that_the_result_can_hold(width, side):
    noise = np.random.default_rng(0).integers(0, 256, (width // 4, width, 3), dtype=np.uint8)
    data = encode(noise, "JPEG", quality=95, subsampling=0)
    size = (side, round(side / 4))
    expected = np.asarray(Image.fromarray(decode_image(data)).resize(size, Image.Resampling.LANCZOS)).astype(int)
    seen = decode_image(shrink_image(data, side, 95).data).astype(int)
    assert seen.mean(axis=2).std() > 0.85 * expected.mean(axis=2).std()


@pytest.mark.parametrize(("name", "data", "reason"), list(broken_files()))
def test_broken_images_are_found_even_where_they_are_small_enough(name, data, reason):
    with pytest.raises(BrokenImage, match=reason or "."):
        shrink_image(data, 512, 92)


# ---- whole packs ----------------------------------------------------------------------------------------------------


def test_a_folder_by_class_comes_back_with_labels_groups_and_names(tmp_path):
    from datasets import load_dataset

    folder = write_folder(tmp_path / "in")
    report = pack_images(str(folder), tmp_path / "out", max_side=64, images_per_shard=4, group_column="folder")
    before, after = (open_source(str(path), group_column="folder") for path in (folder, tmp_path / "out"))
    assert len(contents(tmp_path / "out")) == report.num_shards == 3 and report.continued_shards == 0
    assert (report.total.images, report.total.reencoded, report.total.broken) == (10, 4, [])
    assert report.total.bytes_before == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert after.label_names == before.label_names == ["cat", "dog"]
    assert after.labels.tolist() == before.labels.tolist() and after.groups.tolist() == before.groups.tolist()
    for index in range(10):
        old, new = before.sample(index).bytes_, after.sample(index).bytes_
        large = max(decode_image(old).shape) > 64
        assert (new != old) == large and max(decode_image(new).shape) == (64 if large else 40)
    table = load_dataset("parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train")
    assert table.column_names == ["image", "name", "folder", "label"]
    assert table[0]["name"] == "cat/000.jpg" and table[0]["image"].size == (64, 43)
    assert table.features["label"].names == ["cat", "dog"]
    # the whole folder opens too, whatever else lies in it
    assert len(load_dataset(str(tmp_path / "out"), split="train")) == 10


def test_parquet_with_columns_of_other_names(tmp_path):
    images = [{"bytes": encode(smooth_picture(), "PNG"), "path": f"{row}.png"} for row in range(3)]
    table = pa.table({"photo": images, "kind": ["b", "a", "b"], "shot": [7, 9, 7]})
    pq.write_table(table, tmp_path / "in.parquet")
    pack_images(str(tmp_path / "in.parquet"), tmp_path / "out", label_column="kind", group_column="shot")
    packed = open_source(str(tmp_path / "out"), label_column="kind", group_column="shot")
    assert packed.labels.tolist() == [1, 0, 1] and packed.label_names == ["a", "b"]
    assert packed.groups.tolist() == [0, 1, 0]
    assert [packed.sample(row).bytes_ for row in range(3)] == [image["bytes"] for image in images]
    pack_images(str(tmp_path / "in.parquet"), tmp_path / "streamed", group_column="shot", streaming=True)
    streamed = open_source(str(tmp_path / "streamed"), group_column="shot")
    assert [streamed.sample(row).bytes_ for row in range(3)] == [image["bytes"] for image in images]
    assert streamed.groups.tolist() == [0, 1, 0] and streamed.name(2) == "row 2 (2.png)"
    assert packed.name(2) == "row 2 (2.png)"  # not: row 2 (row 2 (2.png))
    assert pq.read_table(next((tmp_path / "out").glob("*.parquet")))["name"].to_pylist()[2] == "row 2 (2.png)"


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("in/cat/1.jpg", "cat/1.jpg"),
        ("{here}/in/cat/1.jpg", "cat/1.jpg"),
        ("elsewhere/1.jpg", "elsewhere/1.jpg"),
        ("row 3 (a.jpg)", "row 3 (a.jpg)"),
        ("https://host/in/a.tar row 3 (a.jpg)", "https://host/in/a.tar row 3 (a.jpg)"),
    ],
)
def test_names_do_not_tell_where_the_source_lies(tmp_path, monkeypatch, name, relative):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for data in ("in", "./in/", "in/*.tar", f"{tmp_path}/in/a.tar"):
        given = name.format(here=tmp_path)
        if given.startswith("in/") and data.startswith("/"):
            continue  # a source that was given by its whole path names its files so
        assert _relative(given, data) == relative, data


def test_broken_images_are_named_and_left_out(tmp_path):
    folder = write_folder(tmp_path / "in", 6)
    for name in ("cat/000.jpg", "cat/002.jpg", "cat/004.jpg"):  # the whole first shard: it gets no file
        (folder / name).write_bytes(b"<html>")
    report = pack_images(str(folder), tmp_path / "out", images_per_shard=3)
    assert [name for name, _ in report.total.broken] == ["cat/000.jpg", "cat/002.jpg", "cat/004.jpg"]
    assert "not an image" in report.total.broken[0][1]
    assert sorted(contents(tmp_path / "out")) == ["broken-images.log", "images-00001-of-00002.parquet"]
    assert (tmp_path / "out" / "broken-images.log").read_text().startswith("cat/000.jpg: not an image")
    assert len(open_source(str(tmp_path / "out"))) == 3
    again = pack_images(str(folder), tmp_path / "out", images_per_shard=3)
    assert again.continued_shards == 2 and again.total == report.total


def test_number_of_processes_has_no_influence(tmp_path):
    folder = write_folder(tmp_path / "in", 30)
    seen = []
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        pack_images(str(folder), out, max_side=64, images_per_shard=11, num_workers=workers)
        seen.append(contents(out))
    assert seen[0] == seen[1] and len(seen[0]) == 3


def test_what_workers_get_can_be_sent_to_a_new_process(tmp_path):
    folder = write_folder(tmp_path / "in", 2)
    pack_one = pickle.loads(pickle.dumps(partial(_packed, open_source(str(folder)), str(folder), 64, 92)))
    assert pack_one(0).name == "cat/000.jpg" and pack_one(0).report.reencoded


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_pack_continues_to_the_same_bytes(tmp_path):
    folder = write_folder(tmp_path / "in", 400)
    options = ["--max-side", "64", "--images-per-shard", "8", "--num-workers", "1"]
    command = [sys.executable, "-m", "mcl_hf.cli", "pack", str(folder), str(tmp_path / "killed"), *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    there = contents(tmp_path / "killed")
    assert 3 <= len(there) < 50
    for name in there:  # whole, each of them
        assert pq.read_table(tmp_path / "killed" / name).num_rows == 8
    report = pack_images(str(folder), tmp_path / "killed", max_side=64, images_per_shard=8)
    assert len(there) - 1 <= report.continued_shards <= len(there)  # the last one may lack its report
    pack_images(str(folder), tmp_path / "whole", max_side=64, images_per_shard=8)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed" / ".pack").glob("*.part"))


def test_a_shard_that_was_cut_short_is_made_again(tmp_path):
    folder = write_folder(tmp_path / "in")
    pack_images(str(folder), tmp_path / "out", images_per_shard=4)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "images-00001-of-00003.parquet").write_bytes(b"PAR1")
    (tmp_path / "out" / "images-00002-of-00003.parquet").unlink()
    assert pack_images(str(folder), tmp_path / "out", images_per_shard=4).continued_shards == 1
    assert contents(tmp_path / "out") == before


def test_progress_starts_where_the_last_call_stopped(tmp_path):
    folder = write_folder(tmp_path / "in")
    pack_images(str(folder), tmp_path / "out", images_per_shard=4)
    (tmp_path / "out" / ".pack" / "images-00000.json").unlink()
    seen = []
    pack_images(str(folder), tmp_path / "out", images_per_shard=4, on_progress=lambda *numbers: seen.append(numbers))
    assert seen == [(done, 10) for done in range(6, 11)]


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_side": 0}, "max_side is 0 px"),
        ({"max_side": 70_000}, "lies between 1 and 65500"),
        ({"jpeg_quality": 100}, "jpeg_quality is 100"),
        ({"images_per_shard": 0}, "images_per_shard is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"group_column": "nothing"}, "group_column 'nothing' is not in"),
    ],
)
def test_settings_out_of_range_leave_nothing_behind(tmp_path, options, said):
    folder = write_folder(tmp_path / "in", 2)
    with pytest.raises(InputError, match=said):
        pack_images(str(folder), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    folder = write_folder(tmp_path / "in", 4)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out, said in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "other", "holds something else already"),
        (folder / "packed", "lies inside of"),
        (folder, "lies inside of"),
        (tmp_path / "file" / "below", "cannot be written"),
    ):
        with pytest.raises(InputError, match=said):
            pack_images(str(folder), out)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_pack_is_continued_only_with_the_same_data_and_settings(tmp_path):
    folder = write_folder(tmp_path / "in", 4)
    pack_images(str(folder), tmp_path / "out", max_side=64)
    with pytest.raises(InputError, match="was begun with max_side 64, jpeg_quality 92"):
        pack_images(str(folder), tmp_path / "out", max_side=65)
    (folder / "cat" / "new.jpg").write_bytes(encode(smooth_picture(), "JPEG"))
    with pytest.raises(InputError, match="holds a pack of other data"):
        pack_images(str(folder), tmp_path / "out", max_side=64)


def test_a_full_disk_says_how_to_go_on_and_keeps_whole_shards(tmp_path, monkeypatch):
    folder, synced = write_folder(tmp_path / "in"), []
    real = os.fsync

    def full_after_six(handle: int) -> None:
        synced.append(handle)
        if len(synced) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_six)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): .* same command again"):
            pack_images(str(folder), tmp_path / "out", images_per_shard=4)
    assert pack_images(str(folder), tmp_path / "out", images_per_shard=4).continued_shards == 1


def test_a_disk_that_syncs_no_folders_takes_a_pack(tmp_path, monkeypatch):
    def files_alone(handle: int, real=os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    assert pack_images(str(write_folder(tmp_path / "in", 4)), tmp_path / "out").total.images


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_is_gone_stops_the_pack_in_one_line(tmp_path, monkeypatch, workers):
    folder = write_folder(tmp_path / "in")
    opened = open_source(str(folder))

    def gone(index):
        raise InputError("the server is gone")

    monkeypatch.setattr(opened, "sample", gone)
    monkeypatch.setattr("mcl_hf.data.packing.pack.open_source", lambda *arguments, **options: opened)
    with pytest.raises(InputError, match="^the server is gone$"):
        pack_images(str(folder), tmp_path / "out", num_workers=workers)


def test_nothing_that_can_be_decoded_is_an_error_with_examples(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        pack_images(str(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"not one of the 1 images .* a\.jpg: the file has zero bytes"):
        pack_images(str(tmp_path / "in"), tmp_path / "out")


def test_a_column_that_would_fall_on_pack_s_own_is_refused(tmp_path):
    images = [{"bytes": encode(smooth_picture(), "PNG"), "path": "a.png"}] * 2
    pq.write_table(pa.table({"image": images, "name": ["x", "y"]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="column 'name' cannot be carried along"):
        pack_images(str(tmp_path / "in.parquet"), tmp_path / "out", group_column="name")


def test_the_report_of_a_shard_is_plain_data(tmp_path):
    pack_images(str(write_folder(tmp_path / "in", 2)), tmp_path / "out")
    stored = json.loads((tmp_path / "out" / ".pack" / "images-00000.json").read_text())
    assert stored["images"] == 2 and stored["file_bytes"] > 0 and stored["broken"] == []
