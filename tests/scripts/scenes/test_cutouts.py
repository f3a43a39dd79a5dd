import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scenes.archives import SourceFile
from scenes.catalogue import Entry
from scenes.cutouts import cut_out, from_white_ground, load_index, prepare, print_index

from mcl_hf.errors import InputError
from tests.scripts.scenes.drawing import encoded


def test_white_that_touches_the_border_becomes_clear_and_white_inside_stays() -> None:
    image = Image.new("RGB", (60, 40), "white")
    ImageDraw.Draw(image).rectangle((15, 10, 45, 30), fill=(20, 20, 20))
    ImageDraw.Draw(image).rectangle((25, 16, 35, 24), fill="white")
    alpha = np.asarray(from_white_ground(image))[..., 3]
    assert alpha[0, 0] == 0 and alpha[39, 59] == 0
    assert alpha[20, 30] == 255 and alpha[20, 18] == 255


def test_what_is_too_small_to_be_told_is_left_out() -> None:
    def shape_of(width: int, height: int) -> tuple[int, int] | None:
        image = Image.new("RGBA", (500, 500))
        ImageDraw.Draw(image).rectangle((9, 9, 8 + width, 8 + height), fill=(1, 2, 3, 255))
        source = SourceFile("package", "x.webp", "GPL-2", encoded(image))
        found = cut_out(Entry("bird", "bird:x", "photo", False, source))
        return None if found is None else found.size

    assert shape_of(60, 40) == (60, 40), "cropped to what is opaque"
    assert shape_of(480, 240) == (420, 210), "shrunk to the largest side"
    assert shape_of(16, 16) is None and shape_of(400, 8) is None


def test_preparing_writes_every_cut_out_with_its_source_and_licence(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = prepare(sources, tmp_path / "out")
    assert load_index(tmp_path / "out") == json.loads(json.dumps(index))
    assert [row["label"] for row in index["objects"]].count("ungulate") == 2
    for row in (*index["objects"], *index["backgrounds"]):
        with Image.open(tmp_path / "out" / row["file"]) as image:
            assert (image.width, image.height) == (row["width"], row["height"])
        assert row["licence"] and row["package"] and row["source_file"]
    fish = next(row for row in index["objects"] if row["label"] == "fish")
    with Image.open(tmp_path / "out" / fish["file"]) as image:
        assert image.width <= 60, "one of the two phases"
        assert image.getpixel((image.width // 2, 8))[2] > 150, "the left, blue one"
    tool = next(row for row in index["objects"] if row["label"] == "tool")
    assert tool["width"] < 45, "cut out of its white ground"
    print_index(index)
    assert "bird                   1 (  1)           0 (  0)" in capsys.readouterr().out


def test_a_folder_that_holds_something_is_not_written_to(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        prepare(sources, tmp_path)
    with pytest.raises(InputError, match=r"index\.json"):
        load_index(tmp_path)
