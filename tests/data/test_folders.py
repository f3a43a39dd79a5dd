"""Folders: files chosen by name, tables beside the images, and what is said of a split that chooses nothing."""

import json
from pathlib import Path

import pytest

from mcl_hf.data import ImageSource, open_source
from mcl_hf.data.packing.pack import pack_images
from mcl_hf.errors import InputError
from tests.data.shard_files import jpeg, write_parquet, write_shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number, name in enumerate(("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/deep/3.png.jpg", "b/4.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(number))
    return root


def names(source: ImageSource, root: Path) -> list[str]:
    return [str(Path(source.name(index)).relative_to(root)) for index in range(len(source))]


# ---- files chosen by name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["a/*.jpg"], ["a/1.jpg", "a/2.jpg"]),
        (["b/*.jpg"], ["b/1.jpg", "b/4.jpg"]),
        (["b/**"], ["b/1.jpg", "b/4.jpg", "b/deep/3.png.jpg"]),
        (["**/1.jpg", "./b/4.jpg"], ["a/1.jpg", "b/1.jpg", "b/4.jpg"]),
        (["{a,b}/{1..2}.jpg"], ["a/1.jpg", "a/2.jpg", "b/1.jpg"]),
    ],
)
def test_globs_choose_images_of_a_folder(folder: Path, patterns: list[str], found: list[str]) -> None:
    assert names(open_source(str(folder), data_files=patterns), folder) == found


def test_globs_choose_shards_whatever_their_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", range(3))
    write_parquet(tmp_path / "test-0.parquet", range(4))
    write_shards(tmp_path / "more", "tar", (5, 6))
    assert len(open_source(str(tmp_path), data_files=["test-*.parquet"])) == 4
    assert len(open_source(str(tmp_path), data_files=["*.parquet"])) == 7
    streamed = open_source(str(tmp_path), data_files=["*.parquet"], streaming=True)
    assert len(streamed) == 7 and "2 local parquet files, read in a stream" in streamed.description
    assert len(open_source(str(tmp_path), data_files=["**/part-001.tar"])) == 6
    with pytest.raises(InputError, match="one kind"):
        open_source(str(tmp_path), data_files=["**"])


