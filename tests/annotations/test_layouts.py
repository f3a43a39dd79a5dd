"""Annotated data as programs and people leave it: every layout opens with the same boxes, or says what was seen."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.detection import list_splits, open_detection_data, write_yolo
from mcl_hf.errors import InputError
from mcl_hf.evaluation.results import ground_truth_results, read_results
from tests.annotations.test_datasets import voc_xml
from tests.scenes import add_crowds, write_scenes

WIDTH, HEIGHT = 40, 30
BOX = [4.0, 6.0, 24.0, 18.0]  # corners, px
CUP = "0 0.35 0.4 0.5 0.4\n"  # the same in YOLO's shares
FORK = "1 0.1 0.1 0.5 0.1 0.5 0.6\n"  # a polygon


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)
    return path


def coco(path: Path, *names: str, encoding: str = "utf-8") -> Path:
    x0, y0, x1, y1 = BOX
    box = {"category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    content = {
        "images": [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names)],
        "annotations": [{"id": n + 1, "image_id": n, **box} for n in range(len(names))],
        "categories": [{"id": 1, "name": "cup"}],
    }
    return text(path, json.dumps(content), encoding)


def first_box(spec, **options) -> list[float]:
    return open_detection_data(spec, **options)[0].boxes[0].tolist()


# ---- YOLO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesting", ["images/{}", "{}/images"])
@pytest.mark.parametrize("names", ["[cup, fork]", "{0: cup, 1: fork}"])
def test_yolo_folders(tmp_path, nesting, names):
    for split, stems in {"train": "ab", "val": "c"}.items():
        folder = nesting.format(split)
        for stem in stems:
            picture(tmp_path / folder / f"{stem}.jpg")
        text(tmp_path / folder.replace("images", "labels") / f"{stems[0]}.txt", CUP + FORK)
    text(tmp_path / nesting.format("train").replace("images", "labels") / "b.txt", "")
    given = {split: nesting.format(split) for split in ("train", "val")}
    yaml = text(tmp_path / "data.yaml", f"path: .\ntrain: ../{given['train']}\nval: {given['val']}\nnames: {names}\n")
    for spec in (tmp_path, yaml):
        assert list_splits(spec) == ["train", "val"] and len(open_detection_data(spec, split="valid")) == 1
        data = open_detection_data(spec)
        assert data.category_names == ["cup", "fork"] and data.image_ids == ["a", "b"] and data.has_masks
        assert data[0].boxes == pytest.approx(np.array([BOX, [4, 3, 20, 18]])) and data[0].segmentations[0] is None
        assert data[0].masks()[1].sum() == pytest.approx(data[0].areas[1], abs=1) and 100 < data[0].areas[1] < 140
        assert len(data[1].boxes) == 0 and "images without objects: 1, kept" in data.description
        with pytest.raises(InputError, match="no annotations of split 'test': its splits are train"):
            open_detection_data(spec, split="test")


def test_yolo_lists_and_images_without_labels(tmp_path):
    for stem in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{stem}.png")
    text(tmp_path / "labels" / "a.txt", CUP)
    text(tmp_path / "lists" / "one.txt", "images/a.png\n\n./images/b.png\n", encoding="utf-8-sig")
    text(tmp_path / "lists" / "two.txt", "../images/c.png\n")
    text(tmp_path / "my.yaml", "train: [lists/one.txt, lists/two.txt]\nnames: [cup]\n")
    data = open_detection_data(tmp_path)
    assert data.image_ids == ["a", "b", "c"] and data[0].boxes[0] == pytest.approx(BOX)
    assert "images without a label file: 2, taken as images without objects" in data.description
    text(tmp_path / "lists" / "one.txt", "root:secret\n")
    with pytest.raises(InputError, match="line 1, names no image") as caught:
        open_detection_data(tmp_path)
    assert "secret" not in str(caught.value)


def test_yolo_without_a_yaml(tmp_path, monkeypatch):
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", CUP)
    with pytest.raises(InputError, match=r"labels look like YOLO's, but no data\.yaml"):
        open_detection_data(tmp_path)
    text(tmp_path / "labels" / "classes.txt", "cup\nfork\n")
    monkeypatch.chdir(tmp_path)
    for spec in (tmp_path, "."):
        assert first_box(spec) == pytest.approx(BOX) and list_splits(spec) == []
    with pytest.raises(InputError, match="data is empty"):  # and not the current folder
        open_detection_data("")
    with pytest.raises(InputError, match="nothing in it tells splits apart"):
        open_detection_data(tmp_path, split="test")


@pytest.mark.parametrize("names", ["[no, 007]", "[on, 0x1f]", "[null, ~]", "{0: 2024-01-01, 1: 1_0}", "[1.10, .5]"])
def test_yolo_classes_are_called_as_they_are_written(tmp_path, names):
    """And not False, 7 or 31, which YAML makes of them."""
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", CUP)
    text(tmp_path / "data.yaml", f"path:\ntrain: images\nval: ~\ntest: null\nnames: {names}\n")
    written = [part.rpartition(": ")[2] for part in names.strip("[]{}").split(", ")]
    assert open_detection_data(tmp_path).category_names == written and list_splits(tmp_path) == ["train"]


@pytest.mark.parametrize("broken", ["names: [cup", "names: {0: cup, 0: fork}", "a: {{ value }}", "run: !own x"])
def test_a_yaml_that_cannot_be_read_counts_where_nothing_else_names_the_classes(tmp_path, broken):
    """A folder of a project holds templates and workflows too."""
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", CUP)
    text(tmp_path / "a_first.yml", broken)
    with pytest.raises(InputError, match=r"a_first\.yml is no valid YAML"):
        open_detection_data(tmp_path)
    named = text(tmp_path / "my.yaml", "train: images\nnames: [cup]\n")
    assert first_box(tmp_path) == pytest.approx(BOX)
    named.rename(text(tmp_path / "classes.txt", "cup\n").with_name("my.txt"))
    assert first_box(tmp_path) == pytest.approx(BOX)


@pytest.mark.parametrize("splits", ["train: images\n", ""])
def test_yolo_poses_are_boxes_and_no_polygons(tmp_path, splits):
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", f"{CUP.strip()} {'0.9 0.9 2 ' * 4}\n")
    text(tmp_path / "data.yaml", f"{splits}kpt_shape: [4, 3]\nnames: [cup]\n")
    data = open_detection_data(tmp_path)
    assert data[0].boxes[0] == pytest.approx(BOX) and not data.has_masks and "boxes of poses" in data.description


def test_of_several_descriptions_none_is_taken_in_silence(tmp_path):
    """Whose classes or images are others: the first by name was read."""
    picture(tmp_path / "images" / "train.jpg")
    text(tmp_path / "labels" / "train.txt", CUP)
    text(tmp_path / "labels" / "a_readme.txt", "made by hand\n")
    told = "label files without an image: 1, left out "
    text(tmp_path / "labels" / "classes.txt", "cup\n\n")  # which stands before the labels
    assert first_box(tmp_path) == pytest.approx(BOX) and told in open_detection_data(tmp_path).description
    longer = text(tmp_path / "classes.txt", "cup\nfork\n")  # as labelImg goes on in another folder
    assert open_detection_data(tmp_path).category_names == ["cup", "fork"]
    longer.write_text("fork\ncup\n")
    with pytest.raises(InputError, match=r"classes\.txt and labels/classes\.txt describe other data or classes: make"):
        open_detection_data(tmp_path)
    longer.write_text("cup\n\nfork\n")  # a number without a name, and not one less
    with pytest.raises(InputError, match="category 1 has the name ''"):
        open_detection_data(tmp_path)
    text(tmp_path / "a.yaml", "names: [spoon]\n")  # tells of no images
    text(tmp_path / "b.yaml", "names: [cup]\ntrain: images\n")
    same = text(tmp_path / "old" / "data.yaml", "train: images\nnames: [cup]\n")
    assert open_detection_data(tmp_path).category_names == ["cup"]
    same.write_text("train: images\nnames: [fork]\n")
    with pytest.raises(InputError, match=r"b\.yaml and old/data\.yaml describe other data or classes: give one"):
        open_detection_data(tmp_path)
    named = open_detection_data(tmp_path / "b.yaml")
    assert named.category_names == ["cup"] and told in named.description


def test_a_json_of_categories_alone_hides_no_labels(tmp_path):
    """Label Studio's export for YOLO has one, notes.json."""
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", CUP)
    text(tmp_path / "classes.txt", "cup\n")
    text(tmp_path / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cup"}], "info": {}}, indent=2))
    assert first_box(tmp_path) == pytest.approx(BOX)


def test_a_yaml_of_aliases_within_aliases_ends(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
    for field in ("names: *i", "names: [cup]\ntrain: *i", "names: [cup]\npath: *i", "names: {0: *i}"):
        with pytest.raises(InputError, match="are not all texts or numbers"):
            open_detection_data(text(tmp_path / "data.yaml", "\n".join([*lines, field])))


def test_yolo_labels_that_are_wrong(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "classes.txt", "cup\n")
    for line, said in {
        "0 4 6 20 12": "no shares of the image",
        "0 0.1 0.2": "3 numbers",
        "0 nan 0.2 0.3 0.4": "no shares",
        "5 .3 .4 .5 .4": "category 5 is not in the list",
        "0 secret 0 0 0": "no numbers",
    }.items():
        text(tmp_path / "labels" / "a.txt", f"{CUP}{line}\n")
        with pytest.raises(InputError, match=said) as caught:
            open_detection_data(tmp_path)
        assert "secret" not in str(caught.value)
        data = open_detection_data(tmp_path, skip_broken=True)
        assert len(data[0].boxes) == 1 and "broken annotations: 1, left out" in data.description


def test_yolo_has_no_crowds(tmp_path):
    folder = write_scenes(tmp_path / "scenes", 2)
    add_crowds(folder / "annotations" / "instances_train.json", every=2)
    data = open_detection_data(folder)
    files = write_yolo(tmp_path / "labels", data)[1:]
    assert data.columns.iscrowd.any()
    assert [len(file.read_text().splitlines()) for file in files] == data.num_objects.tolist()


def test_yolo_is_written_as_it_is_read(tmp_path):
    data = open_detection_data(write_scenes(tmp_path / "scenes", 3))
    write_yolo(tmp_path / "scenes" / "labels", data)
    (tmp_path / "scenes" / "train").rename(tmp_path / "scenes" / "images")
    (tmp_path / "scenes" / "annotations" / "instances_train.json").unlink()
    again = open_detection_data(tmp_path / "scenes")
    assert again.category_names == data.category_names and len(again) == 3
    for one, other in zip(data, again, strict=True):
        assert other.boxes == pytest.approx(one.boxes, abs=0.01) and np.array_equal(other.labels, one.labels)
        assert np.array_equal(other.masks(), one.masks())
    write_yolo(tmp_path / "found", data, ground_truth_results(data))
    line = (tmp_path / "found" / "0000.txt").read_text().split()
    assert len(line) == 6 and float(line[5]) == 1 and float(line[3]) * 128 == pytest.approx(
        data[0].boxes[0, 2] - data[0].boxes[0, 0], abs=0.01
    )  # fmt: skip


# ---- Pascal VOC in any folders --------------------------------------------------------------------------------------

XML = voc_xml(WIDTH, HEIGHT, [("cup", (5, 7, 24, 18), 0)])


@pytest.mark.parametrize(
    ("image", "xml"),
    [
        ("my cup 1.jpg", "my cup 1.xml"),  # as labelImg writes them
        ("images/a.JPG", "annots/a.xml"),
        ("repo/Kangaroo [2]/JPEGImages/a.jpg", "repo/Kangaroo [2]/Annotations/a.xml"),
        ("deep/train/images/a.png", "deep/train/annotations/a.xml"),
    ],
)
def test_voc_in_any_folders(tmp_path, image, xml):
    picture(tmp_path / image)
    text(tmp_path / xml, XML.replace("<width>40<", "<width>40.0<"))
    (tmp_path / xml).with_name("._" + Path(xml).name).write_bytes(b"\0\5\26\7")
    picture(tmp_path / "SegmentationClass" / f"{Path(image).stem}.png")
    data = open_detection_data(tmp_path)
    assert data.names == [str(tmp_path / image)] and data[0].boxes[0].tolist() == BOX
    assert data.category_names == ["cup"] and len(data.description.splitlines()) == 1


def test_voc_lists_with_spaces_and_a_byte_order_mark(tmp_path):
    for stem in ("my cup 0", "my cup 1", "other"):
        picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
        text(tmp_path / "Annotations" / f"{stem}.xml", XML)
    text(tmp_path / "ImageSets" / "Main" / "train.txt", "my cup 0\nmy cup 1\n", encoding="utf-8-sig")
    text(tmp_path / "ImageSets" / "Main" / "val.txt", "other  1\n")
    assert open_detection_data(tmp_path).image_ids == ["my cup 0", "my cup 1"]
    assert open_detection_data(tmp_path, split="validation").image_ids == ["other"]
    for broken in (lambda file: file.write_bytes(b""), Path.unlink):
        broken(tmp_path / "Annotations" / "my cup 1.xml")
        with pytest.raises(InputError, match=r"my cup 1\.xml"):
            open_detection_data(tmp_path)
        data = open_detection_data(tmp_path, skip_broken=True)
        assert data.image_ids == ["my cup 0"] and "broken images: 1, left out" in data.description


def test_voc_without_its_images(tmp_path):
    for stem in "abc":
        text(tmp_path / f"{stem}.xml", XML)
    picture(tmp_path / "other.jpg")
    with pytest.raises(InputError, match=r"3 VOC \.xml files, but no image has the name of any"):
        open_detection_data(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("<project><name>x</name></project>", "it holds <project>, not <annotation>"),
        (XML.replace("<name>cup</name>", "<name> </name>"), "there is no <name> where one belongs"),
    ],
)
def test_xml_that_tells_no_objects_is_no_image_without_objects(tmp_path, wrong, said):
    assert wrong != XML
    for stem, content in (("a", XML), ("b", wrong)):
        picture(tmp_path / f"{stem}.jpg")
        text(tmp_path / f"{stem}.xml", content)
    with pytest.raises(InputError, match=f"b.xml is not in Pascal VOC's format: {said}"):
        open_detection_data(tmp_path)
    picture(tmp_path / "c.jpg")
    data = open_detection_data(tmp_path, skip_broken=True)
    assert data.image_ids == ["a"] and data.category_names == ["cup"]
    assert "images without an .xml file: 1, left out (c.jpg)" in data.description


# ---- CSV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ["a.jpg,4,6,24,18,cup", "b.jpg,,,,,"],
        ["filename,width,height,class,xmin,ymin,xmax,ymax", "a.jpg,40,30,cup,4,6,24,18", "b.jpg,40,30,,,,,"],
        ["Class;XMin;YMin;XMax;YMax;Image", "cup;4;6;24;18;a.jpg", ";;;;;b.jpg"],
    ],
)
def test_csv_with_and_without_a_header(tmp_path, lines):
    for stem in "ab":
        picture(tmp_path / "images" / f"{stem}.jpg")
    file = text(tmp_path / "labels.csv", "\n".join(lines), encoding="utf-8-sig")
    text(tmp_path / "classes.csv", "cup,0\n")
    for spec in (file, tmp_path):
        data = open_detection_data(spec)
        assert data.category_names == ["cup"] and data[0].boxes.tolist() == [BOX] and len(data[1].boxes) == 0
    with pytest.raises(InputError, match="has no split 'test'"):
        open_detection_data(tmp_path, split="test")
    assert "split 'test' has no effect" in open_detection_data(file, split="test").description
    text(file, "\n".join([*lines, lines[-2].replace("18", "x")]))
    with pytest.raises(InputError, match=r"labels\.csv, line \d: "):
        open_detection_data(file)


