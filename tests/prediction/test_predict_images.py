"""`mcl_hf.predict`: images without annotations, tiles, resume, and annotations that fine-tuning reads back equal."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl_hf
from mcl_hf.cli.predict import main
from mcl_hf.detection import open_detection_data
from mcl_hf.detectors.open_detector import open_detector
from mcl_hf.errors import InputError
from mcl_hf.evaluation.results import ImageDetections
from mcl_hf.models import MCLImageProcessor
from mcl_hf.prediction import predict_images
from mcl_hf.prediction.predict_images import PREDICTIONS, find_images
from mcl_hf.prediction.tiles import cut, merge
from mcl_hf.viz.detections import none_found
from tests.detectors.test_transformers_detectors import KWARGS, OPTIONS
from tests.scenes import write_scenes
from tests.tiny_detector import tiny_detector


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("pictures"), 3, width=96, height=72) / "train"


@pytest.fixture(scope="module", params=["mask_rcnn", "rt_detr_v2"])
def detector(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    names = {0: "ring", 1: "a box", 2: "cafe\u0301"}
    if request.param == "mask_rcnn":
        model = tiny_detector(num_labels=None, id2label=names)
        processor = MCLImageProcessor.from_config(model.config)
    else:
        from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS, start_transformers_detector

        torch.manual_seed(0)
        options = {**OPTIONS["rt_detr_v2"], "backbone_kwargs": KWARGS}
        model, _ = start_transformers_detector("random", "rt_detr_v2", names, "resnet10t", **options)
        kind = TRANSFORMERS_DETECTORS["rt_detr_v2"]
        processor = kind.image_processor([0.5] * 3, [0.5] * 3, 64, 64)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def objects(data):
    """Boxes and class names of each image by its file's stem, in order."""
    found = {}
    for name, item in zip(data.names, data, strict=True):
        stem = name.rpartition("/")[2].rpartition(".")[0]
        labels = [data.category_names[label] for label in item.labels]
        found[stem] = (item.boxes, labels)
    return found


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_what_is_written_is_read_back_equal(detector, pictures, tmp_path, form):
    found = mcl_hf.predict(detector, pictures, tmp_path, threshold=0.01, formats=[form], pictures=1, device="cpu")
    assert len(found.data) == 3 and found.results
    images = str(pictures) if form == "coco" else None
    back = objects(open_detection_data(str(found.files[0]), images=images))
    for name, image_id in zip(found.data.names, found.data.image_ids, strict=True):
        own = [result for result in found.results if result["image_id"] == image_id]
        boxes, labels = back[name.rpartition("/")[2].rpartition(".")[0]]
        wanted = np.array([result["bbox"] for result in own]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2], wanted[:, :2], atol=1e-4)
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], wanted[:, 2:], atol=1e-4)
        assert labels == [found.data.category_names[result["category_id"] - 1] for result in own]
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 1


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_pictures_that_differ_in_their_ending_alone_have_annotations_of_their_own(detector, pictures, tmp_path, form):
    """The last one's were those of both."""
    images = f"{tmp_path}/in".replace("/", "_")
    first, second, _ = sorted(pictures.iterdir())
    (tmp_path / "in").mkdir()
    Image.open(first).save(tmp_path / "in" / "a.png")
    Image.open(second).save(tmp_path / "in" / "a.bmp")
    (tmp_path / "in" / os.fsdecode(b"\xfc.png")).write_bytes(first.read_bytes())  # as old archives have it
    found = mcl_hf.predict(detector, tmp_path / "in", tmp_path / "out", threshold=0.01, formats=form, device="cpu")
    back = objects(open_detection_data(str(found.files[0])))
    number = {name: len(boxes) for name, (boxes, _) in back.items()}
    ids = dict(zip(["a_bmp", "a_png", os.fsdecode(b"\xfc")], found.data.image_ids, strict=True))
    assert {stem.removeprefix(images).lstrip("_"): count for stem, count in number.items()} == {
        stem: sum(result["image_id"] == image_id for result in found.results) for stem, image_id in ids.items()
    }
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


