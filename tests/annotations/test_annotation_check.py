"""Each fault of annotated data is named with its file and settled as the table in `annotation_check` says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf.annotations.masks import clean_segmentation
from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.data.decode import BrokenImage
from mcl_hf.errors import InputError
from tests.scenes import write_scenes


def spoiled(folder: Path, change: Callable[[dict], None]) -> Path:
    write_scenes(folder, 4, most_objects=2)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][1].update(file_name="gone.png"), r"train/gone\.png: the file is missing: mend"),
        (lambda c: c["images"][1].update(width=99), r"0001\.png: annotated as 99x96 px, but the file has 128x96"),
        (lambda c: c["images"][1].update(id=1), r"0000\.png and .*0001\.png share the id 1"),
        (lambda c: c["annotations"][0].update(category_id=77), r"0000\.png, annotation 1: category 77 is not in"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: bbox \[1, 2, 3\] is not \[x, y"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "is not finite"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "str instead of polygons or run lengths"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [128, 96], "counts": "x"}),
            r"annotation 1: run lengths of size \[128, 96\] \(height, width\) in an image of \[96, 128\]",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [96, 128], "counts": [5, 6]}),
            "run lengths of 11 pixels in an image of 12288",
        ),
        (lambda c: c["categories"][2].update(name="ellipse"), "categories 3 and 9 share the name 'ellipse'"),
        (lambda c: c["annotations"].append(7), "its annotations are not all objects"),
        (lambda c: c["images"][1].update(width="wide"), r"0001\.png: a side of 'wide' px"),
        (lambda c: c.update(annotations=[]), "holds no annotations of its 4 images"),
        (lambda c: c.update(images=[]), "lists no images"),
        (
            lambda c: c["images"][1].update(file_name="0000.png"),
            r"0000\.png: listed twice, as images 1 and 2, with different objects: put them into one",
        ),
    ],
)
def test_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as raised:
        open_detection_data(spoiled(tmp_path, change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("written", "key"), [('"images": [', "images"), ('"bbox": [', "bbox"), ('"categories": [', "categories")]
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, written, key):
    write_scenes(tmp_path, 2, most_objects=2)
    file = tmp_path / "annotations" / "instances_train.json"
    text = json.dumps(json.loads(file.read_text()))
    file.write_text(text.replace(written, f'"{key}": [1, 2, 3, 4], {written}', 1))
    with pytest.raises(InputError, match=rf"instances_train\.json gives '{key}' twice, with different values: leave"):
        open_detection_data(tmp_path)
    file.write_text(text.replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 0'))  # which says the same
    assert len(open_detection_data(tmp_path)) == 2


def test_broken_ones_are_left_out_when_asked(tmp_path):
    def change(content: dict) -> None:
        content["images"][1]["file_name"] = "gone.png"
        content["images"][2]["width"] = 5
        content["annotations"][0]["category_id"] = 77

    folder = spoiled(tmp_path, change)
    with pytest.raises(InputError, match=r"gone\.png.*\(and 1 more broken images\)"):
        open_detection_data(folder)
    data = open_detection_data(folder, skip_broken=True)
    assert data.image_ids == [1, 4] and "broken images: 2, left out" in str(data.report)
    assert "broken annotations: 1, left out" in str(data.report)
    whole = open_detection_data(write_scenes(tmp_path / "whole", 4, most_objects=2))
    assert len(data[0].boxes) == len(whole[0].boxes) - 1
    assert np.array_equal(data[1].decode(), whole[3].decode()) and np.array_equal(data[1].boxes, whole[3].boxes)


def test_kept_and_reported(tmp_path):
    def change(content: dict) -> None:
        first = content["annotations"][0]["image_id"]
        box = {"image_id": first, "category_id": 3, "iscrowd": 0}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
        content["annotations"] += [
            {"id": 100, "bbox": [120, 10, 20, 20], "area": 400, **box},  # sticks out
            {"id": 101, "bbox": [10, 10, 0, 20], **box},  # no area
            {"id": 102, "bbox": [130, 10, 20, 20], **box},  # outside
            {"id": 103, "bbox": [10, 10, 20, 20], "segmentation": [[10, 10, 30, 30]], **box},  # a polygon of two points
            {"id": 104, "bbox": [10, 10, 20, 20], **{**box, "iscrowd": 1}},
            {"id": 104, "bbox": [10, 10, 20, 20], **{**box, "image_id": 999}},
            {"id": 104, "bbox": [10, 10, 20, 20], **box},
        ]

    data = open_detection_data(spoiled(tmp_path, change))
    report = str(data.report)
    for line in (
        "boxes that stick out of the image: 1, clipped in training",
        "boxes without area in the image: 2, left out in training",
        "objects without a mask: 6,",
        "crowd regions: 1, left out in training, ignored in evaluation",
        "images without objects: 1, kept",
        "annotations of images that are not listed: 1, left out (annotation 104 of image 999)",
        "annotation ids that are zero or used twice: 1, numbered anew (id 104)",
    ):
        assert line in report, f"{line}\n{report}"
    assert report in data.description
    item = data[0]
    assert [120, 10, 140, 30] in item.boxes.tolist() and item.areas[-3] == 400  # as annotated
    targets = item.training_targets()
    assert [120, 10, 128, 30] in targets["boxes"].tolist()  # clipped
    assert len(targets["boxes"]) == len(item.boxes) - 3 and targets["boxes"].dtype == np.float32
    with_masks = item.training_targets(masks=True)
    assert len(with_masks["masks"]) == len(with_masks["boxes"]) == len(item.boxes) - 6
    assert len(data[1].boxes) == 0 and data.without_empty().image_ids == [1, 3, 4]


def test_pictures_that_exif_turns(tmp_path):
    """Annotated upright, they are read upright; annotated as stored, as stored; both are told by the listed size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # stored 40 x 20 with the left half white; upright 20 x 40 with the top white
    images = []
    for number, size in enumerate([(20, 40), (40, 20), (None, None)], start=1):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=exif, quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]})
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5]} for n in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    data = open_detection_data(tmp_path)
    upright, stored, unlisted = (item.decode() for item in data)
    assert upright.shape == unlisted.shape == (40, 20, 3) and stored.shape == (20, 40, 3)
    assert upright[2, 17, 0] > 200 and upright[37, 2, 0] < 50 and stored[17, 2, 0] > 200 and stored[2, 37, 0] < 50
    assert (data[2].width, data[2].height) == (20, 40)
    assert "images that were annotated unturned: 1, read unturned" in str(data.report)


