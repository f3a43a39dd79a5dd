"""Models: montage -> backbone -> FPN -> region head -> predictor -> contrast.

Flat on purpose: files import each other only as `from .name import ...`, so that a published checkpoint can carry this
folder as its own code.
"""

from .collectives import gather, rank, world_size
from .configuration_mcl import MCLConfig
from .contrast import MultiLevelContrast, TargetKeys, region_contrast
from .cross_rank_norm import convert_cross_rank_norm
from .fpn import FeaturePyramid
from .image_processing_mcl import MCLImageProcessor
from .modeling_mcl import MCLBackbone, MCLModel, MCLModelOutput
from .modeling_mcl_pretraining import MCLForPreTraining, MCLForPreTrainingOutput
from .modeling_mcl_supervised import MCLForSupervisedPreTraining, MCLForSupervisedPreTrainingOutput
from .montage import MontageLayout, assemble_batch, assemble_montage, draw_montages
from .recompute import recompute_activations
from .region_head import Predictor, RegionHead

__all__ = [
    "FeaturePyramid",
    "MCLBackbone",
    "MCLConfig",
    "MCLForPreTraining",
    "MCLForPreTrainingOutput",
    "MCLForSupervisedPreTraining",
    "MCLForSupervisedPreTrainingOutput",
    "MCLImageProcessor",
    "MCLModel",
    "MCLModelOutput",
    "MontageLayout",
    "MultiLevelContrast",
    "Predictor",
    "RegionHead",
    "TargetKeys",
    "assemble_batch",
    "assemble_montage",
    "convert_cross_rank_norm",
    "draw_montages",
    "gather",
    "rank",
    "recompute_activations",
    "region_contrast",
    "world_size",
]
