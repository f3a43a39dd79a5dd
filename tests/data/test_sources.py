"""Local sources of every shape open to the same thing, and what cannot be opened says why in one line."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as HubImage
from PIL import Image

from mcl_hf.data import BrokenImage, ImageSource, decode_image, open_source
from mcl_hf.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def jpeg(value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 10, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_files(root: Path, *names: str) -> str:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(10 * number))
    return str(root)


def write_parquet(path: Path, rows: int = 3, **columns: list | pa.Array) -> Path:
    images = [{"bytes": jpeg(20 * row), "path": f"{row}.jpg"} for row in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def names(source: ImageSource, root: Path) -> list[str]:
    return [str(Path(source.sample(index).name).relative_to(root)) for index in range(len(source))]


def test_the_embedded_photos() -> None:
    source = open_source("photos", group_column="source_image")
    assert len(source) > 500
    assert source.labels is None
    assert source.groups.dtype == np.int64
    assert 100 < source.groups.max() + 1 < len(source) / 2  # many crops come from one photo
    assert decode_image(source.sample(0).bytes_).shape == (208, 208, 3)
    assert "embedded photos" in source.description
    assert "208x208 px, mode RGB" in source.description


def test_a_flat_folder_takes_every_image_whatever_its_name(tmp_path: Path) -> None:
    write_files(
        tmp_path, "b.JPG", "a.jpeg", "test_1.jpg", "validation.jpg", "odd [1]*.jpg", ".hidden.jpg", ".git/x.jpg"
    )
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert names(source, tmp_path) == ["a.jpeg", "b.JPG", "odd [1]*.jpg", "test_1.jpg", "validation.jpg"]
    assert source.labels is None
    assert source.num_labels == 0
    assert decode_image(source.sample(2).bytes_).shape == (12, 10, 3)


def test_a_folder_by_class_has_labels(tmp_path: Path) -> None:
    source = open_source(write_files(tmp_path, "dog/1.jpg", "cat/1.jpg", "cat/2.jpg"))
    assert source.label_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.sample(2).label == 1
    assert "by class, 2 classes" in source.description


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = open_source(write_files(tmp_path, "train/1.jpg", "car/1.jpg"))
    assert source.label_names == ["car", "train"]


def test_nested_folders_have_groups_by_folder(tmp_path: Path) -> None:
    source = open_source(write_files(tmp_path, "v1/a.jpg", "v1/b.jpg", "v2/deep/a.jpg"), group_column="folder")
    assert source.groups.tolist() == [0, 0, 1]
    assert source.labels is None  # not equally deep, so folders are no classes


def test_split_folders(tmp_path: Path) -> None:
    data = write_files(
        tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg", "val/dog/3.jpg"
    )
    assert len(open_source(data)) == 2
    validation = open_source(data, split="validation")
    assert validation.label_names == ["cat", "dog"]
    assert len(validation) == 3
    with pytest.raises(InputError, match="no split 'test': its folders are train, val"):
        open_source(data, split="test")


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", "1.jpg")
    write_files(tmp_path / "data", "a/2.jpg")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data" / "a")
    assert len(open_source(str(tmp_path / "data"))) == 2


def test_parquet_file_folder_and_glob(tmp_path: Path) -> None:
    odd = tmp_path / "my [data]"
    for number in range(2):
        write_parquet(odd / f"part-{number}.parquet", label=[0, 1, number], photo=["a", "b", "a"])
    one = open_source(str(odd / "part-0.parquet"), label_column="label")
    assert one.labels.tolist() == [0, 1, 0]
    assert one.label_names is None
    assert one.num_labels == 2
    folder = open_source(str(odd), group_column="photo")
    assert folder.groups.tolist() == [0, 1, 0, 0, 1, 0]
    assert folder.labels is None  # plain integers are labels only when asked for
    assert folder.sample(4).name == "row 4 (1.jpg)"
    assert decode_image(folder.sample(4).bytes_)[0, 0, 0] == 20
    assert len(open_source(str(tmp_path / "my*" / "part-?.parquet"))) == 6


def test_parquet_parts_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", 4)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", 2)
    assert len(open_source(str(tmp_path))) == 4
    assert len(open_source(str(tmp_path), split="test")) == 2
    with pytest.raises(InputError, match="belong to test, train"):
        open_source(str(tmp_path), split="validation")


def test_text_labels_and_columns_of_bytes_or_paths(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(60))
    columns = {"photo": [jpeg(10)] * 3, "file": [str(tmp_path / "x.jpg")] * 3, "kind": ["dog", "cat", "dog"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"), label_column="kind")
    assert source.label_names == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, 1]
    assert decode_image(source.sample(1).bytes_)[0, 0, 0] == 10
    by_path = open_source(str(tmp_path / "t.parquet"), image_column="file")
    assert decode_image(by_path.sample(1).bytes_)[0, 0, 0] == 60


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one = open_source(write_files(tmp_path / "one", "a.jpg", "b.jpg"))
    two = open_source(write_files(tmp_path / "two", "a.jpg", "b.jpg"))
    more = open_source(write_files(tmp_path / "more", "a.jpg", "b.jpg", "c.jpg"))
    assert one.fingerprint == two.fingerprint != more.fingerprint
    (tmp_path / "two" / "b.jpg").write_bytes(b"shorter")
    assert open_source(str(tmp_path / "two")).fingerprint != one.fingerprint


def test_a_file_that_vanished_is_a_broken_image(tmp_path: Path) -> None:
    source = open_source(write_files(tmp_path, "a.jpg", "b.jpg"))
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        source.sample(1)
    assert source.name(1).endswith("b.jpg")


def test_a_broken_first_image_is_described(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    write_files(tmp_path, "b.jpg")
    assert "which is broken: the file has zero bytes" in open_source(str(tmp_path)).description


def _wrong_inputs(root: Path) -> dict[str, tuple[dict, str]]:
    (root / "empty").mkdir()
    write_parquet(root / "good" / "t.parquet", label=[0, 1, 2], none=[None, "a", "b"], minus=[-1, 0, 1])
    pq.write_table(pa.table({"x": [jpeg()], "y": [jpeg()]}), root / "two.parquet")
    pq.write_table(pa.table({"x": [1.5]}), root / "numbers.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), root / "rows.parquet")
    (root / "damaged.parquet").write_bytes(b"PAR1 no such thing")
    (root / "notes.txt").write_text("x")
    write_parquet(root / "both" / "t.parquet")
    write_files(root / "both", "a.jpg")
    good = str(root / "good")
    return {
        "name": ({"data": "someone/imagenet"}, "could not be loaded as a data set of the Hub"),
        "nothing": ({"data": str(root / "empty")}, "holds no images"),
        "glob": ({"data": str(root / "*.tar")}, "no file matches"),
        "other-file": ({"data": str(root / "notes.txt")}, "is no parquet file"),
        "damaged": ({"data": str(root / "damaged.parquet")}, "cannot be read as parquet"),
        "both": ({"data": str(root / "both")}, "both images and parquet files"),
        "no-rows": ({"data": str(root / "rows.parquet")}, "tables have no rows"),
        "two-candidates": ({"data": str(root / "two.parquet")}, "columns x, y could all be the images"),
        "no-candidate": ({"data": str(root / "numbers.parquet")}, "no column holds images"),
        "no-image-column": ({"data": good, "image_column": "picture"}, "its columns are image, label, none, minus"),
        "not-an-image": ({"data": good, "image_column": "label"}, "not images, bytes or paths"),
        "no-label-column": ({"data": good, "label_column": "class"}, "label_column 'class' is not in"),
        "no-group-column": ({"data": good, "group_column": "video"}, "group_column 'video' is not in"),
        "image-as-label": ({"data": good, "label_column": "image"}, "single numbers or texts"),
        "empty-group": ({"data": good, "group_column": "none"}, "1 empty rows"),
        "negative": ({"data": good, "label_column": "minus"}, "no label"),
    }


def test_wrong_input_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for case, (arguments, message) in _wrong_inputs(tmp_path).items():
        with pytest.raises(InputError) as caught:
            open_source(**arguments)
        assert message in str(caught.value), case
        assert "\n" not in str(caught.value), case


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    for folder, rows in {"run [1]": 2, "run 1": 3}.items():
        write_parquet(tmp_path / folder / "a.parquet", rows)
    assert len(open_source(f"{tmp_path}/run [1]/*.parquet")) == 2
    (tmp_path / "run [1]" / "a.parquet").unlink()
    (tmp_path / "run [1]").rmdir()
    assert len(open_source(f"{tmp_path}/run [1]/*.parquet")) == 3


def test_data_that_were_saved_again_are_those_of_now(tmp_path):
    for shards in (1, 2):
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        Dataset.from_dict({"image": [jpeg()] * 4}).save_to_disk(tmp_path / "saved", num_shards=shards)
        assert len(open_source(tmp_path / "saved")) == 4


def test_paths_are_taken_as_their_texts(tmp_path):
    write_files(tmp_path, "a/0.jpg", "b/1.jpg")
    assert len(open_source(tmp_path / "a")) == 1 and len(open_source(tmp_path / x for x in "ab")) == 2


@pytest.mark.parametrize("data", ["", ["photos", ""]])
def test_an_empty_name_is_not_the_current_folder(data, tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data is empty"):
        open_source(data)


@pytest.mark.parametrize("data", ["./no-such", "../no-such", "a/b/c", "/no/such", "~/no-such"])
def test_a_misspelt_folder_is_told_without_asking_the_hub(data, monkeypatch):
    monkeypatch.setattr("mcl_hf.data.open.hub_table", lambda *given: pytest.fail("the Hub was asked"))
    with pytest.raises(InputError, match="no local file or folder"):
        open_source(data)


@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_number_classes_differently_are_refused_where_labels_are_asked_for(
    tmp_path: Path, streaming
) -> None:
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):  # as two packs of parts of a folder may
        columns = {"image": [{"bytes": jpeg(), "path": None}] * 2, "label": [0, 1]}
        kinds = Features({"image": HubImage(), "label": ClassLabel(names=classes)})
        Dataset.from_dict(columns, features=kinds).to_parquet(str(tmp_path / f"{name}.parquet"))
    alone = open_source(str(tmp_path), streaming=streaming)
    assert len(alone) == 4 and alone.labels is None
    with pytest.raises(InputError, match=r"b.parquet and .*a.parquet number the classes of column 'label' differently"):
        open_source(str(tmp_path), streaming=streaming, label_column="label")
    two = open_source(
        [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")], streaming=streaming, label_column="label"
    )
    assert two.labels is not None and two.labels.tolist() == [0, 1, 1, 0]
