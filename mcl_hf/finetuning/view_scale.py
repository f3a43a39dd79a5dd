"""How large objects are in pre-training's views and how large in a detector: the commonest mistake is whole pictures
shrunk to small views, in which the objects of the detector are a few pixels.

Beside the flow: `mcl-hf show data`, `mcl-hf doctor --plan` and `compare` say it. A view is a crop of a share of its
picture's or tile's area, drawn evenly between the smallest one and all; the median share stands for all of them.
"""

import contextlib
import math
import os
from functools import partial

import numpy as np

from ..annotations.detection_data import DetectionData
from ..annotations.open_data import open_detection_data
from ..data import BrokenImage, ImageSource
from ..data.sources.local_tables import embedded_folder
from ..data.streams.tiles import tile_grid
from ..data.views.render import side_recipes
from ..errors import InputError
from ..pretraining.arguments import PretrainArguments
from . import auto_rules

MOST_SHRINK = 3.0
"""Times that pictures without annotations may be smaller in their views before it is worth a warning."""
MOST_RATIO = 2.0
"""Likewise of objects, between views and detector, in either direction."""
STRIDE = 32
"""Px of a view for each cell of its region."""
_PICTURES = 64


def about_scale(arguments: PretrainArguments, source: ImageSource, min_size: int | None = None) -> str | None:
    """A line about the objects of a run's annotated data, `probe_data` or its own; without any, a warning where views
    are much smaller than their pictures. `min_size` is the shorter side of the detector's images, px; None: by the
    rules of auto.

    Raises:
        InputError: `probe_data` cannot be opened.
    """
    data = _annotated(arguments)
    if data is None:
        return shrink_warning(arguments, source)
    rule = auto_rules.choose(len(data), data.widths, data.heights, random_start=False)
    own = min_size or rule["min_size_test"]
    return object_line(arguments, data, own, round(rule["max_size_test"] * own / rule["min_size_test"]))


def object_line(
    arguments: PretrainArguments, data: DetectionData, min_size: int, max_size: int, pictures: ImageSource | None = None
) -> str | None:
    """The median side of objects in level 0's views and in a detector with test images of `min_size` to `max_size` px,
    a warning where they differ much; None without objects.

    Where pre-training sees other `pictures` than `data`, such as tiles cut before, objects are taken to have as many px
    there.
    """
    single = ~data.columns.iscrowd
    sides = np.sqrt(data.columns.bbox[:, 2:].prod(1))[single]  # (A,), px of the picture
    if not sides.size:
        return None
    image = np.repeat(np.arange(len(data)), np.diff(data.columns.offsets))[single]
    sizes = np.stack([data.widths, data.heights], axis=1)  # (N, 2)
    in_detector = np.minimum(min_size / sizes.min(1), max_size / sizes.max(1))  # px of the detector's image per px
    tiles = sizes if arguments.tile is None else sizes / tile_grid(sizes, arguments.tile)
    crops = _crop_sides(arguments, tiles)  # (N,)
    if pictures is not None and len(own_sizes := _picture_sizes(arguments, pictures)):
        crops = np.full(len(data), np.median(_crop_sides(arguments, own_sizes)))
        sizes = own_sizes
    side = arguments.model_config().image_size
    in_views = side / crops
    seen, found = np.median(sides * in_views[image]), np.median(sides * in_detector[image])
    line = (
        f"the median object of {data.source} has {seen:.0f} px a side in the views ({side} px), and "
        f"{found:.0f} px in a detector whose images have {min_size} px on their shorter side"
    )
    if found / MOST_RATIO <= seen <= found * MOST_RATIO:
        return line
    own = side // STRIDE
    region = max(own, math.ceil(2 * found / STRIDE))  # an object takes half of a view at most
    whole_are_large = seen > found and arguments.tile is None
    if whole_are_large:
        region = max(1, int(own * found / seen))
    tile = _crop_tile(arguments, region * STRIDE, float(np.median(in_detector)))
    flags = [f"--region-size {region} for views of {region * STRIDE} px"] if region != own else []
    if tile < np.median(sizes.min(1)) and not whole_are_large:
        flags.append(f"--tile {tile}")
    elif arguments.tile is not None or not flags:
        flags.append("whole pictures")
    return f"warning: {line}: it is about as large in both with {' and '.join(flags)}"


def shrink_warning(arguments: PretrainArguments, source: ImageSource) -> str | None:
    """A warning where pictures are more than `MOST_SHRINK` times smaller in their views, else None."""
    size = _picture_sizes(arguments, source)
    if not len(size):
        return None
    side = arguments.model_config().image_size
    shrink = np.median(_crop_sides(arguments, size)) / side
    if shrink <= MOST_SHRINK:
        return None
    width, height = np.median(size, axis=0)
    return (
        f"warning: pictures of {width:.0f}x{height:.0f} px are {shrink:.1f} times smaller in their views "
        f"({side} px), and objects much smaller than a detector of whole pictures sees them: "
        f"--tile {_crop_tile(arguments, side, 1.0)} cuts views at the pictures' own size"
    )


def _picture_sizes(arguments: PretrainArguments, source: ImageSource) -> np.ndarray:
    """Width and height of some evenly spread pictures, or of their tiles where they are cut: `(M, 2)`, px."""
    sizes = []
    count = 1 if source.shard_rows is not None else min(_PICTURES, len(source))  # in a stream, far jumps cost
    for number in range(count):
        with contextlib.suppress(BrokenImage):
            opened = source.sample(number * len(source) // count).open(arguments.model_config().num_channels)
            sizes.append((opened.width, opened.height))
    return np.array(sizes).reshape(-1, 2)


def _annotated(arguments: PretrainArguments) -> DetectionData | None:
    """`probe_data`, or the run's own data where they are on this machine and annotated."""
    reading = partial(
        open_detection_data, skip_broken=True, check_files=False, allow_outside_paths=arguments.allow_outside_paths
    )
    if arguments.probe_data is not None:
        return reading(arguments.probe_data)
    there = os.path.exists(embedded_folder(arguments.data[0]))  # noqa: PTH110 - Path's own finds some addresses too long
    if len(arguments.data) > 1 or arguments.data_files or arguments.data[0] == "photos" or not there:
        return None
    try:
        return reading(arguments.data[0], split=arguments.split)
    except InputError:
        return None


def _crop_share(arguments: PretrainArguments) -> float:
    return sum(side_recipes(1, 1, arguments.min_crop_scale)[0].crop_scale) / 2


def _crop_sides(arguments: PretrainArguments, sizes: np.ndarray) -> np.ndarray:
    """Side of the median crop of pictures or tiles, px: `(N, 2)` to `(N,)`."""
    return np.sqrt(_crop_share(arguments) * sizes.prod(1))


def _crop_tile(arguments: PretrainArguments, side: int, scale: float) -> int:
    """Side of tiles whose views of `side` px show `scale` px for each px of the picture, in steps of 8."""
    return max(16, round(side / _crop_share(arguments) ** 0.5 / scale / 8) * 8)
