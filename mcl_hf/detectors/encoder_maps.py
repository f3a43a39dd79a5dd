"""An MCL folder's configuration as `backbone_config` of transformers detectors that want fewer maps than C2..C5.

Encoders of the RT-DETR kind read as many maps as `feat_strides` names, the deepest ones, and with four of them fail in
the forward pass at the earliest. transformers tells a backbone nothing of the model around it, so the detector's
configuration chooses: it keeps the deepest maps of an `MCLConfig` and takes their channels.
"""

import copy
from functools import wraps
from types import ModuleType
from typing import Any

from ..models.configuration_mcl import MCLConfig
from ..models.timm_backbone import describe_backbone


def choose_maps_of_encoders(module: ModuleType) -> None:
    """Let the detectors' configurations that a module of transformers defines take an `MCLConfig` as it is.
    Configurations with another backbone are as they were."""
    for kind in list(vars(module).values()):
        own = isinstance(kind, type) and kind.__module__ == module.__name__ and "feat_strides" in dir(kind)
        if own and not hasattr(kind.__post_init__, "chooses_maps"):
            _choose_maps(kind)


def _choose_maps(kind: Any) -> None:
    original = kind.__post_init__

    @wraps(original)
    def __post_init__(self: Any, **kwargs: Any) -> None:
        backbone = self.backbone_config
        if isinstance(backbone, dict) and backbone.get("model_type") == MCLConfig.model_type:
            backbone = MCLConfig.from_dict(backbone)
        if isinstance(backbone, MCLConfig):
            self.backbone_config = backbone = deepest_maps(backbone, len(self.feat_strides))
            described = describe_backbone(backbone.backbone, backbone.num_channels, backbone.backbone_kwargs)
            channels = dict(zip(described.stage_names, described.channels, strict=True))
            self.encoder_in_channels = [channels[name] for name in backbone.out_features or []]
        original(self, **kwargs)

    __post_init__.chooses_maps = True  # type: ignore[attr-defined]
    kind.__post_init__ = __post_init__


def deepest_maps(config: MCLConfig, count: int) -> MCLConfig:
    """A copy that gives its `count` deepest maps where it gives more: C3..C5 of C2..C5 for 3."""
    config = copy.deepcopy(config)
    config.set_output_features_output_indices(out_features=(config.out_features or [])[-count:], out_indices=None)
    return config
