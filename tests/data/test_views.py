"""Draws are plain data from counters; both renderings of them are right, each against an independent computation."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from mcl_hf.data import PUBLISHED_A, PUBLISHED_B, ViewDraw, draw_views, open_image
from mcl_hf.data.views import render as rendering_of
from mcl_hf.data.views.finish import blur, colour_map, solarise
from mcl_hf.data.views.render import render_views, side_recipes
from mcl_hf.errors import InputError

PLAIN = ViewDraw(
    top=0,
    left=0,
    height=208,
    width=208,
    flip=False,
    jitter_order=(),
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.0,
    grayscale=False,
    blur_sigma_px=0.0,
    solarise=False,
)


def render_direct(*arguments: object) -> np.ndarray:
    """As the library's, with the channels last, as Pillow has them."""
    return rendering_of.render_direct(*arguments).transpose(1, 2, 0)


def render_published(*arguments: object) -> np.ndarray:
    """As the library's, with the channels last, as Pillow has them."""
    return rendering_of.render_published(*arguments).transpose(1, 2, 0)


def textured_picture(height: int = 208, width: int = 208, low: int = 0, high: int = 255, seed: int = 0) -> np.ndarray:
    """Colour noise at several scales, as photos have it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, weight in ((4, 4.0), (12, 2.0), (40, 1.0)):
        coarse = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
        total += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    total -= total.min()
    return (low + total / total.max() * (high - low)).astype(np.uint8)


def plain_pil(picture: Image.Image, draw: ViewDraw, size: int) -> np.ndarray:
    """The published pipeline on one draw, with Pillow alone and no line of the library."""
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    view = picture.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    if draw.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for operation in draw.jitter_order:
        if operation == 0:
            view = ImageEnhance.Brightness(view).enhance(draw.brightness)
        elif operation == 1:
            view = ImageEnhance.Contrast(view).enhance(draw.contrast)
        elif operation == 2:
            view = ImageEnhance.Color(view).enhance(draw.saturation)
        else:
            hsv = np.array(view.convert("HSV"))
            hsv[..., 0] = (hsv[..., 0].astype(int) + int(draw.hue * 255)) % 256
            view = Image.fromarray(hsv, "HSV").convert("RGB")
    if draw.grayscale:
        view = view.convert("L").convert("RGB")
    if draw.blur_sigma_px:
        view = view.filter(ImageFilter.GaussianBlur(draw.blur_sigma_px))
    pixels = np.asarray(view).astype(int)
    return np.where(pixels < 128, pixels, 255 - pixels) if draw.solarise else pixels


@pytest.mark.parametrize("position", range(6))
def test_published_views_equal_plain_pil_within_one_gray_level(position: int) -> None:
    pixels = textured_picture(150, 210, seed=position)
    picture = Image.fromarray(pixels)
    draws = draw_views(210, 150, side_recipes(4, sides=2), seed=1, position=position)
    for view, draw in enumerate(draws):
        ratio = (1, 2, 4, 8)[view % 4]
        found = render_published(picture, draw, 224, ratio)
        expected = plain_pil(picture, draw, 224)[::ratio, ::ratio]
        assert found.shape == (224 // ratio, 224 // ratio, 3)
        # solarising turns a difference of 1 at 127/128 into one of at most 1 as well, so one bound serves all
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_direct_views_are_the_crop_antialiased(ratio: int) -> None:
    pixels = textured_picture(300, 400)
    draw = replace(PLAIN, top=30, left=50, height=200, width=260)
    expected = Image.fromarray(pixels).crop((50, 30, 310, 230)).resize((224 // ratio,) * 2, Image.Resampling.BILINEAR)
    difference = np.abs(render_direct(pixels, draw, 224, ratio).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    flipped = render_direct(pixels, replace(draw, flip=True), 224, ratio)
    assert np.array_equal(flipped[:, ::-1], render_direct(pixels, draw, 224, ratio))


@pytest.mark.parametrize("position", range(4))
def test_direct_and_published_agree_at_full_size(position: int) -> None:
    """Same draws but for hue: apart by Pillow's cutting off after each operation and its approximation of blur."""
    pixels = textured_picture(seed=position, low=60, high=190)
    for drawn in draw_views(208, 208, [PUBLISHED_A] * 4, seed=2, position=position):
        draw = replace(drawn, hue=0.0)
        direct = render_direct(pixels, draw, 224, 1).astype(int)
        published = render_published(Image.fromarray(pixels), draw, 224, 1).astype(int)
        assert np.abs(direct - published).mean() < 2.5


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1,), (2,), ()])
@pytest.mark.parametrize("grayscale", [False, True])
def test_the_colour_matrix_equals_pils_operations_where_nothing_clips(order: tuple[int, ...], grayscale: bool) -> None:
    pixels = textured_picture(low=70, high=160)
    draw = replace(
        PLAIN, jitter_order=order, brightness=1.2, contrast=0.7, saturation=1.2, hue=0.0, grayscale=grayscale
    )
    expected = plain_pil(Image.fromarray(pixels), replace(draw, width=208, height=208), 208)
    assert np.abs(render_direct(pixels, draw, 208, 1).astype(int) - expected).max() <= 3  # Pillow rounds after each


