"""Images as people have them: splits of shard folders, caches, leftovers of archives, links, odd names and files."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mcl_hf.cli import main
from mcl_hf.data import open_source
from mcl_hf.data.decode import BrokenImage, decode_image, open_image
from mcl_hf.detection import open_detection_data
from mcl_hf.errors import InputError


def jpeg(level=128, size=(24, 16)):
    packed = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(packed, "JPEG")
    return packed.getvalue()


def write(file, level=128):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(level))


def names(source):
    return [source.sample(index).name for index in range(len(source))]


def write_parquet(file, count):
    file.parent.mkdir(parents=True, exist_ok=True)
    objects = {"bbox": [[1.0, 1.0, 8.0, 8.0]], "category": ["thing"]}
    rows = [{"image": {"bytes": jpeg(20 * n), "path": f"{n}.jpg"}, "objects": objects} for n in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_folders_of_shards_tell_splits_for_images_and_for_annotations(tmp_path):
    write_parquet(tmp_path / "train" / "0000.parquet", 3)
    write_parquet(tmp_path / "test" / "0000.parquet", 2)
    for split, count in (("train", 3), ("test", 2)):
        assert len(open_source(str(tmp_path), split=split)) == count
        assert len(open_detection_data(tmp_path, split=split)) == count
    with pytest.raises(InputError, match="no split 'validation'"):
        open_source(str(tmp_path), split="validation")
    assert len(open_source(str(tmp_path / "test"))) == 2  # named itself, it is all of it


def test_files_that_tell_no_split_beside_two_that_do_are_left_out_and_said_so(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", 3)
    write_parquet(tmp_path / "test-0.parquet", 2)
    write_parquet(tmp_path / "other.parquet", 1)
    source = open_source(str(tmp_path))
    assert len(source) == 3 and "1 files that tell no split left out" in source.description


def test_another_split_than_train_is_never_made_of_files_that_do_not_tell_it(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", 3)
    write_parquet(tmp_path / "other.parquet", 1)
    assert len(open_source(str(tmp_path))) == 4
    with pytest.raises(InputError, match="no split 'test': its files belong to train"):
        open_source(str(tmp_path), split="test")
    (tmp_path / "train-0.parquet").rename(tmp_path / "val-0.parquet")
    assert len(open_source(str(tmp_path), split="validation")) == 3


def test_caches_of_datasets_are_no_data(tmp_path):
    from datasets import Dataset, DatasetDict

    def rows(count):
        return Dataset.from_dict({"image": [{"bytes": jpeg(9 * n), "path": None} for n in range(count)]})

    DatasetDict({"train": rows(4), "test": rows(2)}).save_to_disk(str(tmp_path / "saved"))
    part = tmp_path / "saved" / "train"
    data = part / json.loads((part / "state.json").read_text())["_data_files"][0]["filename"]
    (part / "cache-0123.arrow").write_bytes(data.read_bytes())
    (part / "indices.arrow").write_bytes(data.read_bytes())
    assert len(open_source(str(tmp_path / "saved"))) == 4
    assert len(open_source(str(tmp_path / "saved"), split="test")) == 2


def test_other_folders_beside_splits_make_no_classes(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write(tmp_path / split / f"{number}.jpg")
    write(tmp_path / "__MACOSX" / "train" / "0.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    source = open_source(str(tmp_path))
    assert len(source) == 3 and source.labels is None
    write(tmp_path / "extra" / "0.jpg")
    source = open_source(str(tmp_path))
    assert len(source) == 3 and "extra left out" in source.description


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("bus", "train"):
        write(tmp_path / name / "0.jpg")
    assert open_source(str(tmp_path)).label_names == ["bus", "train"]


def test_links_pipes_and_odd_names_cost_themselves_only(tmp_path):
    folder = tmp_path / "images"
    write(folder / "a" / "0.jpg")
    write(folder / "b" / "1.jpg")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "b")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "photo.HEIC").write_bytes(b"x")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(jpeg())
    with pytest.raises(InputError, match="is a pipe or a device"):
        open_source(str(folder / "pipe.jpg"))
    source = open_source(str(folder))
    assert len(source) == 3  # two images and the dangling link, which is broken when it is read
    for told in ("1 pipe(s) or device(s)", "1 .heic file(s), which cannot be decoded,", "no UTF-8"):
        assert told in source.description
    broken = [index for index in range(3) if source.name(index).endswith("gone.jpg")]
    with pytest.raises(BrokenImage):
        source.sample(broken[0])


def test_rows_that_name_devices_are_broken(tmp_path):
    pq.write_table(pa.table({"image": ["/dev/zero", str(tmp_path / "0.jpg")]}), tmp_path / "t.parquet")
    write(tmp_path / "0.jpg")
    source = open_source(str(tmp_path / "t.parquet"), allow_outside_paths=True)
    with pytest.raises(BrokenImage, match="regular"):
        source.sample(0)
    assert source.sample(1).bytes_[:2] == b"\xff\xd8"


def test_a_column_of_bytes_beside_images_is_not_the_images(tmp_path):
    write(tmp_path / "0.jpg")
    pq.write_table(pa.table({"file_name": ["0.jpg"], "thumbnail": [b"xy"]}), tmp_path / "metadata.parquet")
    assert decode_image(open_source(str(tmp_path)).sample(0).bytes_).shape == (16, 24, 3)


def test_a_second_row_for_an_image_is_refused(tmp_path):
    write(tmp_path / "0.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,place\n0.jpg,a\n0.jpg,b\n")
    with pytest.raises(InputError, match="two rows"):
        open_source(str(tmp_path))


def test_archives_of_images_with_dots_in_their_names_lose_none(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, content in (
            ("2024.05.01.jpg", jpeg(1)), ("2024.05.02.jpg", jpeg(2)), ("2024.05.02.cls", b"7"), ("0001.jpg", jpeg(3)),
            ("0001.seg.png", jpeg(4)), ("0001.cls", b"5"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    source = open_source(str(tmp_path / "t.tar"))
    assert len(source) == 3 and sorted(decode_image(source.sample(n).bytes_)[0, 0, 0] for n in range(3)) == [1, 2, 3]


def test_two_files_of_one_name_in_an_archive_are_refused(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, level in (("a.jpg", 1), ("a.png", 2), ("b.jpg", 3), ("a.jpg", 4)):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(level))
            archive.addfile(member, io.BytesIO(jpeg(level)))
    with pytest.raises(InputError, match=r"t\.tar cannot be read as tar: two of its files are called 'a\.jpg'"):
        open_source(str(tmp_path / "t.tar"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_orientation_is_applied_once_and_can_be_left_out(kind, orientation):
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(4, 6).repeat(3).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, kind, exif=exif)
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels),
    }[orientation]  # fmt: skip
    opened = open_image(packed.getvalue())
    assert (opened.height, opened.width) == turned.shape[:2] and opened.stored_size == (6, 4)
    assert (opened.decode() == turned).all()
    stored = open_image(packed.getvalue())
    stored.upright = False
    assert (stored.decode() == pixels).all()


def test_a_jpeg_of_very_many_scans_is_broken():
    with pytest.raises(BrokenImage, match="scans"):
        open_image(jpeg() + b"\xff\xda\0\x08" * 600)


@pytest.mark.parametrize("column", ["text", "struct"])
@pytest.mark.parametrize("absolute", [True, False])
def test_paths_in_tables_stay_in_the_folder_of_the_data(tmp_path, monkeypatch, column, absolute):
    write(tmp_path / "data" / "in.jpg")
    write(tmp_path / "secret.jpg")
    monkeypatch.chdir(tmp_path)
    paths = ["data/in.jpg", str(tmp_path / "secret.jpg") if absolute else "data/../secret.jpg"]
    rows = paths if column == "text" else [{"bytes": None, "path": path} for path in paths]
    if column == "struct":
        rows.append({"bytes": jpeg(), "path": "/elsewhere.jpg"})  # a name, nothing that is read
    pq.write_table(pa.table({"image": rows}), tmp_path / "data" / "t.parquet")
    for spec in ("data/t.parquet", str(tmp_path / "data" / "*.parquet")):
        with pytest.raises(InputError, match=r"secret\.jpg: lies outside of .*data: give --allow-outside-paths"):
            open_source(spec)
        assert len(open_source(spec, allow_outside_paths=True)) == len(rows)
    with pytest.raises(BrokenImage, match="lies outside of"):
        open_source("data/t.parquet", streaming=True).sample(1)
    assert open_source("data/t.parquet", streaming=True, allow_outside_paths=True).sample(1).bytes_[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain", "--recipe", "demo", "--output-dir", "run", "--data", "data"],
        ["show", "data", "--recipe", "demo", "--data", "data"],
        ["pack", "data", "packed"],
        ["probe", "random", "--data", "data"],
    ],
)
def test_every_command_refuses_paths_that_leave_the_data(tmp_path, monkeypatch, capsys, command):
    write(tmp_path / "secret.jpg")
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": [str(tmp_path / "secret.jpg")]}), tmp_path / "data" / "t.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "secret.jpg: lies outside of" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "secret.jpg"]
    if command[0] == "pack":
        assert main([*command, "--allow-outside-paths", "--num-workers", "0"]) == 0


def test_names_of_data_reach_the_terminal_as_text(tmp_path, monkeypatch, capsys):
    write(tmp_path / "data" / "a.jpg")
    (tmp_path / "data" / "\x1b]0;owned\x07\nmcl-hf: done.jpg").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "data", "packed", "--num-workers", "0"]) == 0
    assert main(["show", "data", "--recipe", "demo", "--data", "data", "--pictures", "2", "--num-workers", "0"]) == 0
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable() and "owned\\x07\\x0amcl-hf: done.jpg" in said


@pytest.mark.slow
def test_damaged_arrow_files_are_one_line_and_end_no_process(tmp_path):
    """Offsets beyond the file are followed unchecked when a row is read, and the kernel ends the process."""
    from datasets import Dataset

    Dataset.from_dict({"image": [{"bytes": jpeg(9 * n), "path": None} for n in range(6)]}).save_to_disk(str(tmp_path))
    file = next(tmp_path.glob("data-*.arrow"))
    whole, sizes = file.read_bytes(), np.cumsum([0, *(len(jpeg(9 * n)) for n in range(6))])
    offsets = sizes.astype("<i4").tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(offsets) + 8 : whole.index(offsets) + 12] = (2**30).to_bytes(4, "little")
    odd = (bytes(damaged), whole[: len(whole) // 2], whole[:100], b"", b"ARROW1" + bytes(90))
    (tmp_path / "odd").mkdir()
    for number, content in enumerate(odd):
        (tmp_path / "odd" / f"{number}.arrow").write_bytes(content)
    code = """
