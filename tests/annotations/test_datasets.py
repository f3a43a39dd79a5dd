"""Every format gives the same plain type, with the same boxes, classes and masks as what was written."""

import io
import json
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.annotations.voc import VOC_CLASSES
from mcl_hf.errors import InputError
from tests.scenes import SHAPES, write_scenes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path: Path, width: int = 40, height: int = 30, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


# ---- COCO -----------------------------------------------------------------------------------------------------------


def test_a_coco_folder(tmp_path):
    folder = write_scenes(tmp_path, 6, num_classes=3)
    write_scenes(tmp_path, 2, split="val2017")
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    data = open_detection_data(folder)
    assert len(data) == 6 and data.num_labels == 3 and data.category_ids == [3, 6, 9]
    assert data.id2label == {0: SHAPES[0], 1: SHAPES[1], 2: SHAPES[2]} and data.label2id[SHAPES[1]] == 1
    assert str(data.report) == "nothing to report" and data.description.startswith("COCO format")
    number = 0
    for item, image in zip(data, content["images"], strict=True):
        assert item.image_id == image["id"] and Path(item.name).name == image["file_name"]
        assert item.decode().shape == (item.height, item.width, 3) == (96, 128, 3)
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(own) == len(item.boxes) == data.num_objects[image["id"] - 1]
        masks = item.masks()
        for n, annotation in enumerate(own):
            x, y, w, h = annotation["bbox"]
            assert item.boxes[n].tolist() == [x, y, x + w, y + h]
            assert item.labels[n] == annotation["category_id"] // 3 - 1
            assert item.areas[n] == annotation["area"] == masks[n].sum()
            inside = masks[n].nonzero()
            assert abs(inside[1].min() - x) < 1.5 and abs(inside[0].max() + 1 - (y + h)) < 1.5
            number += 1
    assert number == len(content["annotations"])
    assert len(open_detection_data(folder, split="val")) == len(open_detection_data(folder, split="validation")) == 2
    assert len(open_detection_data(folder / "annotations" / "instances_val2017.json")) == 2
    with pytest.raises(InputError, match=r"no annotations of split 'test': its splits are .*instances_train\.json"):
        open_detection_data(folder, split="test")


def test_a_folder_as_roboflow_exports_it(tmp_path):
    for split, count in (("train", 2), ("valid", 1)):
        folder = write_scenes(tmp_path / "made", count, split=split, masks=None)
        content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        content["categories"].insert(0, {"id": 0, "name": "shape", "supercategory": "none"})
        (folder / split).rename(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    for file in (tmp_path / "made" / "annotations").iterdir():
        file.unlink()
    data = open_detection_data(tmp_path, split="val")
    assert len(data) == 1 and data.category_names == list(SHAPES[:3])  # not the parent that no object has
    assert not data.has_masks and data[0].segmentations[0] is None
    assert len(open_detection_data(tmp_path)) == 2


def test_images_lie_elsewhere(tmp_path):
    folder = write_scenes(tmp_path / "a", 2)
    file = folder / "annotations" / "instances_train.json"
    (folder / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its images are missing .*--image-root"):
        open_detection_data(file)
    assert len(open_detection_data(file, images=tmp_path / "elsewhere")) == 2
    with pytest.raises(InputError, match="is no folder"):
        open_detection_data(file, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list, not an object"),
        ('{"images": []}', "no list of annotations"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "lacks 'file_name'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "share"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
    ],
)
def test_files_that_are_not_coco(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=message):
        open_detection_data(tmp_path / "x.json")


# ---- Pascal VOC -----------------------------------------------------------------------------------------------------


def voc_xml(width: int, height: int, objects: list[tuple[str, tuple[float, ...], int]]) -> str:
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1), difficult in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{body}</annotation>"


def write_voc(root: Path, year: str, split: str, images: dict[str, list[tuple[str, tuple[float, ...], int]]]) -> Path:
    folder = root / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for stem, objects in images.items():
        picture(folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(40, 30, objects))
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in images))
    return folder


