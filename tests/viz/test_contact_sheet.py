"""The contact sheet shows the right picture at the right place, whole and upright."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mcl_hf.viz.contact_sheet import (
    CAPTION,
    HEADER,
    TITLE_HEIGHT,
    SheetImage,
    _fit,
    duplicates_picture,
    stack_pictures,
    views_picture,
)
from mcl_hf.viz.montage_grid import GAP, MARGIN, image_colour

PANEL = 60
CELL, ROW = PANEL + GAP, PANEL + CAPTION + GAP


def flat(value: int, width: int = 40, height: int = 40, channels: int = 3) -> SheetImage:
    return SheetImage(np.full((height, width, channels), value, np.uint8), f"{value}.jpg")


def views(offset: int, num_images: int = 3, channels: int = 3) -> list[torch.Tensor]:
    """Two levels; image n of level i is of one gray value, 10 n + i + offset."""
    numbers = torch.arange(num_images, dtype=torch.uint8).view(-1, 1, 1, 1) * 10
    return [
        (numbers + (offset + level)).expand(-1, channels, 32 // (level + 1), 32 // (level + 1)) for level in range(2)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_holds_an_original_and_its_views_in_order(channels):
    originals = [flat(200 + n, channels=channels) for n in range(3)]
    picture = views_picture(originals, views(50, channels=channels), views(90, channels=channels), panel_size=PANEL)
    assert picture.size == (2 * MARGIN + 5 * CELL - GAP, TITLE_HEIGHT + HEADER + 3 * ROW + MARGIN)
    for number in range(3):
        middle = TITLE_HEIGHT + HEADER + number * ROW + PANEL // 2
        seen = [picture.getpixel((MARGIN + column * CELL + PANEL // 2, middle)) for column in range(5)]
        grays = [200 + number, 50 + 10 * number, 51 + 10 * number, 90 + 10 * number, 91 + 10 * number]
        assert seen == [(gray,) * 3 for gray in grays]
        assert picture.getpixel((MARGIN + PANEL - 1, middle)) == image_colour(number)


def test_one_side_only_and_views_that_do_not_fit():
    assert views_picture([flat(1)] * 3, views(0), None, panel_size=PANEL).width == 2 * MARGIN + 3 * CELL - GAP
    with pytest.raises(ValueError, match="2 originals, but views of"):
        views_picture([flat(1)] * 2, views(0), None)


def test_an_original_keeps_its_shape():
    picture = views_picture([flat(100, 80, 40), flat(100, 40, 80), flat(100, 400, 1)], views(0), None, panel_size=PANEL)
    for number, (width, height) in enumerate([(60, 30), (30, 60), (60, 1)]):
        top = TITLE_HEIGHT + HEADER + number * ROW
        framed = (np.asarray(picture)[top : top + PANEL, MARGIN : MARGIN + PANEL] == image_colour(number)).all(axis=2)
        assert framed[:, width - 1].sum() == height and not framed[:, width:].any(), number  # the frame's right edge


def test_groups_are_rows_and_say_how_many_more_there_are():
    groups = [[flat(30), flat(31), flat(32)], [flat(40), flat(41)]]
    picture = duplicates_picture(groups, [7, 2], "found", panel_size=PANEL, columns=2)
    assert picture.size == (2 * MARGIN + 3 * CELL - GAP, TITLE_HEIGHT + 2 * ROW + MARGIN)
    for row, (values, more) in enumerate([((30, 31), True), ((40, 41), False)]):
        middle = TITLE_HEIGHT + row * ROW + PANEL // 2
        seen = [picture.getpixel((MARGIN + column * CELL + 30, middle)) for column in range(2)]
        assert seen == [(value,) * 3 for value in values]
        box = (MARGIN + 2 * CELL, middle - 20, MARGIN + 3 * CELL - GAP, middle + 20)
        assert (np.asarray(picture.crop(box)).min() < 255) == more  # the words "and 5 more"


def test_pictures_are_stacked_without_overlap():
    sheet = stack_pictures([Image.new("RGB", (30, 10), "red"), Image.new("RGB", (50, 20), "blue")])
    assert sheet.size == (50, 30) and sheet.getpixel((40, 5)) == (255, 255, 255)
    assert sheet.getpixel((29, 9)) == (255, 0, 0) and sheet.getpixel((0, 10)) == sheet.getpixel((49, 29)) == (0, 0, 255)


def test_long_names_are_cut_at_their_start():
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    assert _fit(draw, "a.jpg", 100) == "a.jpg"
    cut = _fit(draw, "a/very/long/folder/with/a/name.jpg", 80)
    assert cut.startswith("...") and cut.endswith("name.jpg") and len(cut) < 25
    assert _fit(draw, "odd \udcff.jpg", 100) == "odd ?.jpg"
    assert _fit(draw, "two\nlines.jpg", 100) == "two\\x0alines.jpg"