def test_hue_rotation_follows_hsv() -> None:
    matrix, of_means = colour_map(replace(PLAIN, jitter_order=(3,), hue=1 / 3))
    assert np.allclose(matrix @ [1, 0, 0], [0, 1, 0])  # a third of a turn takes red to green
    assert np.allclose(matrix @ [0.5, 0.5, 0.5], 0.5) and not of_means.any()
    pixels = textured_picture(low=40, high=200)
    for hue in (-0.1, -0.03, 0.05, 0.1):
        turned = render_direct(pixels, replace(PLAIN, jitter_order=(3,), hue=hue), 208, 1)
        strong = (np.ptp(pixels, axis=2) > 30) & (turned.min(axis=2) > 0)  # a clear hue, and nothing clipped
        assert strong.mean() > 0.3
        before, after = (np.asarray(Image.fromarray(p).convert("HSV"))[..., 0] / 255 for p in (pixels, turned))
        error = (after - before - hue + 0.5) % 1 - 0.5
        assert np.abs(error[strong]).mean() < 0.008


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.0, 2.0, 4.0])
def test_blur_is_gaussian_with_repeated_edges(sigma: float) -> None:
    pixels = textured_picture(60, 50)
    reach = int(5 * sigma) + 1
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(pixels.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = sum(w * padded[k : k + 60] for k, w in enumerate(weights))
    expected = sum(w * rows[:, k : k + 50] for k, w in enumerate(weights))
    assert np.abs(blur(pixels.transpose(2, 0, 1), sigma).transpose(1, 2, 0) - expected).max() <= 2


def test_solarise_inverts_from_128_on() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert solarise(values).ravel().tolist() == [x if x < 128 else 255 - x for x in range(256)]


def test_draws_are_a_pure_function_of_seed_position_and_view() -> None:
    both = draw_views(640, 480, side_recipes(4, sides=2), seed=5, position=123)
    assert both == draw_views(640, 480, side_recipes(4, sides=2), seed=5, position=123)
    assert both[:4] == draw_views(640, 480, side_recipes(4, sides=1), seed=5, position=123)
    assert len(set(both)) == 8
    assert both != draw_views(640, 480, side_recipes(4, sides=2), seed=6, position=123)
    assert both != draw_views(640, 480, side_recipes(4, sides=2), seed=5, position=124)


def test_draws_follow_the_published_ranges_and_probabilities() -> None:
    draws = [draw for p in range(1500) for draw in draw_views(640, 480, [PUBLISHED_A, PUBLISHED_B], seed=0, position=p)]
    first, second = draws[::2], draws[1::2]
    areas = np.array([draw.width * draw.height / (640 * 480) for draw in draws])
    assert 0.199 < areas.min() < 0.22
    assert 0.9 < areas.max() <= 1.0
    ratios = np.array([draw.width / draw.height for draw in draws])
    assert 0.74 < ratios.min() < 0.77
    assert 1.29 < ratios.max() < 1.35
    assert all(draw.top >= 0 and draw.top + draw.height <= 480 for draw in draws)
    assert all(draw.left >= 0 and draw.left + draw.width <= 640 for draw in draws)
    for share, expected in (
        (np.mean([draw.flip for draw in draws]), 0.5),
        (np.mean([bool(draw.jitter_order) for draw in draws]), 0.8),
        (np.mean([draw.grayscale for draw in draws]), 0.2),
        (np.mean([draw.blur_sigma_px > 0 for draw in first]), 1.0),
        (np.mean([draw.blur_sigma_px > 0 for draw in second]), 0.1),
        (np.mean([draw.solarise for draw in first]), 0.0),
        (np.mean([draw.solarise for draw in second]), 0.2),
    ):
        assert abs(share - expected) < 0.035
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        values = np.array([getattr(draw, name) for draw in draws])
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02
    sigmas = np.array([draw.blur_sigma_px for draw in first])
    assert 0.1 <= sigmas.min() < 0.12
    assert 1.98 < sigmas.max() <= 2.0
    assert len({draw.jitter_order for draw in draws}) == 25  # 24 orders, and none


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1), (3, 900)])
def test_crops_of_thin_pictures_stay_inside(width: int, height: int) -> None:
    pixels = textured_picture(height, width)
    for draw in draw_views(width, height, [PUBLISHED_A] * 8, seed=0, position=0):
        assert 0 <= draw.left < draw.left + draw.width <= width
        assert 0 <= draw.top < draw.top + draw.height <= height
        assert render_direct(pixels, draw, 64, 2).shape == (32, 32, 3)
        assert render_published(Image.fromarray(pixels), draw, 64, 2).shape == (32, 32, 3)


