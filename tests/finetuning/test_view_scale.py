"""How large objects are in views and in the detector: the numbers, and the advice, which has to bring them together."""

import itertools

import numpy as np
import pytest
from PIL import Image

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.data import open_source
from mcl_hf.finetuning.view_scale import about_scale, object_line, shrink_warning
from mcl_hf.pretraining.arguments import load_arguments
from tests.scenes import write_scenes

SMALL = {"region_size": 2, "min_crop_scale": 0.28}  # views of 64 px; the median crop has 0.8 of each side


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of 640 x 640 px with squares of 40 px on average."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6, width=640, height=640, size=(0.0625, 0.0626))


def line_of(scenes, least=640, **options):
    data = open_detection_data(scenes, split="train")
    return object_line(load_arguments(**{**SMALL, **options}), data, least, 2 * least)


def test_sides_are_those_of_crop_and_detector(scenes):
    assert "has 5 px a side in the views (64 px), and 40 px in a detector" in line_of(scenes)  # 40 * 64 / (0.8 * 640)
    assert "has 5 px a side in the views (64 px), and 20 px" in line_of(scenes, least=320)
    assert "has 40 px a side in the views" in line_of(scenes, tile=80)  # 64 / (0.8 * 80) px per px
    assert "has 35 px a side in the views" in line_of(scenes, tile=90)  # 640 / 7: 91 px


@pytest.mark.parametrize(
    ("options", "least"), [({}, 320), ({"tile": 500}, 320), ({"tile": 32}, 320), ({"region_size": 7}, 100), ({}, 640)]
)
def test_the_advice_is_not_warned_about_again(scenes, options, least):
    first = line_of(scenes, least, **options)
    assert first.startswith("warning: ")
    advice = first.rsplit(" with ", 1)[1].replace(" and whole pictures", "").split()
    given = {
        flag[2:].replace("-", "_"): int(value) for flag, value in itertools.pairwise(advice) if flag.startswith("--")
    }
    assert given and not line_of(scenes, least, **{**options, **given}).startswith("warning")


def test_small_pictures_in_large_views_and_objects_larger_than_a_view(tmp_path):
    data = open_detection_data(write_scenes(tmp_path, 4, width=64, height=64, size=(0.9, 0.91)), split="train")
    assert "--region-size 1 for views of 32 px" in object_line(load_arguments(region_size=7), data, 32, 64)
    assert "--region-size 15 for views of 480 px" in object_line(load_arguments(**SMALL), data, 256, 512)


def test_annotated_data_are_told_of_and_others_only_where_they_shrink(scenes, tmp_path):
    def told(data, **options):
        arguments = load_arguments(data=str(data), **{**SMALL, **options})
        return about_scale(arguments, open_source(arguments.data, tile=arguments.tile))

    assert "5 px a side in the views" in told(scenes)
    (tmp_path / "plain").mkdir()
    for number in range(3):
        Image.fromarray(np.full((300, 400, 3), number, np.uint8)).save(tmp_path / "plain" / f"{number}.png")
    assert "400x300 px are 4.3 times smaller in their views (64 px)" in told(tmp_path / "plain")
    assert "--tile 80 " in told(tmp_path / "plain")
    assert told(tmp_path / "plain", tile=80) is None and told(tmp_path / "plain", region_size=7) is None
    assert "40 px in a detector" in told(tmp_path / "plain", probe_data=str(scenes))


def test_a_stream_is_asked_for_one_picture(tmp_path):
    from tests.data.shard_files import write_shards

    source = open_source(write_shards(tmp_path, "parquet", (3, 3)), streaming=True)
    source.sample = lambda index, sample=source.sample: sample(index) if index == 0 else pytest.fail("a far jump")
    assert shrink_warning(load_arguments(), source) is None


def test_tiles_that_were_cut_before_are_what_views_are_cut_from(scenes, tmp_path):
    """Annotated pictures of 640 px, pre-training on tiles of 80 px of such pictures."""
    for number in range(4):
        Image.new("RGB", (80, 80)).save(tmp_path / f"{number}.png")
    data, pictures = open_detection_data(scenes, split="train"), open_source(str(tmp_path))
    line = object_line(load_arguments(**SMALL), data, 640, 1280, pictures)
    assert line.startswith("the median object") and "has 40 px a side in the views" in line