def test_a_csv_row_that_ends_before_its_group(tmp_path):
    picture(tmp_path / "a.jpg")
    header = "filename,class,xmin,ymin,xmax,ymax,patient"
    file = text(tmp_path / "labels.csv", f"{header}\na.jpg,cup,4,6,24,18\na.jpg,cup,4,6,24,18,one\n")
    assert open_detection_data(file, group_column="patient").groups == ["one"]


def test_a_quote_in_a_csv_swallows_no_rows(tmp_path):
    for stem in "ab":
        picture(tmp_path / f"{stem}.jpg")
    file = text(tmp_path / "labels.csv", 'a.jpg,4,6,24,18,"cup\nb.jpg,4,6,24,18,cup\n')
    with pytest.raises(InputError, match=r"labels\.csv is no CSV: unexpected end of data"):
        open_detection_data(file)


def test_csv_with_boxes_in_one_column(tmp_path):
    for split, stem in (("train", "b6ab77fd7"), ("train", "plain"), ("test", "other")):
        picture(tmp_path / split / f"{stem}.jpg")
    lines = ["image_id,width,height,bbox,source", 'b6ab77fd7,40,30,"[4.0, 6.0, 20.0, 12.0]",usask_1', "plain,40,30,,x"]
    file = text(tmp_path / "train.csv", "\n".join(lines))
    for spec in (file, tmp_path):
        data = open_detection_data(spec)
        assert data[0].boxes.tolist() == [BOX] and data.names[0] == str(tmp_path / "train" / "b6ab77fd7.jpg")
        assert data.category_names == ["object"] and len(data[1].boxes) == 0
        assert "all boxes are 'object'" in data.description
    text(file, "\n".join([lines[0], *(f'b6ab77fd7,40,30,"[{x}, 20, 38, 29]",x' for x in (5, 6, 7))]))
    with pytest.raises(InputError, match="give --box-format xyxy"):
        open_detection_data(file)
    assert first_box(file, box_format="xyxy") == [5, 20, 38, 29]
    text(file, "\n".join([*lines[:2], 'b6ab77fd7,40,30,"[1, 2, 3]",x']))
    with pytest.raises(InputError, match=r"line 3: bbox '\[1, 2, 3\]' is not four numbers"):
        open_detection_data(file)
    text(file, "\n".join([lines[0], 'gone,40,30,"[1, 2, 3, 4]",x']))
    with pytest.raises(InputError, match="its images are missing"):
        open_detection_data(file)
    text(file, "image_name,BoxesString,domain\nplain.jpg,0 0 1 1;2 2 3 3,4\n")
    with pytest.raises(InputError, match="its first line, 'image_name,BoxesString,domain', names no x1"):
        open_detection_data(file)


