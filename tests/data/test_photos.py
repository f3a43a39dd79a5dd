"""The embedded photos: every row is licensed by name, decodes, and shows nobody."""

import io
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mcl_hf.data import open_source
from mcl_hf.data.sources.near_duplicates import find_near_duplicates

FOLDER = Path(__file__).parents[2] / "mcl_hf" / "data" / "photos"
LEFT_OUT = {"astronaut", "australia", "camera", "ireland", "italy", "japan", "mexico", "orchestra"}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [row for path in sorted(FOLDER.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def licences() -> dict[tuple[str, str], tuple[str, ...]]:
    """(image, taken from) -> (licence, author, source), from the table of LICENSE-IMAGES.md."""
    table = {}
    for line in (FOLDER / "LICENSE-IMAGES.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 5 and cells[0] != "image":
            assert (cells[0], cells[4]) not in table
            table[cells[0], cells[4]] = tuple(cells[1:4])
    return table


def test_counts_are_those_that_the_licence_file_states(rows, licences):
    text = (FOLDER / "LICENSE-IMAGES.md").read_text(encoding="utf-8")
    files, photos, crops = map(int, re.search(r"(\d+) files of (\d+) photos gave (\d+) crops", text).groups())
    assert (len({row["source_image"] for row in rows}), len(rows)) == (photos, crops) == (234, 750)
    assert (
        len(licences) == files == len({row["package"] for row in rows}) == 237
        and len(list(FOLDER.glob("*.parquet"))) == 4
    )
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_every_row_stands_in_the_licence_file(rows, licences):
    for row in rows:
        assert licences[row["source_image"], row["package"]] == (row["licence"], row["author"], row["url"])
        assert row["licence"] in {"Public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
        assert row["author"] and row["url"].startswith("https://") and row["change"]
    assert {(row["source_image"], row["package"]) for row in rows} == set(licences)


def test_photos_of_people_are_left_out(rows, licences):
    assert not LEFT_OUT & {row["source_image"] for row in rows} and not LEFT_OUT & {name for name, _ in licences}


def test_no_two_of_different_names_look_the_same():
    """Else they would be each other's negatives in the demo, which groups by `source_image`."""
    source = open_source("photos", group_column="source_image")
    found = find_near_duplicates(source, range(len(source)), num_workers=0)
    assert found.groups == [] and found.pairs_in_one_group > 0


def test_every_image_decodes_and_carries_no_metadata(rows):
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert image.convert("RGB").size == (208, 208)
        assert not image.getexif()