def test_packing_takes_the_files_chosen(folder: Path, tmp_path: Path) -> None:
    pack_images(str(folder), tmp_path / "out", data_files=["a/*"])
    assert len(open_source(str(tmp_path / "out"))) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data_files": ["c/*"]}, r"matches 'c/\*': there are a/1.jpg, a/2.jpg, b/1.jpg, b/4.jpg, b/deep/3.png.jpg"),
        ({"data_files": []}, "data_files is empty"),
        ({"data_files": ["a/*"], "split": "test"}, "leave split out"),
    ],
)
def test_choices_that_cannot_work(folder: Path, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        open_source(str(folder), **options)
    assert "\n" not in str(caught.value)


def test_choices_of_what_has_no_files_to_choose_from(folder: Path) -> None:
    for data in ("photos", str(folder / "a" / "1.jpg"), "https://host/a.tar", "no such/folder/at/all"):
        with pytest.raises(InputError, match="is none of these: leave data_files out"):
            open_source(data, data_files=["*"])
    with pytest.raises(InputError, match="in a mix write the globs in data itself"):
        open_source([f"{folder}=0.5", "photos=0.5"], data_files=["*"])


def test_a_downloaded_data_set_is_asked_for_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked = []

    def load_dataset(name: str, **options: object) -> Dataset:
        asked.append((name, options))
        return Dataset.from_dict({"image": [{"bytes": jpeg(0), "path": None}]})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = open_source("user/images", data_files=["data/a*.parquet"])
    assert asked == [("user/images", {"data_files": {"train": ["data/a*.parquet"]}, "split": "train"})]
    assert source.description.startswith("Hub data set user/images, files data/a*.parquet: 1 images")


# ---- tables beside the images ----------------------------------------------------------------------------------------


def test_labels_and_groups_from_metadata_csv(folder: Path) -> None:
    (folder / "metadata.csv").write_text(
        "file_name,label,video,folder\nb/4.jpg,dog,v1,x\na/1.jpg,cat,v1,x\na/2.jpg,dog,v2,x\nb/1.jpg,cat,v3,x\n"
        "b/deep/3.png.jpg,cow,v3,x\ngone.jpg,cat,v1,x\n"
    )
    source = open_source(str(folder), label_column="label", group_column="video")
    assert names(source, folder) == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/4.jpg", "b/deep/3.png.jpg"]
    assert source.label_names == ["cat", "cow", "dog"] and source.labels.tolist() == [0, 2, 0, 2, 1]
    assert source.groups.tolist() == [0, 1, 2, 0, 2] and source.group_names == ["v1", "v2", "v3"]
    assert "columns from metadata.csv (1 of 6 rows name files that are not among the images)" in source.description
    before = source.fingerprint
    (folder / "metadata.csv").write_text("file_name,label\na/1.jpg,cat\n")
    assert open_source(str(folder)).fingerprint != before
    with pytest.raises(InputError, match="'label' has 4 empty rows"):
        open_source(str(folder), label_column="label")


def test_metadata_lies_in_any_folder_and_its_names_count_from_there(folder: Path) -> None:
    rows = [{"file_name": "deep/3.png.jpg", "shot": 5}, {"file_name": "./1.jpg", "shot": 6}]
    (folder / "b" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a" / "metadata.csv").write_text("file_name,shot\n1.jpg,5\n2.jpg,7\n")
    assert "columns from 2 metadata tables" in (source := open_source(str(folder))).description
    assert "label" not in source.description  # not equally deep
    (folder / "b" / "4.jpg").unlink()
    source = open_source(str(folder), group_column="shot")
    assert source.groups.tolist() == [0, 1, 2, 0] and source.group_names is None


def test_the_name_of_a_file_is_no_pattern(folder: Path) -> None:
    for name in ("a/x[1].jpg", "a/{2,3}.jpg"):
        (folder / name).write_bytes(jpeg(9))
    source = open_source(str(folder), data_files=["a/x[1].jpg", "./a/{2,3}.jpg"])
    assert names(source, folder) == ["a/x[1].jpg", "a/{2,3}.jpg"]


def test_two_metadata_tables_that_contradict_each_other_are_refused(folder: Path) -> None:
    """The last by name was taken."""
    (folder / "metadata.csv").write_text("file_name,label,weight\na/1.jpg,cat,nan\na/2.jpg,dog,2\n")
    table = folder / "metadata.jsonl"
    table.write_text(
        '{"file_name": "a/1.jpg", "label": "cat", "weight": NaN}\n{"file_name": "b/1.jpg", "label": "cat"}\n'
    )
    assert open_source(str(folder)).description
    table.write_text('{"file_name": "a/1.jpg", "label": "dog"}\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl has label 'dog' for a/1\.jpg, where another of metadata"):
        open_source(str(folder))


def test_metadata_parquet_is_no_shard(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"file_name": ["a/1.jpg"], "text": ["one"]}), folder / "metadata.parquet")
    assert "columns: image, folder, text" in open_source(str(folder)).description


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,label\na/1.jpg,1\n", "has no column 'file_name'"),
        ("file_name,label\nx.jpg,1\n", "no row belongs to an image; the first names 'x.jpg'"),
        ("", "cannot be read"),
    ],
)
def test_metadata_that_cannot_be_used(folder: Path, text: str, said: str) -> None:
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        open_source(str(folder))
    assert "\n" not in str(caught.value)


# ---- rough edges -----------------------------------------------------------------------------------------------------


def test_a_split_without_effect_is_said(folder: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", range(3))
    for data in (str(folder), "photos", str(tmp_path / "a.parquet")):
        assert "has no effect" not in open_source(data).description
        assert "(split 'nope' has no effect: no name tells parts apart)" in open_source(data, split="nope").description
    stream = open_source(str(tmp_path / "a.parquet"), split="val", streaming=True)
    assert "(split 'val' has no effect" in stream.description
    folder.rename(folder.with_name("val"))
    assert "has no effect" not in open_source(str(folder.with_name("val")), split="validation").description


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_captions_is_no_image_column(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(7))
    write_parquet(tmp_path / "a.parquet", range(2), text=["a dog", "a cat"], file=[str(tmp_path / "x.jpg")] * 2)
    source = open_source(str(tmp_path / "a.parquet"), image_column="file", streaming=streaming)
    assert source.sample(1).bytes_ == jpeg(7)
    with pytest.raises(InputError, match=r"'text' of .* no paths of files \('a dog' is the first\)"):
        open_source(str(tmp_path / "a.parquet"), image_column="text", streaming=streaming)


def test_groups_keep_their_text_when_packed(folder: Path, tmp_path: Path) -> None:
    pack_images(str(folder), tmp_path / "out", group_column="folder")
    packed = open_source(str(tmp_path / "out"), group_column="folder")
    assert packed.group_names == ["a", "b", "b/deep"] and packed.groups.tolist() == [0, 0, 1, 1, 2]


def test_labels_of_an_archive_may_be_texts(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, label in enumerate(("dog", "cat", "dog")):
            for name, data in ((f"{number}.jpg", jpeg(number)), (f"{number}.cls", f"{label}\n".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    source = open_source(str(tmp_path / "a.tar"), label_column="cls")
    assert source.label_names == ["cat", "dog"] and source.labels.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="'cls' of .* no paths of files"):
        open_source(str(tmp_path / "a.tar"), image_column="cls")


def test_row_groups_larger_than_the_cache_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", range(8), group_rows=8)
    assert "warning" not in open_source(str(tmp_path), streaming=True).description
    monkeypatch.setattr("mcl_hf.data.streams.streams.CACHE_BYTES", 1000)
    assert "warning: " in (said := open_source(str(tmp_path), streaming=True).description)
    assert "a.parquet has a row group of 0.0 GB" in said and "mcl-hf pack" in said


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg"], {"a.jpg", "b.jpg"}),
        (["images/train/a.jpg", "images/val/b.jpg", "images/test/c.jpg"], {"a.jpg"}),
        (["data/images/Train/a.jpg", "data/images/test-kit/b.jpg", "data/images/valid/c.jpg"], {"a.jpg"}),
        (["images/train1/a.jpg", "images/train2/b.jpg"], {"a.jpg", "b.jpg"}),  # classes, as no other split is there
        (["train/images/a.jpg", "valid/images/b.jpg"], {"a.jpg"}),
    ],
)
def test_splits_of_annotated_layouts_are_no_classes(tmp_path: Path, files: list[str], chosen: set[str]) -> None:
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(number))
    source = open_source(str(tmp_path))
    assert {name.rpartition("/")[2] for name in names(source, tmp_path)} == chosen
    assert ("by class" in source.description) == (len(chosen) == len(files))


def test_a_metadata_column_of_splits_keeps_test_images_out(folder: Path) -> None:
    images = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    words = ["train", "test", "val", *["train"] * (len(images) - 3)]
    rows = [{"file_name": name, "split": word} for name, word in zip(images, words, strict=True)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(str(folder))
    assert len(source) == len(images) - 2
    assert f"rows of split train: {len(images) - 2} of {len(images)} images\n" in source.description
    names = {source.sample(index).name for index in range(len(source))}
    assert names == {str(folder / name) for name, word in zip(images, words, strict=True) if word == "train"}
    validation = open_source(str(folder), split="validation")
    assert len(validation) == 1 and "no effect" not in validation.description
    assert len({source.fingerprint, validation.fingerprint}) == 2
    assert len(open_source(str(folder), data_files="**/*.jpg")) == len(images)  # takes the place of a split
    with pytest.raises(InputError, match="has no split 'holdout': its column of splits has 'train', 'test', 'val'"):
        open_source(str(folder), split="holdout")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows[:-1])))
    with pytest.raises(InputError, match="is empty for some rows"):
        open_source(str(folder))


def test_a_stream_with_a_column_of_splits_warns(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {"image": [{"bytes": jpeg(number), "path": None} for number in range(2)], "split": ["train", "test"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "all.parquet")
    assert len(open_source(str(tmp_path / "all.parquet"))) == 1
    source = open_source(str(tmp_path / "all.parquet"), streaming=True)
    assert len(source) == 2 and "warning: column split chooses no rows" in source.description


def test_a_table_whose_name_only_ends_like_metadata_is_passed_over(folder: Path) -> None:
    (folder / "old-metadata.csv").write_text("file_name,label\na/1.jpg,cat\n")
    assert len(open_source(str(folder))) == 5