def test_sizes_may_be_written_as_text(tmp_path):
    def change(content: dict) -> None:
        for image in content["images"]:
            image.update(width=str(image["width"]), height=float(image["height"]))

    data = open_detection_data(spoiled(tmp_path, change))
    assert (data[0].width, data[0].height) == (128, 96) and data[0].decode().shape == (96, 128, 3)


def test_files_that_were_not_checked_are_when_they_are_read(tmp_path):
    """Boxes of one size on pixels of another would be wrong without a word; what EXIF turned is read as annotated."""
    folder = spoiled(tmp_path, lambda content: content["images"][1].update(width=64))
    data = open_detection_data(folder, check_files=False)
    assert data[0].decode().shape == (96, 128, 3)
    with pytest.raises(BrokenImage, match="annotated as 64x96 px, but the file has 128x96"):
        data[1].decode()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(folder / "train" / "0000.png")
    picture.save(folder / "train" / "0000.png", exif=exif)  # upright 96 x 128; the annotations say 128 x 96
    assert np.array_equal(data[0].decode(), np.asarray(picture))


def test_masks_of_crowds_alone_are_none_to_learn_from(tmp_path):
    def change(content: dict) -> None:
        for annotation in content["annotations"][1:]:
            annotation.pop("segmentation")
        content["annotations"][0]["iscrowd"] = 1

    assert not open_detection_data(spoiled(tmp_path, change)).has_masks


def test_files_need_not_be_checked(tmp_path):
    folder = spoiled(tmp_path, lambda content: content["images"][1].update(file_name="gone.png"))
    assert len(open_detection_data(folder, check_files=False)) == 4


def each(**values) -> Callable[[dict], None]:
    return lambda content: [annotation.update(values) for annotation in content["annotations"]] and None


