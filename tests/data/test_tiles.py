"""Tiles of pictures are images of their own: they leave nothing out, and come as surely as images do."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_hf.data import BrokenImage, RawSample, ViewLoader, open_source, render_views, side_recipes
from mcl_hf.data.streams.tiles import TiledSource
from tests.data.odd_images import smooth_picture
from tests.data.shard_files import write_shards
from tests.data.test_loader import assert_equal

SMALL = {"view_size": 16, "ratios": (1, 2), "batch_size": 6, "seed": 5}
SIZES = ((100, 70), (31, 20), (320, 95), (46, 64), (47, 48))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("pictures")
    for number, (width, height) in enumerate(SIZES):
        pixels = np.roll(smooth_picture(width, height), 7 * number, axis=1)
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "ab"[number % 2] / f"{number}.png")
    return str(root)


def take(source: object, count: int = 9, **options: int) -> list:
    return list(itertools.islice(ViewLoader(source, **{**SMALL, **options}), count))


def test_tiles_make_up_their_pictures_and_none_is_far_from_its_size(folder: str) -> None:
    whole, tiled = open_source(folder), open_source(folder, tile=32)
    place = 0
    for picture in range(len(whole)):
        pixels = whole.sample(picture).open().decode()
        seen = np.zeros(pixels.shape[:2], int)
        name = whole.name(picture)
        while place < len(tiled) and tiled.name(place).split(" tile")[0] == name:
            sample = tiled.sample(place)
            left, top, width, height = sample.tile or (0, 0, pixels.shape[1], pixels.shape[0])
            np.testing.assert_array_equal(sample.open().decode(), pixels[top : top + height, left : left + width])
            opened = sample.open()
            assert (opened.width, opened.height) == (width, height)
            for side, of in ((width, pixels.shape[1]), (height, pixels.shape[0])):
                assert side == of if of < 48 else 21 <= side <= 48
            seen[top : top + height, left : left + width] += 1
            place += 1
        assert (seen == 1).all()
    assert place == len(tiled) == 3 * 2 + 1 + 10 * 3 + 1 * 2 + 1 * 2  # 1.5 times the tile are two


def test_views_of_a_tile_are_those_of_the_same_tile_in_a_file_of_its_own(folder: str) -> None:
    source = open_source(folder, tile=32)
    (batch,) = take(source, 1)
    position = ViewLoader(source, **SMALL)._batches.positions(0)
    for slot, index in enumerate(batch.sample_ids.tolist()):
        buffer = io.BytesIO()
        Image.fromarray(source.sample(index).open().decode()).save(buffer, "PNG")
        prepared = render_views(
            RawSample(buffer.getvalue()).open(), side_recipes(2, 2), (1, 2), seed=5, position=int(position[slot]),
            view_size=16,
        )  # fmt: skip
        for view, level in zip(prepared, batch.views_a + batch.views_b, strict=True):
            np.testing.assert_array_equal(view, level[slot])


def test_pictures_lie_as_exif_turns_them(tmp_path: Path) -> None:
    pixels = smooth_picture(90, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    source = open_source(str(tmp_path), tile=32)
    assert [source.sample(index).tile for index in range(len(source))] == [
        (0, 0, 40, 30),
        (0, 30, 40, 30),
        (0, 60, 40, 30),
    ]
    upright = np.rot90(pixels, -1)
    np.testing.assert_array_equal(source.sample(1).open().decode(), upright[30:60])


def test_a_jpeg_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(smooth_picture(1003, 707)).save(tmp_path / "large.jpg", quality=95)
    source = open_source(str(tmp_path), tile=240)
    for index in range(len(source)):
        opened = source.sample(index).open()
        small, large = opened.decode(3, 4), source.sample(index).open().decode()
        height, width = large.shape[:2]
        assert small.shape == (-(-height // 4), -(-width // 4), 3)
        mean = large[: height // 4 * 4, : width // 4 * 4].reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
        assert np.abs(small[: height // 4, : width // 4] - mean).mean() < 3  # the right part of the picture


def test_what_cannot_be_reduced_gives_the_same_tile(folder: str) -> None:
    source = open_source(folder, tile=32)  # of PNG files
    for index in range(len(source)):
        opened = source.sample(index).open()
        np.testing.assert_array_equal(opened.decode(3, 4), opened.decode())
        assert opened.shrink_for(8) == 1


@pytest.mark.parametrize("kind", ["folder", "shards", "mix"])
def test_order_and_views_follow_from_the_step_alone(folder: str, kind: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path, "parquet", (5, 7, 6))  # of 20 x 16 px
    data, tile = {"folder": (folder, 24), "shards": (shards, 8), "mix": ([f"{folder}=0.6", f"{shards}=0.4"], 16)}[kind]

    def source() -> object:
        return open_source(data, tile=tile, streaming=kind != "folder")

    whole = take(source(), 9)
    for workers in (1, 2):
        assert_equal(take(source(), 4, start_step=5, num_workers=workers), whole[5:])
    ranks = [take(source(), 9, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.cat([part[step].sample_ids for part in ranks]).equal(batch.sample_ids)
        assert torch.cat([part[step].views_b[1] for part in ranks]).equal(batch.views_b[1])
    assert source().fingerprint == source().fingerprint != open_source(data, streaming=kind != "folder").fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_an_epoch_takes_each_tile_once(streaming: bool, tmp_path: Path) -> None:
    source = open_source(write_shards(tmp_path, "parquet", (5, 7, 6)), tile=8, streaming=streaming)
    assert len(source) == 18 * 3 * 2  # 20 px are 2.5 tiles, and these three
    order = source.order(0, 12)
    first, second = (order.index(np.arange(108) + 108 * epoch) for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(108)) and not (first == second).all()


def test_a_tile_belongs_to_its_picture_unless_a_group_is_named(folder: str) -> None:
    plain, grouped = open_source(folder, tile=32), open_source(folder, tile=32, group_column="folder")
    assert isinstance(plain, TiledSource) and plain.labels is not None and plain.groups is not None
    pictures = np.array([plain.name(index).split(" tile")[0] for index in range(len(plain))])
    for index in range(len(plain)):
        np.testing.assert_array_equal(plain.groups == plain.groups[index], pictures == pictures[index])
        assert grouped.sample(index).group == plain.labels[index] == ("/b/" in pictures[index])
    assert len(np.unique(plain.groups)) == 5 and len(np.unique(grouped.groups)) == 2


def test_a_broken_picture_is_one_tile_and_one_that_shrank_is_named(tmp_path: Path) -> None:
    for number in range(6):
        Image.fromarray(smooth_picture(64, 64)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    source = open_source(str(tmp_path), tile=32)
    assert len(source) == 5 * 4 + 1
    batches = take(source, 4, max_broken=1.0)
    assert [line.split(": ")[0] for batch in batches for line in batch.broken] == [str(tmp_path / "2.png")]
    Image.fromarray(smooth_picture(40, 40)).save(tmp_path / "0.png")
    with pytest.raises(BrokenImage, match="40x40"):
        source.sample(3).open()