def test_pascal_voc(tmp_path):
    write_voc(tmp_path, "2007", "trainval", {"000005": [("dog", (1, 1, 10, 20), 0), ("cat", (5, 6, 40, 30), 1)]})
    write_voc(tmp_path, "2007", "test", {"000006": [("dog", (1, 1, 10, 20), 0)]})
    write_voc(tmp_path, "2012", "trainval", {"2008_000001": [("person", (2, 3, 4, 5), 0)]})
    data = open_detection_data(tmp_path, split="trainval")
    assert data.image_ids == ["000005", "2008_000001"] and data.category_names == list(VOC_CLASSES)
    assert data.category_ids == list(range(1, 21)) and data.is_voc and not data.has_masks
    first = data[0]
    assert first.boxes.tolist() == [[0, 0, 10, 20], [4, 5, 40, 30]]  # pixels count from 1, both ends inside
    assert first.labels.tolist() == [11, 7] and first.difficult.tolist() == [False, True]
    assert first.areas.tolist() == [200, 900] and first.decode().shape == (30, 40, 3)
    assert len(open_detection_data(tmp_path / "VOC2007", split="trainval")) == 1
    assert len(open_detection_data(tmp_path, split="test")) == 1
    with pytest.raises(InputError, match="no annotations of split 'train': its splits are test .*, trainval"):
        open_detection_data(tmp_path)
    with pytest.raises(InputError, match="--image-root .* belongs to a COCO JSON or a CSV, which .* is not"):
        open_detection_data(tmp_path, split="test", images=tmp_path)


def test_voc_with_other_classes_and_what_is_not_voc(tmp_path):
    folder = write_voc(tmp_path, "mine", "train", {"a": [("zebra", (1, 1, 9, 9), 0), ("ant", (1, 1, 5, 5), 0)]})
    assert open_detection_data(folder).category_names == ["ant", "zebra"]
    (folder / "Annotations" / "a.xml").write_text("<annotation><object><name>ant</name></object></annotation>")
    with pytest.raises(InputError, match=r"a\.xml is not in Pascal VOC's format: there is no <xmin>"):
        open_detection_data(folder)
    (folder / "Annotations" / "a.xml").unlink()
    with pytest.raises(InputError, match=r"a\.xml cannot be read"):
        open_detection_data(folder)


# ---- Cityscapes -----------------------------------------------------------------------------------------------------


def test_cityscapes(tmp_path):
    ids = np.zeros((30, 40), np.int32)
    ids[2:12, 3:9] = 26000  # first car
    ids[2:4, 3:5] = 26001  # a second one, over it
    ids[20:25, 0:40] = 24  # persons that could not be told apart
    ids[15:16, 5:8] = 7  # road has no instances
    stem = "aachen_000000_000019"
    picture(tmp_path / "leftImg8bit" / "train" / "aachen" / f"{stem}_leftImg8bit.png")
    target = tmp_path / "gtFine" / "train" / "aachen" / f"{stem}_gtFine_instanceIds.png"
    target.parent.mkdir(parents=True)
    Image.fromarray(ids.astype(np.uint16)).save(target)
    data = open_detection_data(tmp_path)
    assert data.image_ids == [stem] and data.category_names[0] == "person" and data.category_ids[-1] == 33
    item = data[0]
    assert item.labels.tolist() == [0, 2, 2] and item.iscrowd.tolist() == [True, False, False]
    assert item.boxes.tolist() == [[0, 20, 40, 25], [3, 2, 9, 12], [3, 2, 5, 4]]
    assert item.areas.tolist() == [200, 56, 4]
    assert np.array_equal(item.masks(), [ids == 24, ids == 26000, ids == 26001])
    targets = item.training_targets(masks=True)
    assert targets["labels"].tolist() == [2, 2]
    assert np.array_equal(list(targets["masks"]), [ids == 26000, ids == 26001])
    target.unlink()
    with pytest.raises(InputError, match="instanceIds.png is missing: unpack"):
        open_detection_data(tmp_path)


def test_a_damaged_picture_of_ids_costs_its_image(tmp_path):
    """Pillow raises what is no OSError, too, such as that for a decompression bomb."""

    def packed(pixels, kind="PNG"):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format=kind)
        return out.getvalue()

    whole = packed(np.full((30, 40), 26000, np.uint16))
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + whole[24:29]
    bomb = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    colours = packed(np.full((30, 40, 3), 26, np.uint8))
    contents = (whole, whole[:60], b"", bomb, colours, packed(np.full((30, 40), 2**30, np.int32), "TIFF"))
    for number, content in enumerate(contents):
        stem = f"aachen_{number:06d}_000019"
        picture(tmp_path / "leftImg8bit" / "train" / "aachen" / f"{stem}_leftImg8bit.png")
        target = tmp_path / "gtFine" / "train" / "aachen" / f"{stem}_gtFine_instanceIds.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    with pytest.raises(InputError, match=r"aachen_000001_000019_gtFine_instanceIds.png cannot be read: .*4 more"):
        open_detection_data(tmp_path)
    data = open_detection_data(tmp_path, skip_broken=True)
    assert data.image_ids == ["aachen_000000_000019"] and "broken images: 5, left out" in str(data.report)


