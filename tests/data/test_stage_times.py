"""What is timed stage by stage is what a run renders."""

import numpy as np
import pytest
import torch

from mcl_hf.data import BrokenImage, RawSample, open_image, render_views, side_recipes
from mcl_hf.data.stage_times import STAGES, StageTimes, staged_views, time_stages
from tests.data.odd_images import encode, smooth_picture


@pytest.mark.parametrize(("ratios", "sides", "channels", "size"), [((1, 2, 4, 8), 2, 3, 224), ((1, 2), 1, 1, 64)])
def test_the_stages_add_up_to_the_views_of_a_run(ratios, sides, channels, size):
    data = encode(smooth_picture(1200, 900), "JPEG", quality=92)  # large enough to be reduced while decoding
    recipes = side_recipes(len(ratios), sides)
    for position in range(4):
        times = StageTimes(num_images=1)
        seen = staged_views(RawSample(data), times, position, size, ratios, sides, channels, seed=3)
        expected = render_views(
            open_image(data), recipes, ratios, seed=3, position=position, view_size=size, num_channels=channels
        )
        for one, other in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_every_stage_takes_time_and_the_rate_is_their_sum():
    files = [encode(smooth_picture(300, 200), "JPEG")] * 3
    threads = torch.get_num_threads()
    times = time_stages([RawSample(data) for data in files])
    assert torch.get_num_threads() == threads and tuple(times.seconds) == STAGES and times.num_images == 3
    assert all(times.milliseconds(stage) > 0 for stage in STAGES)
    assert sum(map(times.milliseconds, STAGES)) == pytest.approx(1e3 / times.images_per_second)
    with pytest.raises(BrokenImage):
        time_stages([RawSample(b"no image")])