import sys
from mcl_hf.data import open_source
from mcl_hf.errors import InputError
for file in sys.argv[1:]:
    try:
        source = open_source(file)
        print(sum(sum(source.sample(index).bytes_) for index in range(len(source))))
    except InputError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, str(file), *map(str, sorted((tmp_path / "odd").iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    first, *others = done.stdout.splitlines()
    assert done.returncode == 0 and first == str(sum(sum(jpeg(9 * n)) for n in range(6))), done.stderr
    assert len(others) == len(odd) and all("cannot be read as arrow: " in line for line in others), others


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metadata.jsonl", '{"file_name": "a\\u0000.jpg", "label": 1}', r"no row belongs to an image"),
        ("metadata.jsonl", '{"file_name": "\\u001b[31mred.jpg", "label": 1}', r"names '\\x1b\[31mred.jpg'"),
        ("metadata.csv", "file_name,label\n/etc/passwd,1\n", r"names '/etc/passwd'"),
        ("metadata.csv", b"file_name,label\n\xff\xfe.jpg,1\n", "column 'file_name' is no text in UTF-8"),
        ("metadata.jsonl", b'{"file_name": "\xff.jpg", "label": 1}\n', "cannot be read"),
        ("metadata.jsonl", '{"file_name": null, "label": 1}', "no row belongs to an image"),
        ("metadata.jsonl", '{"file_name": ["0.jpg"], "label": 1}', "no row belongs to an image"),
        ("metadata.jsonl", "", "cannot be read"),
    ],
)
def test_names_in_metadata_that_no_file_has(tmp_path, capsys, file, content, said):
    write(tmp_path / "0.jpg")
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["show", "data", "--data", str(tmp_path), "--out", str(tmp_path / "out.png")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, line) and line.isprintable(), line
