"""The data of a run, for `pretrain.py` and the commands that show or measure it: source and loader of its arguments."""

from typing import Any

from ..data import BrokenImage, ImageSource, ViewLoader, open_source
from ..errors import InputError
from ..models import MCLConfig
from .arguments import PretrainArguments

_SOURCE_FIELDS = (
    "data_files", "image_column", "label_column", "group_column", "split", "streaming", "tile", "allow_outside_paths",
)  # fmt: skip


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
    """The batches of a run, of `batch_size` images per process and step, in this process unless `more` names workers;
    rank, first step and memory stand there, too, as `ViewLoader` takes them.

    Raises:
        InputError: settings that cannot work, or a number of channels that the first image does not have.
    """
    channels = config.num_channels
    if channels not in (1, 3):  # said once, before a run, rather than of every image in it
        try:
            source.sample(0).open(channels).decode(channels)
        except BrokenImage as error:
            raise InputError(
                f"num_channels is {channels}, and the first image, {source.name(0)}, cannot be read so: {error}"
            ) from error
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
        num_channels=channels,
        max_broken=arguments.max_broken,
        **more,
    )