def test_csv_by_split_and_by_name(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / split / f"{split}.jpg")
        text(tmp_path / f"{split}_labels.csv", f"{split}.jpg,4,6,24,18,cup\n")
    assert list_splits(tmp_path) == ["test", "train"] and first_box(tmp_path, split="test") == BOX
    text(tmp_path / "captions.csv", "a,b\nc,d\n")
    with pytest.raises(InputError, match=r"captions\.csv holds no boxes"):
        open_detection_data(tmp_path / "captions.csv")


# ---- COCO's odd ends, metadata --------------------------------------------------------------------------------------


def test_coco_of_windows_and_with_a_byte_order_mark(tmp_path):
    folder = tmp_path / "shots [1]"
    picture(folder / "images" / "x.jpg")
    file = coco(folder / "result.json", r"images\x.jpg", encoding="utf-8-sig")
    assert first_box(folder) == first_box(file) == BOX


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_under_any_name_of_a_split(tmp_path, name):
    for split in ("train", "dev"):
        picture(tmp_path / "{set} [1]" / split / "a.jpg")
        objects = {"bbox": [[4, 6, 20, 12]], "category": [split]}
        rows = [{"file_name": "a.jpg", "objects": objects}]
        lines = [json.dumps(row) for row in rows]
        if name.endswith("csv"):
            lines = ["file_name,objects", 'a.jpg,"' + json.dumps(objects).replace('"', '""') + '"']
        text(tmp_path / "{set} [1]" / split / name, "\n".join(lines))
    for split in ("val", "valid", "dev", "validation"):
        data = open_detection_data(tmp_path / "{set} [1]", split=split)
        assert data.description.startswith("folder of images with metadata, split dev (")
        assert data.category_names == ["dev"] and data[0].boxes.tolist() == [BOX]
    file = tmp_path / "{set} [1]" / "dev" / name
    quote = '""' if name.endswith("csv") else '"'
    file.write_text(file.read_text().replace(f"{quote}bbox", f"{quote}category{quote}: [], {quote}bbox"))
    with pytest.raises(InputError, match="gives 'category' twice, with different values"):
        open_detection_data(tmp_path / "{set} [1]", split="val")


