"""Batch-norm statistics for the FPN and region head of a target network, which training ran in part only: in lean scope
it reads P5 alone. Its backbone's are those of training, and stay.
"""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm

from ..data.decode import BrokenImage, decode_image
from ..data.open import ImageSource, open_source
from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..models.image_processing_mcl import MCLImageProcessor
from ..models.modeling_mcl import MCLModel
from ..models.precise_bn import update_statistics


def refresh_statistics(
    config: MCLConfig,
    tensors: dict[str, torch.Tensor],
    data: str | Sequence[str],
    num_images: int,
    batch_size: int,
    allow_outside_paths: bool,
) -> dict[str, torch.Tensor]:
    """The tensors of an `MCLModel` with the statistics of FPN and region head replaced by their mean over batches of
    the data's first images, as the image processor gives them.

    Raises:
        InputError: no such data, or fewer than two images that can be read.
    """
    if num_images < 2 or batch_size < 2:
        raise InputError("statistics need at least 2 images, and 2 a batch")
    model = MCLModel(config)
    model.load_state_dict(tensors)
    model.eval()
    model.fpn.train()
    model.region_head.train()

    @torch.no_grad()
    def forward(pixels: torch.Tensor) -> None:
        for level in model.fpn(model.backbone_maps(pixels)):  # P2..P5
            model.region_head(level)

    source = open_source(data, allow_outside_paths=allow_outside_paths)
    batches = tqdm(
        _batches(config, source, num_images, batch_size), total=-(-min(num_images, len(source)) // batch_size),
        desc="batch-norm statistics", unit="batch", leave=False, dynamic_ncols=True,
    )  # fmt: skip
    if not update_statistics(model, forward, batches):
        raise InputError(f"--data {data}: fewer than two images could be read")
    return model.state_dict()


def _batches(config: MCLConfig, source: ImageSource, num_images: int, batch_size: int) -> Iterator[torch.Tensor]:
    """`(n, num_channels, S, S)` normalised; broken images are left out, a last batch of one image, too."""
    processor = MCLImageProcessor.from_config(config)
    batch: list[torch.Tensor] = []
    for index in range(min(num_images, len(source))):
        try:
            pixels = decode_image(source.sample(index).bytes_, config.num_channels)  # (height, width, C)
        except BrokenImage:
            continue
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        batch.append(processor(image, return_tensors="pt", input_data_format="channels_first").pixel_values[0])
        if len(batch) == batch_size:
            yield torch.stack(batch)
            batch = []
    if len(batch) > 1:
        yield torch.stack(batch)
