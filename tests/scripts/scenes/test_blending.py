import numpy as np
import pytest
from scenes.blending import MEMBRANE_STRENGTH, cast_shadow, feather, membrane, paste, window

NO_FRAME = (False, False, False, False)


def test_a_patch_meets_the_canvas_where_they_overlap() -> None:
    part = window(10, (4, 6), -2, 8)
    assert part is not None
    assert part.canvas == (slice(8, 10), slice(0, 4)) and part.patch == (slice(0, 2), slice(2, 6))
    assert window(10, (4, 6), 10, 0) is None and window(10, (4, 6), -6, 0) is None


def test_the_membrane_equals_the_difference_on_the_outline_and_is_harmonic_inside() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((20, 24), dtype=bool)
    inside[3:17, 4:20] = True
    inside[8:11, 10:13] = False  # a hole has an outline, too
    difference = rng.normal(size=(20, 24, 3))
    surface = membrane(difference, inside, NO_FRAME)
    assert not surface[~inside].any()
    padded = np.pad(inside, 1)
    free = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    np.testing.assert_allclose(surface[inside & ~free], difference[inside & ~free], rtol=1e-6)
    mean = (np.roll(surface, 1, 0) + np.roll(surface, -1, 0) + np.roll(surface, 1, 1) + np.roll(surface, -1, 1)) / 4
    np.testing.assert_allclose(surface[free], mean[free], atol=1e-6)
    assert free.sum() > 100


def test_the_membrane_is_free_where_the_picture_ends() -> None:
    inside = np.ones((8, 8), dtype=bool)
    ramp = np.tile(np.arange(8.0)[:, None, None], (1, 8, 3))
    surface = membrane(ramp, inside, (False, True, True, True))  # only the top row is an outline
    np.testing.assert_allclose(surface, 0, atol=1e-6)
    assert membrane(ramp, inside, NO_FRAME)[7, 3, 0] == 7
    assert not membrane(ramp + 1, inside, (True, True, True, True)).any(), "no outline, no difference"


def test_a_constant_difference_shifts_the_object_as_a_whole() -> None:
    canvas = np.full((16, 16, 3), 200, dtype=np.float32)
    colours = np.zeros((8, 8, 3), dtype=np.float32)
    colours[3:5, 3:5] = 40
    part = window(16, (8, 8), 4, 4)
    assert part is not None
    paste(canvas, colours, np.ones((8, 8), dtype=np.float32), part, "poisson", np.random.default_rng(0))
    inner = canvas[4:12, 4:12, 0]
    assert MEMBRANE_STRENGTH[0] * 200 <= inner[0, 0] <= MEMBRANE_STRENGTH[1] * 200
    contrast = inner[3, 3] - inner[2, 2]
    assert contrast == pytest.approx(40, abs=1), "the object keeps its gradients"
    assert (canvas[:4] == 200).all() and (canvas[12:] == 200).all()


def test_feathering_moves_colours_a_little_and_leaves_the_rest_of_the_canvas() -> None:
    canvas = np.full((16, 16, 3), 100, dtype=np.float32)
    part = window(16, (6, 6), 12, 12)  # over the corner
    assert part is not None
    colours = np.full((6, 6, 3), 200, dtype=np.float32)
    paste(canvas, colours, np.ones((6, 6), dtype=np.float32), part, "feathered", np.random.default_rng(0))
    assert (canvas[:12] == 100).all() and 175 <= canvas[13, 13, 0] <= 200


def test_feathering_softens_inwards_only_and_spares_thin_objects() -> None:
    alpha = np.zeros((40, 40), dtype=np.float32)
    alpha[5:35, 5:35] = 1
    soft = feather(alpha, 224, np.random.default_rng(1))
    assert (soft <= alpha).all() and ((soft > 0.05) & (soft < 0.95)).any()
    assert soft[20, 20] == pytest.approx(1, abs=0.01)
    line = np.zeros((40, 3), dtype=np.float32)
    line[:, 1] = 1
    for seed in range(8):
        np.testing.assert_array_equal(feather(line, 224, np.random.default_rng(seed)) > 0.5, line > 0.5)


def test_a_shadow_only_darkens() -> None:
    canvas = np.full((20, 20, 3), 100, dtype=np.float32)
    cast_shadow(canvas, np.ones((6, 6), dtype=np.float32), 4, 4, (0.5, 0.5, 0.4))
    assert canvas.max() == 100 and 55 < canvas.min() < 70
    rows, columns = np.nonzero(canvas[..., 0] < 99)
    assert rows.mean() > 8 and columns.mean() > 8, "away from the light"