def test_it_goes_on_where_it_was_interrupted(detector, pictures, tmp_path, monkeypatch):
    options = {"threshold": 0.01, "device": "cpu", "pictures": 0}
    whole = mcl_hf.predict(detector, pictures, tmp_path / "whole", **options)
    mcl_hf.predict(detector, pictures, tmp_path / "cut", **options)
    lines = (tmp_path / "cut" / PREDICTIONS).read_text().splitlines(keepends=True)
    (tmp_path / "cut" / PREDICTIONS).write_text("".join(lines[:2]) + lines[2][:20])  # killed while writing
    with pytest.raises(InputError, match="--resume"):
        mcl_hf.predict(detector, pictures, tmp_path / "cut", **options)
    looked_at = []
    original = predict_images._detect
    monkeypatch.setattr(predict_images, "_detect", lambda *given: looked_at.append(given[2].name) or original(*given))
    again = mcl_hf.predict(detector, pictures, tmp_path / "cut", resume=True, **options)
    assert len(looked_at) == 2 and again.results == whole.results
    with pytest.raises(InputError, match="threshold"):
        mcl_hf.predict(detector, pictures, tmp_path / "cut", resume=True, **{**options, "threshold": 0.5})
    moved = shutil.copytree(detector, tmp_path / "moved")
    assert mcl_hf.predict(moved, pictures, tmp_path / "cut", resume=True, **options).results == whole.results
    assert len(looked_at) == 2
    model, _ = open_detector(str(moved))
    next(model.parameters()).data.mul_(2)  # trained on
    model.save_pretrained(moved)
    with pytest.raises(InputError, match="begun with another detector_digest"):
        mcl_hf.predict(moved, pictures, tmp_path / "cut", resume=True, **options)
    for foreign in (b"[1]\n", b"\xff\n"):
        (tmp_path / "cut" / PREDICTIONS).write_bytes(foreign)
        with pytest.raises(InputError, match="cannot be read: choose another"):
            mcl_hf.predict(detector, pictures, tmp_path / "cut", resume=True, **options)


def test_a_picture_that_is_another_by_now_is_looked_at_anew(detector, pictures, tmp_path):
    images = Path(shutil.copytree(pictures, tmp_path / "images"))
    options = {"threshold": 0.01, "device": "cpu", "formats": ["voc"]}
    mcl_hf.predict(detector, images, tmp_path / "out", **options)
    Image.new("RGB", (40, 30)).save(images / "0001.png")
    again = mcl_hf.predict(detector, images, tmp_path / "out", resume=True, **options)
    assert again.results == mcl_hf.predict(detector, images, tmp_path / "whole", **options).results
    lines = [json.loads(line) for line in (tmp_path / "out" / PREDICTIONS).read_text().splitlines()]
    third = mcl_hf.predict(detector, images, tmp_path / "out", resume=True, **options)
    assert len(lines) == 5 and third.results == again.results


