"""The hash holds under what makes two files of one picture, tells other pictures apart, and groups are right."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcl_hf.data import open_image, open_source
from mcl_hf.data.sources.near_duplicates import (
    MAX_DISTANCE,
    find_near_duplicates,
    group_pairs,
    near_duplicate_pairs,
    perceptual_hash,
)
from mcl_hf.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Twelve of the embedded photos, each cut from another one: uint8 `(208, 208, 3)`."""
    source = open_source("photos", group_column="source_image")
    _, first = np.unique(source.groups, return_index=True)
    return [open_image(source.sample(int(index)).bytes_).decode() for index in first[:12]]


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def change(pixels: np.ndarray, kind: str) -> np.ndarray:
    picture = Image.fromarray(pixels)
    if kind == "small":
        picture = picture.resize((120, 120))
    elif kind == "large and stretched":
        picture = picture.resize((700, 500))
    elif kind == "bright":
        picture = picture.point(_brighten)
    elif kind == "gray":
        return np.asarray(picture.convert("L"))[..., None]
    elif kind == "poor JPEG":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=25)
        picture = Image.open(buffer)
    return np.asarray(picture)


def _brighten(value: int) -> float:
    return 20 + 0.85 * value


@pytest.mark.parametrize("kind", ["small", "large and stretched", "bright", "gray", "poor JPEG"])
def test_copies_of_a_photo_are_close(photos, kind):
    assert max(distance(photo, change(photo, kind)) for photo in photos) <= MAX_DISTANCE


def test_other_photos_and_mirrored_ones_are_far(photos):
    others = [distance(photos[i], photos[j]) for i in range(12) for j in range(i)]
    assert min(others) > 2 * MAX_DISTANCE
    assert min(distance(photo, photo[:, ::-1]) for photo in photos) > MAX_DISTANCE


def test_hash_has_half_of_its_bits_set_and_flat_pictures_are_one(photos):
    assert all(0 <= perceptual_hash(photo) < 2**64 for photo in photos)
    assert {perceptual_hash(photo).bit_count() for photo in photos} <= {31, 32}
    flat = [perceptual_hash(np.full((60 + value, 80, 3), value, np.uint8)) for value in (0, 9, 77, 200, 255)]
    assert set(flat) == {0}
    assert perceptual_hash(np.zeros((1, 1, 1), np.uint8)) == 0


def test_pairs_are_those_that_a_plain_double_loop_finds():
    random = np.random.default_rng(0)
    centres = random.integers(0, 2**64, 40, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, (3, 600)).astype(np.uint64)
    hashes = centres[random.integers(0, 40, 600)] ^ flips[0] ^ flips[1] ^ flips[2]
    for most in (0, 4, MAX_DISTANCE):
        expected = [
            [i, j] for i in range(600) for j in range(i + 1, 600) if int(hashes[i] ^ hashes[j]).bit_count() <= most
        ]
        assert near_duplicate_pairs(hashes, most).tolist() == expected
    assert len(expected) > 1000
    assert near_duplicate_pairs(np.empty(0, dtype=np.uint64)).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_groups_are_the_connected_parts(pairs):
    groups = group_pairs(np.array(pairs, dtype=np.int64).reshape(-1, 2))
    members = [member for group in groups for member in group]
    assert sorted(members) == sorted({member for pair in pairs for member in pair})
    assert all(group == sorted(group) for group in groups)
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    home = {member: number for number, group in enumerate(groups) for member in group}
    assert all(home[one] == home[other] for one, other in pairs)
    for group in groups:  # and no larger than a chain of pairs reaches
        reached = {group[0]}
        for _ in group:
            reached |= {other for pair in pairs for other in pair if reached & set(pair)}
        assert reached == set(group)


def write_copies(folder: Path, photos: list[np.ndarray]) -> Path:
    """a/ and b/ with two photos each; b/copy is the first photo again; a/again, too, in the same folder."""
    for name, pixels in {
        "a/first.png": photos[0],
        "a/again.png": change(photos[0], "small"),
        "a/other.png": photos[1],
        "b/copy.png": change(photos[0], "gray"),
        "b/third.png": photos[2],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze()).save(folder / name)
    (folder / "b" / "bad.jpg").write_bytes(b"")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_copies_in_a_source_are_found_and_groups_of_the_user_taken_out(tmp_path, photos, workers):
    folder = write_copies(tmp_path / "in", photos)
    found = find_near_duplicates(open_source(str(folder)), range(6), num_workers=workers)
    source = open_source(str(folder), group_column="folder")
    assert [Path(source.name(index)).name for index in found.groups[0]] == ["again.png", "first.png", "copy.png"]
    assert (found.looked_at, found.images, found.pairs, found.pairs_in_one_group) == (5, 3, 3, 0)
    assert found.broken == [f"{folder}/b/bad.jpg: the file has zero bytes"]
    grouped = find_near_duplicates(source, range(6), num_workers=workers)
    assert (grouped.pairs, grouped.pairs_in_one_group, grouped.images) == (2, 1, 3)
    only_a = find_near_duplicates(source, range(3))
    assert (only_a.groups, only_a.pairs, only_a.pairs_in_one_group) == ([], 0, 1)
    assert find_near_duplicates(source, []).looked_at == 0


def test_a_source_that_is_gone_stops_the_search(tmp_path, photos, monkeypatch):
    source = open_source(str(write_copies(tmp_path / "in", photos)))

    def gone(index):
        raise InputError("the server is gone")

    monkeypatch.setattr(source, "sample", gone)
    with pytest.raises(InputError, match="^the server is gone$"):
        find_near_duplicates(source, range(3), num_workers=1)
