import numpy as np
import pytest
from PIL import Image
from scenes.appearance import background_crop, finish, posed

from tests.scripts.scenes.drawing import drawn


@pytest.mark.parametrize("target", [12.0, 40.0])
def test_an_object_gets_its_size_whatever_the_size_of_the_cut_out(target: float) -> None:
    for side in (30, 200):
        found = posed(drawn("box", (200, 10, 10), side), "box", target, np.random.default_rng(0))
        assert found is not None
        colours, alpha = found
        assert colours.shape == (*alpha.shape, 3) and colours.dtype == alpha.dtype == np.float32
        assert 0.6 * target < np.sqrt(alpha.size) < 1.3 * target
        assert alpha.max() == pytest.approx(1, abs=0.02)


def test_an_object_without_opaque_pixels_is_refused() -> None:
    assert posed(Image.new("RGBA", (50, 50)), "box", 20.0, np.random.default_rng(0)) is None


def test_signs_are_never_mirrored_and_other_things_are() -> None:
    cutout = Image.new("RGBA", (40, 40), (10, 10, 10, 255))
    cutout.paste((250, 250, 250, 255), (0, 0, 12, 40))

    def mirrored(label: str) -> int:
        poses = [posed(cutout, label, 40.0, np.random.default_rng(seed)) for seed in range(20)]
        colours = [pose[0] for pose in poses if pose is not None]
        return sum(one[10:-10, -8:].mean() > one[10:-10, :8].mean() for one in colours)

    assert mirrored("sign") == 0 and 4 < mirrored("bird") < 16


def test_backgrounds_and_pictures_have_the_asked_size() -> None:
    image = Image.effect_noise((90, 60), 60).convert("RGB")
    for size in (24, 33, 100):
        crop = background_crop(image, size, np.random.default_rng(0))
        assert crop.shape == (size, size, 3) and crop.dtype == np.float32
        assert finish(crop, np.random.default_rng(0)).size == (size, size)