def test_a_line_ends_where_a_line_ends(tmp_path):
    """And not at the separators that texts of the web hold, and that JSON leaves as they are."""
    for name in "ab":
        picture(tmp_path / "one" / f"{name}.jpg")
    rows = [
        {"file_name": f"{name}.jpg", "text": "a\u2028b\x85c", "objects": {"bbox": [[4, 6, 20, 12]], "category": [0]}}
        for name in "ab"
    ]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "one" / "metadata.jsonl").write_bytes(f"{lines}\r\n".encode())
    assert first_box(tmp_path / "one") == pytest.approx(BOX) and len(open_detection_data(tmp_path / "one")) == 2
    (tmp_path / "one" / "metadata.jsonl").unlink()
    (tmp_path / "one" / "b.csv").write_bytes("a.jpg,4,6,24,18,a\x0bb\rb.jpg,4,6,24,18,c\u2028d\r".encode())
    assert open_detection_data(tmp_path / "one").category_names == ["a\x0bb", "c\u2028d"]


def test_a_second_metadata_row_for_a_file(tmp_path):
    picture(tmp_path / "a.jpg")
    rows = [{"file_name": "a.jpg", "objects": [{"bbox": [4, 6, 20, 12], "category": n}]} for n in range(2)]
    text(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"a\.jpg: a second row"):
        open_detection_data(tmp_path)
    data = open_detection_data(tmp_path, skip_broken=True)
    assert len(data) == 1 and data.category_names == ["0"] and "broken annotations: 1" in data.description