@pytest.mark.parametrize("value", [0, "0", "false", False, None, 0.0, "", 1, "1", "True", True])
def test_flags_however_they_are_written(tmp_path, value):
    data = open_detection_data(spoiled(tmp_path, each(iscrowd=value)))
    assert data.columns.iscrowd.all() if value in (1, "1", "True") else not data.columns.iscrowd.any()


@pytest.mark.parametrize("area", [float("nan"), -5, "none", 1e400])
def test_odd_areas_are_computed(tmp_path, area):
    data = open_detection_data(spoiled(tmp_path, each(area=area)))
    assert np.array_equal(data.columns.areas, [mask.sum() for item in data for mask in item.masks()])
    assert f"areas that are negative or no number: {len(data.columns.areas)}, computed" in str(data.report)


def test_boxes_in_shares_are_no_pixels(tmp_path):
    def change(content: dict) -> None:
        for entry in content["annotations"]:
            entry["bbox"] = [value / side for value, side in zip(entry["bbox"], (128, 96) * 2, strict=True)]

    with pytest.raises(InputError, match="look like shares of the image"):
        open_detection_data(spoiled(tmp_path, change), skip_broken=True)
    some = spoiled(tmp_path / "some", lambda content: content["annotations"][0].update(bbox=[0.1, 0.1, 0.5, 0.5]))
    assert "boxes that end within the first pixel: 1, kept" in str(open_detection_data(some).report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][0].update(id="3"), "some ids of categories are numbers and some are texts"),
        (lambda c: c["categories"][0].update(id=[3]), r"the id \[3\] is neither"),
        (lambda c: c["categories"][0].update(name=None), "category 3 has the name None"),
        (lambda c: c["categories"][0].update(name=" "), "category 3 has the name ' ', which is no text"),
        (lambda c: c["categories"][0].update(name="\ud800"), r"category 3 has the name '\\ud800', which is no text"),
        (lambda c: c["annotations"][0].update(category_id=[3]), r"category \[3\] is not in the list"),
        (lambda c: c["images"][0].update(id=10**400), "the id 1000.* is neither"),
        (lambda c: c["annotations"][0].update(image_id=[1]), r"image_id \[1\] is no id"),
        (lambda c: c["annotations"][0].update(category_id=10**400), "category 1000.*is not in the list"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]),
            r"annotation 1: bbox \[1, 2, 3, 1000.* is not four numbers",
        ),
        (lambda c: c["annotations"][0].update(bbox=None), "annotation 1: bbox None is not"),
        (lambda c: c["annotations"][0].update(iscrowd="perhaps"), "iscrowd 'perhaps' is neither 0 nor 1"),
        (lambda c: c["images"][0].update(file_name=None), "image 1: file_name None cannot name a file"),
        (lambda c: c["images"][0].update(file_name=12), "image 1: file_name 12 cannot name a file"),
        (lambda c: c["images"][0].update(file_name="a\0b"), r"image 1: file_name 'a\\x00b' cannot name a file"),
        (lambda c: c["images"][0].update(file_name="a" * 5000), "File name too long"),
        (lambda c: c["images"][0].update(file_name="\x1b[31m.png"), r"\\x1b\[31m\.png: the file is missing"),
        (lambda c: c["images"][0].update(file_name="."), "is a folder"),
    ],
)
def test_odd_values_are_one_line(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as raised:
        open_detection_data(spoiled(tmp_path, change))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 6000


MASKS = [
    [[5, 6, 25, 6, 25, None]],
    [[5, 6, 25, 6, 25, float("nan")]],
    [[5, 6, 25, 6, 25, float("inf")]],
    [[5, 6, 25, 6, 25, 1e9]],
    [[5, 6, 25, 6, 25, 10**400]],
    [[-900, -900, 900, 900] * 2500],
    [[{"x": 5, "y": 6}] * 6],
    [{"size": [96, 128], "counts": [5, 6]}] * 2,
    {"size": [96, 128], "counts": [-5, 12293]},
    {"size": [96, 128], "counts": [0.5, 12287.5]},
    {"size": [96, 128], "counts": 7},
    {"size": 5, "counts": [12288]},
    {"size": [96, 128], "counts": ""},
    {"size": [96, 128], "counts": "zzzz~~~~"},
    {"size": [96, 128], "counts": "PPPPPPPPPPPPPPPP"},
    {"size": [96, 128], "counts": "b'1P1'"},
]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask)[:50])
def test_masks_that_cannot_be_drawn(tmp_path, mask):
    folder = spoiled(tmp_path, lambda content: content["annotations"][0].update(segmentation=mask))
    with pytest.raises(InputError, match=r"0000\.png, annotation 1: ") as raised:
        open_detection_data(folder)
    assert "\n" not in str(raised.value)
    data = open_detection_data(folder, skip_broken=True)
    assert "broken annotations: 1, left out" in str(data.report)
    assert all(set(np.unique(item.masks())) <= {0, 1} for item in data)