def test_broken_images_are_named_and_the_table_told(detector, pictures, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for path in pictures.glob("*.png"):
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "images" / "cut.png").write_bytes(path.read_bytes()[:2000])
    out = tmp_path / "out"
    given = [str(detector), str(tmp_path / "images"), "--output-dir", str(out), "--threshold", "0.01", "--tile", "64"]
    assert main([*given, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "bad.jpg" in said and "cut.png" in said and "objects in 3 images" in said and "mean score" in said
    content = json.loads((out / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["0000.png", "0001.png", "0002.png"]


def test_names_of_folders_are_no_more_than_text(detector, pictures, tmp_path, capsys):
    folder = tmp_path / "odd\udcff\x1b"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "0000.png").read_bytes())
    assert main([str(detector), str(folder), "--output-dir", str(folder / "out"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "1 images" in said and f"written: {tmp_path}/odd\\xff\\x1b/out/annotations.json" in said


def test_files_folders_patterns_and_lists(pictures, tmp_path, monkeypatch):
    everything = find_images([str(pictures)])
    assert [name.rpartition("/")[2] for name in everything] == ["0000.png", "0001.png", "0002.png"]
    assert find_images([f"{pictures}/*1.png", str(pictures)]) == [everything[1], everything[0], everything[2]]
    assert find_images(["-"], io.StringIO(f"{everything[2]}\n\n")) == [everything[2]]
    for folder in ("run [1]", "run 1"):  # the first is no pattern, as it is there
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(Path(everything[0]).read_bytes())
    assert find_images([f"{tmp_path}/run [1]/*.png"]) == [f"{tmp_path}/run [1]/a.png"]
    shutil.rmtree(tmp_path / "run [1]")
    assert find_images([f"{tmp_path}/run [1]/*.png"]) == [f"{tmp_path}/run 1/a.png"]
    shutil.rmtree(tmp_path / "run 1")
    monkeypatch.chdir(pictures)  # which an empty name does not mean
    for wrong in (str(tmp_path), str(tmp_path / "no.png"), f"{tmp_path}/*.png", ""):
        with pytest.raises(InputError, match="images"):
            find_images([wrong])


def test_tiles_cover_the_picture_and_are_merged_in_any_order():
    pixels = np.zeros((150, 230, 3), np.uint8)
    tiles = cut("a", pixels, 100, 0.2)
    seen = np.zeros(pixels.shape[:2], int)
    for tile in tiles[1:]:
        assert (tile.height, tile.width) == (100, 100)
        seen[tile.y : tile.y + 100, tile.x : tile.x + 100] += 1
    assert seen.min() == 1 and len(cut("a", pixels, 230, 0.2)) == 1
    numbers = np.random.default_rng(0)
    things = [np.array([x, y, x + 8, y + 8]) for x, y in numbers.uniform(0, [222, 142], (30, 2))] + [
        np.array([60.0, 20, 200, 130])
    ]
    found = []
    for number, tile in enumerate(tiles):
        frame = np.array([tile.x, tile.y, tile.x + tile.width, tile.y + tile.height])
        boxes = [
            np.concatenate([np.maximum(b[:2], frame[:2]), np.minimum(b[2:], frame[2:])]) - [*frame[:2]] * 2
            for b in things
        ]
        kept = [n for n, box in enumerate(boxes) if (box[2:] > box[:2]).all() and (number > 0) == (n < 30)]
        scores = np.array([0.9 - 0.01 * n for n in kept])
        found.append(
            ImageDetections(
                "a", np.array([boxes[n] for n in kept]).reshape(-1, 4), scores, np.array([n % 3 for n in kept])
            )
        )
    merged = merge(tiles, found)
    assert len(merged.scores) >= 28  # things of a class that truly overlap may be one
    assert any(np.allclose(box, things[-1]) for box in merged.boxes)  # only the whole picture has it whole
    order = numbers.permutation(len(tiles))
    other = merge([tiles[n] for n in order], [found[n] for n in order])
    assert np.array_equal(other.boxes, merged.boxes) and np.array_equal(other.scores, merged.scores)


def test_pieces_of_an_object_that_a_tile_cuts_off_are_left_out():
    whole, left, right = cut("a", np.zeros((100, 180, 3), np.uint8), 100, 0.2)
    one = np.array([[70.0, 20, 150, 80]])
    found = [
        ImageDetections("a", one, np.array([0.6]), np.array([0])),
        ImageDetections("a", np.array([[70.0, 20, 100, 80]]), np.array([0.9]), np.array([0])),
        ImageDetections("a", np.array([[0.0, 20, 70, 80]]), np.array([0.8]), np.array([0])),
    ]
    merged = merge([whole, left, right], found)
    assert merged.boxes.tolist() == one.tolist()
    found[1] = ImageDetections("a", found[1].boxes, found[1].scores, np.array([1]))  # another class stays
    assert len(merge([whole, left, right], found).boxes) == 2


def test_values_out_of_range(detector, pictures):
    wrong = ({"threshold": 2}, {"tile": 8}, {"overlap": 1}, {"formats": ["csv"]}, {"batch_size": 0})
    for options in (*wrong, {"precision": "float32"}, {"device": "cuda:1"}):
        with pytest.raises(InputError, match=next(iter(options))):
            mcl_hf.predict(detector, pictures, **options)


def test_values_of_python_are_those_of_the_command(detector, pictures, tmp_path):
    options = {"threshold": np.float32(0.5), "tile": np.int64(0), "formats": iter(["voc"]), "pictures": 0}
    found = mcl_hf.predict(detector, np.array([str(pictures)]), tmp_path, device="cpu", **options)
    assert found.files == [tmp_path / "voc"]
    options |= {"threshold": 0.5, "tile": 0, "formats": "voc"}
    assert mcl_hf.predict(detector, pictures, tmp_path, resume=True, device="cpu", **options).files == found.files


def test_odd_pictures_are_looked_at(detector, tmp_path):
    Image.fromarray(np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)).save(tmp_path / "deep.png")
    Image.new("P", (40, 90)).save(tmp_path / "palette.gif")
    assert len(mcl_hf.predict(detector, tmp_path, device="cpu").data) == 2


def test_pictures_without_a_detection_say_how_near_the_best_one_came(detector, pictures, tmp_path, capsys):
    given = [str(detector), str(pictures), "--output-dir", str(tmp_path / "out"), "--threshold", "1", "--device", "cpu"]
    assert main(given) == 0
    found = mcl_hf.predict(detector, pictures, device="cpu", threshold=0.0)
    best = {n: max(r["score"] for r in found.results if r["image_id"] == n) for n in found.data.image_ids}
    assert found.highest == best and not mcl_hf.predict(detector, pictures, device="cpu", threshold=1.0).results
    highest = f"{max(best.values()):.3g}"
    assert f"no detection has a score of 1, the highest is {highest}: a lower --threshold" in capsys.readouterr().out
    assert main([*given, "--resume"]) == 0 and f"the highest is {highest}" in capsys.readouterr().out
    drawn = sorted((tmp_path / "out" / "pictures").glob("*.jpg"))
    assert len(drawn) == 3
    for path, scene in zip(drawn, sorted(pictures.glob("*.png")), strict=True):
        changed = np.abs(np.asarray(Image.open(path), int) - np.asarray(Image.open(scene).convert("RGB"), int)).max(2)
        assert (changed[8:24, 8:60] > 60).mean() > 0.3 and (changed[-20:] > 60).mean() < 0.02  # a line of text above
    assert none_found(0.5, 0.1234) == "none of score 0.5 or more, the highest is 0.123"
    assert none_found(0.5, None) == "none of score 0.5 or more"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A RetinaNet that has learned 16 scenes of 96 px by heart, and the scenes."""
    scenes = write_scenes(tmp_path_factory.mktemp("scenes"), 16, width=96, height=96, num_classes=1, masks=None)
    sides = {"min_size_train": [96], "max_size_train": 96, "min_size_test": 96, "max_size_test": 96}
    result = mcl_hf.finetune(
        init="demo", detector="retinanet", data=str(scenes), batch_size=4, max_steps=80, base_learning_rate=0.04,
        detector_options={"dense_norm": "group_norm", "topk_candidates": 100}, flip=0.0, warmup_steps=5,
        output_dir=str(tmp_path_factory.mktemp("trained") / "run"), save_every_steps=0, precise_bn_steps=0,
        num_workers=0, device="cpu", callbacks=(), **sides,
    )  # fmt: skip
    return result.output_dir, open_detection_data(str(scenes), split="train")


def hits(boxes, results) -> set[int]:
    """Which of the boxes were found: IoU above 0.5."""
    found = np.array([result["bbox"] for result in results]).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    lower, upper = np.maximum(boxes[:, None, :2], found[:, :2]), np.minimum(boxes[:, None, 2:], found[:, 2:])
    shared = np.clip(upper - lower, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (found[:, 2:] - found[:, :2]).prod(1)
    return set(np.flatnonzero((shared / (areas - shared) > 0.5).any(1)).tolist())


@pytest.mark.slow
def test_tiles_find_what_is_found_without_them_and_tiny_objects_as_well(trained, tmp_path):
    detector, scenes = trained
    many, boxes = Image.new("RGB", (384, 384)), []
    for number, scene in enumerate(scenes):  # side by side, of which the detector's 96 px show a quarter of the size
        corner = (number % 4 * 96, number // 4 * 96)
        many.paste(Image.fromarray(scene.decode()), corner)
        boxes.append(scene.boxes + np.array([*corner, *corner]))
    many.save(tmp_path / "many.png")
    options = {"threshold": 0.3, "device": "cpu"}
    plain, tiled = (mcl_hf.predict(detector, tmp_path / "many.png", tile=tile, **options) for tile in (0, 96))
    count = len(np.concatenate(boxes))
    assert len(hits(np.concatenate(boxes), plain.results)) < 0.1 * count
    assert len(hits(np.concatenate(boxes), tiled.results)) > 0.7 * count
    for number in range(4):  # one scene twice as large, of which the whole picture shows the objects as learned
        Image.fromarray(scenes[number].decode()).resize((192, 192)).save(tmp_path / f"large{number}.png")
        plain, tiled = (
            mcl_hf.predict(detector, tmp_path / f"large{number}.png", tile=tile, **options) for tile in (0, 96)
        )
        found = np.array([result["bbox"] for result in plain.results]).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        assert len(found) and len(hits(found, tiled.results)) == len(found)


def test_what_was_written_among_the_images_is_not_looked_at_again(detector, tmp_path):
    folder = write_scenes(tmp_path, 2, width=64, height=64) / "train"
    options = {"threshold": 0.0, "formats": ("coco", "yolo", "voc")}
    first = mcl_hf.predict(detector, folder, folder, **options)
    again = mcl_hf.predict(detector, folder, folder, resume=True, **options)
    assert again.data.names == first.data.names and len(first.data.names) == 2
    with pytest.raises(InputError, match="written into"):
        mcl_hf.predict(detector, folder / "pictures", folder, resume=True, **options)


@pytest.mark.parametrize("name", ["annotations.json", "pictures", "yolo", "voc"])
def test_what_is_somebody_elses_in_the_folder_is_not_written_over(detector, pictures, tmp_path, name):
    mine = tmp_path / name / "mine.txt" if "." not in name else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("drawn by hand")
    with pytest.raises(InputError, match=f"holds {name} of something else"):
        mcl_hf.predict(detector, pictures, tmp_path, threshold=0.01, formats=["coco", "yolo", "voc"], device="cpu")
    assert mine.read_text() == "drawn by hand" and len(list(tmp_path.iterdir())) == 1
