"""Models: montage -> backbone -> FPN -> region head -> predictor -> contrast.

Flat on purpose: files import each other only as `from .name import ...`, so that a published checkpoint can carry this
folder as its own code.
"""

import importlib
from typing import Any

_HOME = {
    "FeaturePyramid": "fpn",
    "MCLBackbone": "modeling_mcl",
    "MCLConfig": "configuration_mcl",
    "MCLForPreTraining": "modeling_mcl_pretraining",
    "MCLForPreTrainingOutput": "modeling_mcl_pretraining",
    "MCLForSupervisedPreTraining": "modeling_mcl_supervised",
    "MCLForSupervisedPreTrainingOutput": "modeling_mcl_supervised",
    "MCLImageProcessor": "image_processing_mcl",
    "MCLModel": "modeling_mcl",
    "MCLModelOutput": "modeling_mcl",
    "MontageLayout": "montage",
    "MultiLevelContrast": "contrast",
    "Predictor": "region_head",
    "RegionHead": "region_head",
    "TargetKeys": "contrast",
    "assemble_batch": "montage",
    "assemble_montage": "montage",
    "convert_cross_rank_norm": "cross_rank_norm",
    "draw_montages": "montage",
    "gather": "collectives",
    "rank": "collectives",
    "recompute_activations": "recompute",
    "region_contrast": "contrast",
    "world_size": "collectives",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