# ---- tables ---------------------------------------------------------------------------------------------------------


def encoded(width: int = 40, height: int = 30) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def write_table(path: Path, categories, struct_of_lists=True, corners=False, classes=("red", "green", "blue")) -> Path:
    """Three images with two, one and no objects; categories are those of the three objects."""
    from datasets import ClassLabel, Dataset, Features, List, Sequence, Value
    from datasets import Image as ImageFeature

    boxes = [[1.0, 2.0, 10.0, 11.0], [20.0, 10.0, 20.0, 20.0], [0.0, 0.0, 40.0, 30.0]]
    if corners:
        boxes = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    objects = [{"bbox": box, "category": category} for box, category in zip(boxes, categories, strict=True)]
    kind = {int: ClassLabel(names=list(classes)), str: Value("string")}[type(categories[0])]
    part = {"bbox": List(Value("float32"), length=4), "category": kind}
    rows = [objects[:2], objects[2:], []]
    if struct_of_lists:
        rows = [{name: [entry[name] for entry in row] for name in part} for row in rows]
    features = {
        "image": ImageFeature(), "image_id": Value("int64"), "width": Value("int32"), "height": Value("int32"),
        "objects": Sequence(part) if struct_of_lists else List(part),
    }  # fmt: skip
    content = {
        "image": [{"bytes": encoded(), "path": f"{n}.png"} for n in range(3)], "image_id": [7, 8, 9],
        "width": [40] * 3, "height": [30] * 3, "objects": rows,
    }  # fmt: skip
    Dataset.from_dict(content, features=Features(features)).to_parquet(str(path))
    return path


@pytest.mark.parametrize("struct_of_lists", [True, False])
def test_parquet_in_the_hubs_layout(tmp_path, struct_of_lists):
    file = write_table(tmp_path / "train-00000.parquet", [2, 0, 1], struct_of_lists)
    for spec in (file, tmp_path, f"{tmp_path}/*.parquet"):
        data = open_detection_data(spec)
        assert data.image_ids == [7, 8, 9] and data.category_names == ["red", "green", "blue"]
        assert data.category_ids == [0, 1, 2] and [len(item.boxes) for item in data] == [2, 1, 0]
    assert data[0].boxes.tolist() == [[1, 2, 11, 13], [20, 10, 40, 30]] and data[0].labels.tolist() == [2, 0]
    assert data[0].decode().shape == (30, 40, 3) and data[0].name == "row 0 (0.png)"
    assert "images without objects: 1, kept" in data.description
    assert data.without_empty().image_ids == [7, 8]
    again = pickle.loads(pickle.dumps(data))
    assert again[1].decode().shape == (30, 40, 3) and again[0].boxes.tolist() == data[0].boxes.tolist()
    write_table(tmp_path / "train-00001.parquet", [2, 0, 1], struct_of_lists, classes=["blue", "green", "red"])
    with pytest.raises(InputError, match="number the classes of column 'objects.category' differently"):
        open_detection_data(tmp_path)


def test_tables_of_names_and_corners(tmp_path):
    assert open_detection_data(write_table(tmp_path / "n.parquet", ["z", "a", "z"])).category_names == ["a", "z"]
    file = write_table(tmp_path / "c.parquet", [0, 1, 2], corners=True)
    assert open_detection_data(file, box_format="xyxy")[0].boxes.tolist() == [[1, 2, 11, 13], [20, 10, 40, 30]]
    with pytest.raises(InputError, match="1 of 3 boxes leave their image .* give --box-format xyxy"):
        open_detection_data(file)


def test_objects_that_lack_something_are_named(tmp_path):
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    def write(categories: list[int | None]) -> Path:
        part = {"bbox": List(List(Value("float32"))), "category": List(Value("int64"))}
        objects = [{"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": categories}]
        content = {"image": [{"bytes": encoded(), "path": None}], "objects": objects}
        table = Dataset.from_dict(content, features=Features({"image": ImageFeature(), "objects": part}))
        table.to_parquet(str(tmp_path / f"{len(categories)}.parquet"))
        return tmp_path / f"{len(categories)}.parquet"

    with pytest.raises(InputError, match=r"row 0: the parts of its objects are not equally many: 2 bbox, 1 category"):
        open_detection_data(write([4]))
    with pytest.raises(InputError, match="row 0, annotation .: category None is not in the list"):
        open_detection_data(write([4, None]))


