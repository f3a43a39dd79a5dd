"""The montage picture shows the right image, in the right place, in its own colour."""

import pytest
import torch

from mcl_hf.models.montage import MontageLayout, draw_montages
from mcl_hf.viz.montage_grid import GAP, HEADER, LABEL_WIDTH, MARGIN, image_colour, montage_picture

RATIOS = (1, 2, 4)
PANEL = 64  # px, so that a tile's centre is easy to name


def flat_views(num_images: int, side: int = 64) -> list[torch.Tensor]:
    """Views of one grey value an image: 10, 20, 30 ..."""
    grey = (torch.arange(1, num_images + 1) * 10).to(torch.uint8).view(-1, 1, 1, 1)
    return [grey.expand(-1, 3, side // ratio, side // ratio).contiguous() for ratio in RATIOS]


def test_tiles_lie_where_the_indices_say_and_wear_their_colour():
    layout = MontageLayout.of(8, RATIOS, (1, 1 / 4, 1 / 16))
    generator = torch.Generator().manual_seed(0)
    montage_a, montage_b = draw_montages(layout, generator), draw_montages(layout, generator)
    picture = montage_picture(flat_views(8), flat_views(8), montage_a, montage_b, RATIOS, panel_size=PANEL)
    side_b = MARGIN + LABEL_WIDTH + 3 * PANEL + 2 * GAP + 4 * GAP
    for left, montage in ((MARGIN + LABEL_WIDTH, montage_a), (side_b, montage_b)):
        top = HEADER + PANEL + GAP  # level 1
        for cell, image in enumerate(montage[0][:4].tolist()):
            row, column = divmod(cell, 2)
            x, y = left + column * PANEL // 2, top + row * PANEL // 2
            # The lower right corner of a tile is free of its number.
            assert picture.getpixel((x + 26, y + 26)) == (10 * (image + 1),) * 3
            assert picture.getpixel((x + 31, y + 31)) == image_colour(image)


def test_colours_of_the_first_images_differ_visibly():
    colours = torch.tensor([image_colour(number) for number in range(12)], dtype=torch.float)
    distances = torch.cdist(colours, colours) + torch.eye(12) * 1000
    assert distances.min() > 25


def test_normalised_floats_give_the_picture_of_the_bytes():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    views = flat_views(4)
    floats = [(v / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1) for v in views]
    montages = draw_montages(MontageLayout.of(4, RATIOS, (1, 1 / 4, 1 / 16)), torch.Generator().manual_seed(0))
    plain = montage_picture(views, None, montages, None, RATIOS)
    restored = montage_picture(floats, None, montages, None, RATIOS, image_mean=mean, image_std=std)
    assert plain.tobytes() == restored.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channel_counts_are_shown_in_grey(channels):
    views = [view[:, :1].repeat(1, channels, 1, 1) for view in flat_views(4)]
    for view in views:
        view[:, 1:] = 255  # what is not shown
    montages = draw_montages(MontageLayout.of(4, RATIOS, (1, 1 / 4, 1 / 16)))
    expected = montage_picture(flat_views(4), None, montages, None, RATIOS)
    assert montage_picture(views, None, montages, None, RATIOS).tobytes() == expected.tobytes()


def test_index_outside_of_the_batch_is_refused():
    with pytest.raises(ValueError, match="level 1: an image index lies outside of 0..3"):
        montage_picture(flat_views(4), None, [torch.tensor([0, 1, 2, 4]), torch.arange(16) % 4], None, RATIOS)