def _jpeg(pixels: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_large_jpegs_are_decoded_smaller_and_look_the_same() -> None:
    data = _jpeg(textured_picture(1500, 2000))
    arguments = {"seed": 4, "position": 9, "view_size": 64}
    recipes = side_recipes(2, sides=2)
    shrunk = render_views(open_image(data), recipes, (1, 2), **arguments)
    whole = open_image(data)
    whole.picture.format = "not JPEG"  # switches scaled decoding off
    for one, two in zip(shrunk, render_views(whole, recipes, (1, 2), **arguments), strict=True):
        assert not np.array_equal(one, two)
        assert np.abs(one.astype(int) - two).mean() < 4


@pytest.mark.parametrize("rendering", ["direct", "published"])
def test_gray_views(rendering: str) -> None:
    data = _jpeg(textured_picture())
    views = render_views(
        open_image(data), side_recipes(2, 2), (1, 2), seed=0, position=0, num_channels=1, rendering=rendering
    )
    assert [view.shape for view in views] == [(1, 224, 224), (1, 112, 112)] * 2


def test_an_unknown_rendering_is_refused() -> None:
    with pytest.raises(InputError, match="direct, published"):
        render_views(
            open_image(_jpeg(textured_picture())), side_recipes(1, 1), (1,), seed=0, position=0, rendering="fast"
        )


def test_min_crop_scale_bounds_the_crops_of_both_sides_and_nothing_else() -> None:
    published = [draw_views(640, 480, side_recipes(2, 2), seed=0, position=p) for p in range(200)]
    larger = [draw_views(640, 480, side_recipes(2, 2, min_crop_scale=0.6), seed=0, position=p) for p in range(200)]
    assert min(draw.width * draw.height for draws in published for draw in draws) < 0.25 * 640 * 480
    assert min(draw.width * draw.height for draws in larger for draw in draws) > 0.59 * 640 * 480
    assert [draw.hue for draws in larger for draw in draws] == [draw.hue for draws in published for draw in draws]
    assert side_recipes(2, 2, min_crop_scale=0.2) == side_recipes(2, 2)