def test_panoptic_coco_is_named(tmp_path):
    content = {"images": [], "annotations": [{"segments_info": []}], "categories": []}
    file = text(tmp_path / "panoptic_val2017.json", json.dumps(content))
    for spec in (file, tmp_path):
        with pytest.raises(InputError, match="panoptic COCO.*: use the instances file"):
            open_detection_data(spec)


# ---- paths that leave the data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coco", "csv", "metadata", "yolo", "table"])
@pytest.mark.parametrize("absolute", [True, False])
def test_paths_that_leave_the_folder_are_refused(tmp_path, kind, absolute):
    outside, inside = picture(tmp_path / "other" / "x.jpg"), picture(tmp_path / "data" / "images" / "a.jpg")
    text(tmp_path / "other" / "x.txt", CUP)
    text(tmp_path / "data" / "labels" / "a.txt", CUP)
    name = str(outside) if absolute else "../other/x.jpg"
    objects = {"bbox": [[4, 6, 20, 12]], "category": [0]}
    if kind == "coco":
        coco(tmp_path / "data" / "a.json", "images/a.jpg", name)
    elif kind == "csv":
        text(tmp_path / "data" / "a.csv", "".join(f"{path},4,6,24,18,cup\n" for path in ("images/a.jpg", name)))
    elif kind == "metadata":
        rows = [{"file_name": path, "objects": objects} for path in ("images/a.jpg", name)]
        text(tmp_path / "data" / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    elif kind == "yolo":
        text(tmp_path / "data" / "train.txt", f"images/a.jpg\n{name}\n")
        text(tmp_path / "data" / "data.yaml", "train: train.txt\nnames: [cup]\n")
    else:
        from datasets import Dataset

        paths = [os.path.relpath(path) for path in (inside, outside)] if not absolute else [str(inside), name]
        rows = [{"image": {"bytes": None, "path": path}, "objects": objects} for path in paths]
        Dataset.from_list(rows).to_parquet(str(tmp_path / "data" / "train.parquet"))
    with pytest.raises(InputError, match=r"x\.jpg\)?: lies outside of .*data: give --allow-outside-paths"):
        open_detection_data(tmp_path / "data")
    assert len(open_detection_data(tmp_path / "data", skip_broken=True)) == 1
    data = open_detection_data(tmp_path / "data", allow_outside_paths=True)
    assert len(data) == 2 and data[1].boxes[0] == pytest.approx(BOX) and data[1].decode().shape == (HEIGHT, WIDTH, 3)


def test_a_yaml_that_is_named_may_point_anywhere(tmp_path):
    picture(tmp_path / "elsewhere" / "images" / "x.jpg")
    text(tmp_path / "elsewhere" / "labels" / "x.txt", CUP)
    yaml = text(tmp_path / "data" / "my.yaml", f"path: {tmp_path / 'elsewhere'}\ntrain: images\nnames: [cup]\n")
    assert first_box(yaml) == pytest.approx(BOX)
    with pytest.raises(InputError, match=r"elsewhere/images for train, outside of .*data"):
        open_detection_data(tmp_path / "data")
    assert first_box(tmp_path / "data", allow_outside_paths=True) == pytest.approx(BOX)


def test_links_and_what_is_hidden(tmp_path):
    picture(tmp_path / "data" / "a.jpg")
    coco(tmp_path / "data" / "a.json", "a.jpg")
    coco(tmp_path / "data" / "__MACOSX" / "b.json", "a.jpg")
    coco(tmp_path / "data" / ".hidden" / "c.json", "a.jpg")
    (tmp_path / "data" / "up").symlink_to(tmp_path / "data")
    assert len(open_detection_data(tmp_path / "data")) == 1


def test_pipes_and_devices_end_nothing(tmp_path):
    picture(tmp_path / "data" / "images" / "a.jpg")
    coco(tmp_path / "data" / "a.json", "images/a.jpg")
    names = ["b.json", "b.csv", "data.yaml", "b.xml", "metadata.jsonl", "images/a.txt", "t.parquet", "images/p.jpg"]
    for number, name in enumerate(names):
        if number % 2:
            os.mkfifo(tmp_path / "data" / name)
        else:
            (tmp_path / "data" / name).symlink_to("/dev/zero")
    assert len(open_detection_data(tmp_path / "data")) == 1
    with pytest.raises(InputError, match="no local file"):
        open_detection_data("/dev/zero")
    with pytest.raises(InputError, match="cannot be read: is no regular file"):
        read_results("/dev/zero", open_detection_data(tmp_path / "data"))
    text(tmp_path / "yolo" / "classes.txt", "cup\n")
    for name in "ab":
        picture(tmp_path / "yolo" / "images" / f"{name}.jpg")
    text(tmp_path / "yolo" / "labels" / "a.txt", CUP)
    os.mkfifo(tmp_path / "yolo" / "labels" / "b.txt")
    assert "without a label file: 1" in open_detection_data(tmp_path / "yolo").description


def split_column(kind: str, folder: Path, words: list[str], name: str = "split", **others: list[str]) -> Path:
    """One picture a word, whose row of a table of this kind says so, after the columns of `others`."""
    columns = others | {name: words}
    told = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    files = [picture(folder / f"{number}.png") for number in range(len(words))]
    x0, y0, x1, y1 = BOX
    if kind == "csv":
        rows = [
            f"{f.name},{x0},{y0},{x1},{y1},cup,{','.join(row.values())}" for f, row in zip(files, told, strict=True)
        ]
        header = f"filename,xmin,ymin,xmax,ymax,class,{','.join(columns).title()}"
        return text(folder / "boxes.csv", "\n".join([header, *rows, " , , "]))
    objects = {"bbox": [[x0, y0, x1 - x0, y1 - y0]], "category": ["cup"]}
    if kind == "jsonl":
        rows = [{"file_name": f.name, "objects": objects, **row} for f, row in zip(files, told, strict=True)]
        return text(folder / "metadata.jsonl", "\n".join(map(json.dumps, rows))).parent
    from datasets import Dataset

    table = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]}
    table |= {"objects": [objects] * len(words), **columns}
    Dataset.from_dict(table).to_parquet(folder / "boxes.parquet")
    return folder / "boxes.parquet"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_of_splits_keeps_the_test_images_out_of_training(tmp_path, kind):
    spec = split_column(kind, tmp_path / "a", ["TRAIN", "test", "TRAIN", "val2", "holdout"])
    assert list_splits(spec) == ["TRAIN", "test", "val2", "holdout"]
    assert ", rows of split TRAIN, 2 of 5 images (" in open_detection_data(spec).description
    assert ", rows of split val2, 1 of 5 images (" in open_detection_data(spec, split="validation").description
    sizes = {split: len(open_detection_data(spec, split=split)) for split in ("train", "test", "validation", "holdout")}
    assert sizes == {"train": 2, "test": 1, "validation": 1, "holdout": 1}
    with pytest.raises(InputError, match="has several splits: choose one of TRAIN"):
        open_detection_data(spec, split=None)
    spec = split_column(kind, tmp_path / "b", ["train", "", "test"], "subset")
    with pytest.raises(InputError, match="column of splits has 'train', 'test', and is empty for some rows"):
        open_detection_data(spec)
    spec = split_column(kind, tmp_path / "c", ["fold 1", "fold 2"])
    assert list_splits(spec) == [] and len(open_detection_data(spec)) == 2
    spec = split_column(kind, tmp_path / "d", ["train", "test"], "subset", partition=["1", "2"])
    assert list_splits(spec) == ["train", "test"]


def test_rows_of_one_image_in_two_splits_are_refused(tmp_path):
    spec = split_column("csv", tmp_path, ["train", "test"])
    spec.write_text(spec.read_text().replace("1.png", "0.png"))
    with pytest.raises(InputError, match=r"line 3: '0\.png' is in split 'train' and in 'test'"):
        open_detection_data(spec)


def test_label_files_of_names_alike_are_not_one(tmp_path):
    files = [picture(tmp_path / name).name for name in ("a.jpg", "a.png", "a_jpg.gif")]
    data = open_detection_data(coco(tmp_path / "instances.json", *files))
    write_yolo(tmp_path / "labels", data)
    assert len(set((tmp_path / "labels").rglob("*_*.txt"))) == 3
