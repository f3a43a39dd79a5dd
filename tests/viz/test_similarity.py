"""Similarity maps: the grid of boxes, the cosine, and that the query finds itself."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from mcl_hf.models.configuration_mcl import MCLConfig
from mcl_hf.models.modeling_mcl import MCLModel
from mcl_hf.viz.similarity import (
    draw_similarity,
    level_maps,
    levels_picture,
    similarity_map,
    similarity_picture,
    slide_boxes,
    to_pixel_values,
)


@pytest.fixture(scope="module")
def model() -> MCLModel:
    torch.manual_seed(0)
    config = MCLConfig(
        backbone="resnet10t", fpn_channels=16, hidden_dim=32, embedding_dim=16, region_size=2, region_convs=1
    )
    return MCLModel(config).eval()


@pytest.fixture
def picture() -> Image.Image:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 256, (3, 6, 8), generator=generator, dtype=torch.uint8)
    return Image.fromarray(coarse.permute(1, 2, 0).numpy()).resize((128, 96))


def test_boxes_cover_the_image_evenly_and_stay_inside():
    boxes = slide_boxes(96, 128, 32, 32, positions=9)
    assert boxes.shape == (6, 9, 4)  # 96 px free in width: 12 px apart; 64 px in height: 5.3 such steps
    assert boxes[0, 0].tolist() == [0, 0, 32, 32] and boxes[-1, -1].tolist() == [96, 64, 128, 96]
    assert torch.all(boxes[..., 2] - boxes[..., 0] == 32)
    assert slide_boxes(32, 32, 32, 32, positions=5).tolist() == [[[0, 0, 32, 32]]]
    with pytest.raises(ValueError, match="do not fit"):
        slide_boxes(96, 128, 97, 32, positions=5)


def test_query_finds_itself_and_the_values_are_cosines(model, picture):
    pixels = to_pixel_values(picture, model)
    boxes = slide_boxes(96, 128, 32, 32, positions=9)
    box = boxes[3, 4].tolist()
    heat = similarity_map(model, pixels, box, positions=9)
    assert heat.shape == (6, 9) and heat.abs().max() <= 1.0001
    assert heat.argmax() == 3 * 9 + 4 and abs(float(heat[3, 4]) - 1) < 1e-5
    with torch.no_grad():
        pair = model.embed_regions(pixels[None], [torch.tensor([box, boxes[0, 0].tolist()])])
    assert abs(float(torch.cosine_similarity(pair[0], pair[1], dim=0)) - float(heat[0, 0])) < 1e-5


def test_other_image_and_other_scale(model, picture):
    pixels, other = to_pixel_values(picture, model), to_pixel_values(picture.crop((0, 0, 64, 64)), model)
    heat = similarity_map(model, pixels, (0, 0, 32, 32), searched=other, scale=0.5, positions=4)
    assert heat.shape == (4, 4)


def test_a_map_for_every_level_whose_boxes_fit(model, picture):
    pixels = to_pixel_values(picture, model)  # 96 x 128; regions of 2 cells: 8, 16, 32 and 64 px
    box = (8, 8, 40, 24)  # 16 x 32 px
    maps = level_maps(model, pixels, box, positions=5)
    assert list(maps) == ["P2", "P3", "P4", "P5"]
    for side, (scale, heat) in zip((8, 16, 32, 64), maps.values(), strict=True):
        assert abs(scale - side / 512**0.5) < 1e-6
        assert torch.allclose(heat, similarity_map(model, pixels, box, scale=scale, positions=5), atol=1e-5)
    small = to_pixel_values(picture.crop((0, 0, 40, 40)), model)
    assert list(level_maps(model, pixels, box, searched=small)) == ["P2", "P3"]  # 45 px wide boxes do not fit
    drawn = levels_picture(picture, box, maps, title="here")
    assert drawn.width == 1410 and drawn.height > 300
    assert levels_picture(picture, box, {}, picture.crop((0, 0, 40, 40))).width == 1410
    assert levels_picture(picture, box, {}, picture.crop((0, 0, 1, 96))).height < 3000


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (0, 0, 129, 20), (-1, 0, 10, 10)])
def test_a_box_outside_of_the_image_is_refused(model, picture, box):
    with pytest.raises(ValueError, match="within an image of 128 x 96 px"):
        similarity_map(model, to_pixel_values(picture, model), box)


@pytest.mark.parametrize("size", [(40, 1), (1500, 1), (1, 1)])
def test_a_picture_of_one_pixel_in_height_is_drawn_too(model, size):
    assert draw_similarity(model, Image.new("RGB", size), positions=5).size == (1180, 560)


def test_pixel_values_are_normalised_as_the_config_says(model):
    grey = Image.new("RGB", (4, 4), (255, 0, 0))
    values = to_pixel_values(grey, model)[:, 0, 0]
    mean, std = torch.tensor(model.config.image_mean), torch.tensor(model.config.image_std)
    torch.testing.assert_close(values * std + mean, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("row", "column"), [(0, 8), (5, 0), (5, 8)])
def test_picture_shows_the_heat_where_it_is(row, column):
    heat = torch.zeros(6, 9)
    heat[row, column] = 1.0
    drawn = similarity_picture(Image.new("RGB", (128, 96), (90, 90, 90)), (40, 40, 72, 72), heat)
    right = pil_to_tensor(drawn)[:, 100:-40, drawn.width // 2 : drawn.width * 88 // 100]  # (3, h, w) of the map
    # Orange and yellow have much red and little blue; the frame and the paper are white, the rest grey or violet.
    warm = (right[0].int() - right[2].int()) * (right[0] > 120)
    y, x = divmod(int(warm.argmax()), warm.shape[1])
    assert warm.max() > 50
    assert (y > warm.shape[0] / 2) == (row > 2) and (x > warm.shape[1] / 2) == (column > 4)


def test_without_matplotlib_the_cure_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from PIL import Image; import torch\n"
        "from mcl_hf.errors import InputError\n"
        "from mcl_hf.viz.similarity import similarity_picture\n"
        "try: similarity_picture(Image.new('RGB', (8, 8)), (0, 0, 4, 4), torch.zeros(2, 2))\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'mcl_hf[viz]'" in done.stdout, done.stderr
