"""An MCL folder's configuration as `backbone_config` of transformers detectors that want fewer maps than C2..C5.

Encoders of the RT-DETR kind read as many maps as `feat_strides` names, the deepest ones, and with four of them fail in
the forward pass at the earliest. transformers tells a backbone nothing of the model around it, so the detector's
configuration chooses: it keeps the deepest maps of an `MCLConfig` and takes their channels.
"""

import copy
from functools import wraps
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..models.configuration_mcl import MCLConfig
from ..models.timm_backbone import describe_backbone

MODEL_TYPES = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4")
"""Whose configuration has `feat_strides` and `encoder_in_channels`; those that an installed release lacks are passed
over."""


def choose_maps_of_encoders() -> None:
    """Let the configurations of `MODEL_TYPES` take an `MCLConfig` as it is. Others are as they were; so are all
    configurations with another backbone."""
    for model_type in MODEL_TYPES:
        if model_type in CONFIG_MAPPING:
            _choose_maps(CONFIG_MAPPING[model_type])


def _choose_maps(kind: Any) -> None:
    original = kind.__post_init__
    if getattr(original, "chooses_maps", False):
        return

    @wraps(original)
    def __post_init__(self: Any, **kwargs: Any) -> None:
        backbone = self.backbone_config
        if isinstance(backbone, dict) and backbone.get("model_type") == MCLConfig.model_type:
            backbone = MCLConfig.from_dict(backbone)
        if isinstance(backbone, MCLConfig):
            self.backbone_config = deepest_maps(backbone, len(self.feat_strides))
            self.encoder_in_channels = map_channels(self.backbone_config)
        original(self, **kwargs)

    __post_init__.chooses_maps = True  # type: ignore[attr-defined]
    kind.__post_init__ = __post_init__


def deepest_maps(config: MCLConfig, count: int) -> MCLConfig:
    """A copy that gives its `count` deepest maps where it gives more: C3..C5 of C2..C5 for 3."""
    config = copy.deepcopy(config)
    config.set_output_features_output_indices(out_features=(config.out_features or [])[-count:], out_indices=None)
    return config


def map_channels(config: MCLConfig) -> list[int]:
    """Channels of each map that the backbone gives."""
    described = describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)
    return [described.channels[described.stage_names.index(name)] for name in config.out_features or []]
