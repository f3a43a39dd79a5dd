"""What each stage of preparing an image costs on one core, so that one sees which of them limits a run.

Beside the flow: decode -> views -> loader, taken apart. `mcl-hf show data` prints it for a user's own images,
`scripts/benchmark_data.py` for a fixed set.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .sources.image_source import RawSample
from .step_loader import one_thread
from .views.draw import draw_views
from .views.finish import apply_colour, blur, solarise
from .views.render import blur_scale, crop_direct, largest_shrink, side_recipes

STAGES = ("decode", "crop", "colour", "blur", "collate")


@dataclass
class StageTimes:
    """Processor time of each stage for all views of one image: totals over `num_images` images, by `STAGES`."""

    num_images: int
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def milliseconds(self, stage: str) -> float:
        """Of one image, on average."""
        return 1e3 * self.seconds[stage] / self.num_images

    @property
    def images_per_second(self) -> float:
        """What one core prepares, reading apart."""
        return self.num_images / sum(self.seconds.values())


def time_stages(files: Sequence[RawSample], **settings: Any) -> StageTimes:
    """Render the views of encoded images that can be decoded, directly, stage by stage, in one thread; settings are
    those of `staged_views`. The first image is also used to warm up.

    Stages: `decode` from bytes to pixels, at the reduction that the views allow; `crop` draws the parameters, crops
    and resizes; `colour` jitter, grayscale and solarise; `blur`; `collate` flips and copies into the batch."""
    times = StageTimes(num_images=len(files))
    with one_thread():
        staged_views(files[0], StageTimes(num_images=1), 0, **settings)  # for warming up
        for position, sample in enumerate(files, 1):
            views = staged_views(sample, times, position, **settings)
            buffers = [np.empty(view.shape, np.uint8) for view in views]
            with _timed(times, "collate"):
                for buffer, view in zip(buffers, views, strict=True):
                    np.copyto(buffer, view)  # (C, s, s)
    return times


def staged_views(
    sample: RawSample,
    times: StageTimes,
    position: int,
    view_size: int = 224,
    ratios: Sequence[int] = (1, 2, 4, 8),
    sides: int = 2,
    num_channels: int = 3,
    seed: int = 0,
) -> list[np.ndarray]:
    """What `render_views` gives with `rendering="direct"`, adding each stage's time to `times`; settings as those of
    `ViewLoader`."""
    view_ratios = [ratio for _ in range(sides) for ratio in ratios]
    with _timed(times, "decode"):
        image = sample.open(num_channels)
    with _timed(times, "crop"):
        draws = draw_views(image.width, image.height, side_recipes(len(ratios), sides), seed, position)
    shrink = largest_shrink(image, draws, [view_size // ratio for ratio in view_ratios])
    with _timed(times, "decode"):
        pixels = image.decode(num_channels, shrink)
    views = []
    for draw, ratio in zip(draws, view_ratios, strict=True):
        with _timed(times, "crop"):
            view = crop_direct(pixels, draw, view_size // ratio, shrink)
        with _timed(times, "colour"):
            view = apply_colour(view, draw)
        with _timed(times, "blur"):
            view = blur(view, draw.blur_sigma_px * blur_scale(view_size, ratio))
        with _timed(times, "colour"):
            view = solarise(view) if draw.solarise else view
        with _timed(times, "collate"):
            view = view[:, :, ::-1] if draw.flip else view
        views.append(view)
    return views


@contextmanager
def _timed(times: StageTimes, stage: str) -> Iterator[None]:
    start = time.process_time()
    yield
    times.seconds[stage] += time.process_time() - start