@pytest.mark.parametrize("category", ["1e300", "9223372036854775808", "1.5", "-1e19"])
def test_categories_that_can_be_no_numbers_of_classes(tmp_path, category):
    picture(tmp_path / "0.png")
    objects = f'{{"bbox": [[1, 2, 10, 10], [1, 2, 9, 9]], "category": [3, {category}]}}'
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "0.png", "objects": {objects}}}\n')
    with pytest.raises(InputError, match="category .* is not in the list of categories"):
        open_detection_data(tmp_path)
    data = open_detection_data(tmp_path, skip_broken=True)
    assert data.category_names == ["3"] and data[0].labels.tolist() == [0]


def test_a_table_is_not_copied_to_find_its_names(tmp_path):
    """More bytes than one piece of arrow can hold, and than should be copied: here they are one file, many times."""
    import pyarrow
    from datasets import Dataset

    from mcl_hf.annotations.object_tables import read_object_table
    from mcl_hf.annotations.raw_data import Reading
    from mcl_hf.data.sources.local_tables import LocalTable

    table = Dataset.from_parquet(str(write_table(tmp_path / "x.parquet", [2, 0, 1])), cache_dir=str(tmp_path))
    image = pyarrow.array([{"bytes": b"\0" * 2**24, "path": "0.png"}] * 3, table.data.column("image").type)
    whole = table.data.table.set_column(table.column_names.index("image"), "image", image)
    large = Dataset(pyarrow.concat_tables([whole] * 50), fingerprint="many")  # 2.5 GB
    raw = read_object_table(LocalTable(large, "many", []), "many", Reading(image_column="image"))
    assert len(raw.images) == 150 and raw.images[-1].name == "row 149 (0.png)"


def test_a_folder_with_metadata(tmp_path):
    lines = []
    for n in range(2):
        picture(tmp_path / "train" / f"{n}.png")
        objects = {"bbox": [[1, 2, 3, 4]], "category": [n]}
        lines.append(json.dumps({"file_name": f"{n}.png", "objects": objects}))
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    data = open_detection_data(tmp_path)
    assert len(data) == 2 and data.category_names == ["0", "1"] and data[1].boxes.tolist() == [[1, 2, 4, 6]]


def test_tables_without_objects_and_what_is_nothing(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"image": [{"bytes": encoded(), "path": None}], "label": [1]}).to_parquet(
        str(tmp_path / "x.parquet")
    )
    with pytest.raises(InputError, match="no column 'objects': its columns are image, label"):
        open_detection_data(tmp_path / "x.parquet")
    picture(tmp_path / "plain" / "a.png")
    with pytest.raises(InputError, match="no annotations that are known"):
        open_detection_data(tmp_path / "plain")
    with pytest.raises(InputError, match="is no annotated data"):
        open_detection_data(tmp_path / "plain" / "a.png")
    with pytest.raises(InputError, match="is no local file or folder"):
        open_detection_data(tmp_path / "missing" / "folder")


def test_a_missing_json_is_no_name_on_the_hub(monkeypatch):
    def asked(*_arguments, **_options):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("mcl_hf.annotations.open_data.hub_table", asked)
    with pytest.raises(InputError, match=r"nothing\.json is not there"):
        open_detection_data("nothing.json")


# ---- the type itself ------------------------------------------------------------------------------------------------


def test_selecting_images_takes_their_annotations_along(scene_data):
    chosen = scene_data.select([5, 0, 5])
    assert chosen.image_ids == [6, 1, 6] and chosen.category_names == scene_data.category_names
    for new, old in zip(chosen, (5, 0, 5), strict=True):
        assert np.array_equal(new.boxes, scene_data[old].boxes) and np.array_equal(new.masks(), scene_data[old].masks())
        assert np.array_equal(new.decode(), scene_data[old].decode())
    assert len(scene_data.select([])) == 0
    with pytest.raises(IndexError):
        chosen[3]


def test_run_lengths_of_every_kind_are_one_mask(tmp_path, scene_data):
    """Polygons, compressed and uncompressed run lengths of the same thing."""
    folders = [write_scenes(tmp_path / kind, 3, masks=kind) for kind in ("polygon", "rle")]
    by_polygon, by_rle = (open_detection_data(folder) for folder in folders)
    for one, other in zip(by_polygon, by_rle, strict=True):
        assert np.array_equal(one.masks(), other.masks())
    crowds = [item for item in scene_data if item.iscrowd.any()]
    item = crowds[0]
    counts = item.segmentations[int(item.iscrowd.argmax())]["counts"]
    assert isinstance(counts, list)
    pixels = item.masks()[item.iscrowd.argmax()]
    assert pixels.sum() == sum(counts[1::2]) == coco_mask.area(coco_mask.encode(np.asfortranarray(pixels)))