def test_run_lengths_of_a_picture_that_there_cannot_be(tmp_path):
    def change(content: dict) -> None:
        content["images"][0]["width"] = 1e30
        content["annotations"][0]["segmentation"] = {"size": [96, 128], "counts": "1"}

    folder = spoiled(tmp_path, change)
    with pytest.raises(InputError, match=r"0000\.png: a side of 1e\+30 px"):
        open_detection_data(folder)
    assert "broken images: 1, left out" in str(open_detection_data(folder, skip_broken=True).report)


def test_pairs_and_a_list_of_one_are_read(tmp_path):
    def change(content: dict) -> None:
        first, second = content["annotations"][:2]
        (points,) = first["segmentation"]
        first["segmentation"] = [points[place : place + 2] for place in range(0, len(points), 2)]
        second["segmentation"] = [{"size": [96, 128], "counts": [0, 96, 12192]}]

    data = open_detection_data(spoiled(tmp_path, change))
    whole = open_detection_data(write_scenes(tmp_path / "whole", 4, most_objects=2))
    masks = [mask for item in data for mask in item.masks()]
    assert np.array_equal(masks[0], whole[0].masks()[0]) and masks[1][:, 0].all() and masks[1].sum() == 96


def test_run_lengths_are_judged_as_pycocotools_writes_them():
    from pycocotools import mask as coco_mask

    def refused(counts: list[str], pixels: list[int]) -> list[int]:
        found = []
        for number, (text, size) in enumerate(zip(counts, pixels, strict=True)):
            try:
                clean_segmentation({"size": [1, size], "counts": text}, 1, size)
            except ValueError:
                found.append(number)
        return found

    numbers = np.random.default_rng(0)
    masks = [numbers.random(numbers.integers(1, 60, 2)) < share for share in (0, 0.03, 0.5, 1) for _ in range(20)]
    large = np.zeros((3000, 3000), bool)
    large[100:2900, 5:2950] = True
    masks.append(large)
    counts = [coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]
    pixels = [mask.size for mask in masks]
    assert refused(counts, pixels) == []
    assert refused(counts, [size + 1 for size in pixels]) == list(range(len(masks)))
    spoilt = [counts[30], counts[30][:-1], counts[30] * 2, "", counts[30]]
    assert refused(spoilt, [pixels[30]] * 5) == [1, 2, 3]


def test_a_file_that_was_cut_short_is_found_before_a_run(tmp_path):
    folder = spoiled(tmp_path, lambda content: None)
    file = folder / "train" / "0001.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"0001\.png: .*truncated"):
        open_detection_data(folder)
    assert open_detection_data(folder, skip_broken=True).image_ids == [1, 3, 4]
    file.write_bytes(whole + b"\0" * 100)  # whole, with something after its end
    assert len(open_detection_data(folder)) == 4


def test_json_that_nests_deeply(tmp_path):
    (tmp_path / "x.json").write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(InputError, match="nests too deeply"):
        open_detection_data(tmp_path / "x.json")


def test_a_file_that_is_listed_twice_with_the_same_objects_is_kept_and_said(tmp_path):
    def repeat(content):
        content["images"].append({**content["images"][0], "id": 9})
        content["annotations"] += [{**a, "image_id": 9} for a in content["annotations"] if a["image_id"] == 1]

    data = open_detection_data(spoiled(tmp_path, repeat))
    assert len(data) == 5 and "images that are listed twice: 1, kept" in data.description
