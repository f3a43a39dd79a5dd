"""`MCLImageProcessor`: images to the normalised tensors that every MCL model takes."""

from typing import Any

from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_mcl import MCLConfig


class MCLImageProcessor(TorchvisionBackend):
    """Resize the shorter side, cut out the centre, scale to [0, 1] and normalise.

    The models take any height and width: switch `do_resize` or `do_center_crop` off to keep the whole picture.

    Example:
        >>> import numpy as np
        >>> from mcl_hf import MCLConfig, MCLImageProcessor
        >>> processor = MCLImageProcessor.from_config(MCLConfig(region_size=2))
        >>> image = np.zeros((80, 120, 3), dtype=np.uint8)
        >>> tuple(processor(image, return_tensors="pt").pixel_values.shape)
        (1, 3, 64, 64)
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 224}
    crop_size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    @classmethod
    def from_config(cls, config: MCLConfig, **overrides: Any) -> "MCLImageProcessor":
        """The processor that fits a model: its mean and std, and the side it was pre-trained at.

        Args:
            config: Of the model.
            overrides: Arguments of the processor, for instance `do_center_crop=False`.
        """
        side = config.image_size
        fields: dict[str, Any] = {
            "image_mean": list(config.image_mean),
            "image_std": list(config.image_std),
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "do_convert_rgb": config.num_channels == 3,
        }
        return cls(**{**fields, **overrides})
