"""Models: montage -> backbone -> FPN -> region head -> predictor -> contrast.

Flat on purpose: files import each other only as `from .name import ...`, so that a published checkpoint can carry this
folder as its own code.
"""

import importlib
from typing import Any

_NAMES = {
    "collectives": ("gather", "rank", "world_size"),
    "configuration_mcl": ("MCLConfig",),
    "contrast": ("MultiLevelContrast", "TargetKeys", "region_contrast"),
    "cross_rank_norm": ("convert_cross_rank_norm",),
    "fpn": ("FeaturePyramid",),
    "image_processing_mcl": ("MCLImageProcessor",),
    "modeling_mcl": ("MCLBackbone", "MCLModel", "MCLModelOutput"),
    "modeling_mcl_pretraining": ("MCLForPreTraining", "MCLForPreTrainingOutput"),
    "modeling_mcl_supervised": ("MCLForSupervisedPreTraining", "MCLForSupervisedPreTrainingOutput"),
    "montage": ("MontageLayout", "assemble_batch", "assemble_montage", "draw_montages"),
    "recompute": ("recompute_activations",),
    "region_head": ("Predictor", "RegionHead"),
}
_HOME = {name: file for file, names in _NAMES.items() for name in names}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
