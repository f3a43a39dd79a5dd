"""The data of a run: its source and its loader, opened from the run's arguments in one place.

Where it sits: `pretrain.py` and the commands that show or measure a run's data call it.
"""

from typing import Any

from ..data import BrokenImage, ImageSource, ViewLoader, open_source
from ..errors import InputError
from ..models import MCLConfig
from .arguments import PretrainArguments

_SOURCE_FIELDS = (
    *("data_files", "image_column", "label_column", "group_column", "split", "streaming", "tile"),
    "allow_outside_paths",
)


def open_data(arguments: PretrainArguments) -> ImageSource:
    """What `--data` and its companions name.

    Raises:
        InputError: nothing there, no images in it, or a column that does not exist or does not fit.
    """
    if not arguments.data:
        raise InputError("data is missing: name your images, such as --data my-images, or photos for the embedded ones")
    return open_source(arguments.data, **{name: getattr(arguments, name) for name in _SOURCE_FIELDS})


def open_loader(
    arguments: PretrainArguments, config: MCLConfig, source: ImageSource, batch_size: int, **more: Any
) -> ViewLoader:
    """The batches of a run, in this process unless `more` names workers.

    Args:
        arguments: of the run.
        config: of its network.
        source: from `open_data`.
        batch_size: images per process and step.
        more: rank, workers, first step and memory, as `ViewLoader` takes them.

    Raises:
        InputError: settings that cannot work, or a number of channels that the first image does not have.
    """
    if config.num_channels not in (1, 3):
        _check_channels(source, config.num_channels)
    return ViewLoader(
        source,
        view_size=config.image_size,
        ratios=config.montage_ratios,
        batch_size=batch_size,
        seed=arguments.seed,
        view_rendering=arguments.view_rendering,
        augment_on=arguments.augment_on,
        sides=1 if arguments.objective == "supervised" else 2,
        min_crop_scale=arguments.min_crop_scale,
        num_channels=config.num_channels,
        max_broken=arguments.max_broken,
        **more,
    )


def _check_channels(source: ImageSource, num_channels: int) -> None:
    """Ask the first image, so that a wrong number is said before a run rather than of every image in it."""
    try:
        source.sample(0).open(num_channels).decode(num_channels)
    except BrokenImage as error:
        raise InputError(
            f"num_channels is {num_channels}, and the first image, {source.name(0)}, cannot be read so: {error}"
        ) from error
