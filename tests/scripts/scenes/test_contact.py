import json
import sys
from pathlib import Path

import make_scenes
import numpy as np
import pytest
from scenes.contact import ContactSettings, contact, embedded_photos, objects_of
from scenes.contact_meshes import object_folder, object_names, read_mesh, textured
from scenes.contact_render import majority, silhouette_px

from mcl_hf.errors import InputError

SQUARE = np.array([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def test_a_photo_lies_on_a_face_along_its_axis_and_keeps_its_proportions() -> None:
    mesh = textured(SQUARE, FACES)
    np.testing.assert_allclose(mesh.normals, np.tile([0, 0, 1.0], (6, 1)))
    np.testing.assert_allclose(mesh.texture, mesh.corners[:, :2] / 2)
    upright = textured(SQUARE[:, [0, 2, 1]], FACES)
    np.testing.assert_allclose(upright.texture, upright.corners[:, [0, 2]] / 2)


def test_a_mesh_is_read_in_metres(tmp_path: Path) -> None:
    path = tmp_path / "000.obj"
    path.write_text("# a comment\nv 0 0 0\nv 2 0 0\nv 0 2 0\nvn 0 0 1\nf 1//1 2//1 3//1\n")
    mesh = read_mesh(path, 0.5)
    np.testing.assert_allclose(mesh.vertices, [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert mesh.corners.shape == (3, 3)


def test_the_object_that_owns_most_of_a_block_gets_the_pixel() -> None:
    seen = np.array([[0, 0, 1, -1], [0, 1, 1, 1], [-1, -1, 0, 1], [-1, 0, 0, 1]])
    np.testing.assert_array_equal(majority(seen, 2, 2), [[0, 1], [-1, 0]])


def test_a_silhouette_counts_what_lies_in_the_picture() -> None:
    camera = np.eye(4)
    whole = textured(SQUARE[:, [0, 1, 2]] * [0.5, 1, 1] - [0.5, 0.5, 0], FACES)  # a unit square in -1..1: a quarter
    assert silhouette_px(whole.corners, camera, camera, 40) == pytest.approx(400, rel=0.02)
    beside = whole.corners + np.array([1.0, 0, 0])  # its left half is in the picture
    assert silhouette_px(beside, camera, camera, 40) == pytest.approx(200, rel=0.02)


def test_every_object_is_tested_in_one_fold_and_in_one_split_of_each() -> None:
    names = [f"{number:03d}" for number in range(1000)]
    tested = []
    for fold in range(6):
        own = objects_of(names, fold)
        assert sorted(name for part in own.values() for name in part) == names
        assert len(own["train"]) >= 660
        tested += own["test"]
    assert sorted(tested) == names


def test_photos_of_the_library_serve_as_textures() -> None:
    photos = list(embedded_photos())
    assert len(photos) > 700 and photos[0][3][:2] == b"\xff\xd8"


def test_without_pybullet_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert make_scenes.main(["contact", "--out", str(tmp_path / "out")]) == 2
    assert "pip install pybullet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense_are_refused() -> None:
    for options, message in (
        ({"size": 3}, "--size 3"),
        ({"fold": -1}, "--fold -1"),
        ({"seed": -2}, "--seed -2"),
        ({"train": 0, "val": 0, "test": 0}, "not all 0"),
    ):
        with pytest.raises(InputError, match=message):
            ContactSettings(**options)


def test_dropped_objects_touch_and_their_masks_are_disjoint(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    settings = ContactSettings(size=48, fold=1, train=1, val=0, test=2)
    first, again = (contact(tmp_path / name, settings) for name in ("one", "two"))
    assert first == again
    for name in ("train/000000.jpg", "test/000001.jpg", "annotations/instances_test.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    content = json.loads((tmp_path / "one" / "annotations" / "instances_test.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["object"]
    assert len(content["annotations"]) >= 5 and any(one["touching"] for one in content["annotations"])
    train = json.loads((tmp_path / "one" / "annotations" / "instances_train.json").read_text())
    groups = [{one["group"] for one in part["annotations"]} for part in (content, train)]
    assert not groups[0] & groups[1]
    for number in (1, 2):
        areas = [one["area"] for one in content["annotations"] if one["image_id"] == number]
        assert sum(areas) <= 48 * 48
    assert all(0 < one["visible"] <= 1 for one in content["annotations"])


def test_the_package_brings_a_thousand_objects() -> None:
    pytest.importorskip("pybullet")
    names = object_names(object_folder())
    assert len(names) == 1000 and names[0] == "000"
