"""mcl_hf: multi-level contrastive pre-training of detection backbones (MCL, arXiv 2304.02010).

Importing it makes transformers' Auto classes know the models (see `auto_classes`). All names are loaded on first use,
so that importing the package brings in nothing that a program may not need.
"""

from typing import TYPE_CHECKING, Any

from .auto_classes import register_when_imported
from .lazy import names_of
from .startup import check_torch_and_torchvision, leave_quietly_on_interrupt
from .version import __version__

if TYPE_CHECKING:
    from .callbacks import finetune, pretrain
    from .comparison.compare import compare
    from .detectors.configuration_detector import MCLDetectorConfig
    from .detectors.modeling_detector import MCLForInstanceSegmentation, MCLForObjectDetection
    from .models.configuration_mcl import MCLConfig
    from .models.contrast import MultiLevelContrast
    from .models.fpn import FeaturePyramid
    from .models.image_processing_mcl import MCLImageProcessor
    from .models.modeling_mcl import MCLBackbone, MCLModel
    from .models.modeling_mcl_pretraining import MCLForPreTraining
    from .models.modeling_mcl_supervised import MCLForSupervisedPreTraining
    from .models.montage import assemble_montage
    from .models.region_head import RegionHead
    from .prediction.predict_images import predict
    from .remote.checkpoints import demo_checkpoint
    from .transfer.starting_weights import load_backbone_weights, load_starting_weights

_HOME = {
    "FeaturePyramid": "models.fpn",
    "MCLBackbone": "models.modeling_mcl",
    "MCLConfig": "models.configuration_mcl",
    "MCLDetectorConfig": "detectors.configuration_detector",
    "MCLForInstanceSegmentation": "detectors.modeling_detector",
    "MCLForObjectDetection": "detectors.modeling_detector",
    "MCLForPreTraining": "models.modeling_mcl_pretraining",
    "MCLForSupervisedPreTraining": "models.modeling_mcl_supervised",
    "MCLImageProcessor": "models.image_processing_mcl",
    "MCLModel": "models.modeling_mcl",
    "MultiLevelContrast": "models.contrast",
    "RegionHead": "models.region_head",
    "assemble_montage": "models.montage",
    "compare": "comparison.compare",
    "demo_checkpoint": "remote.checkpoints",
    "finetune": "callbacks",
    "load_backbone_weights": "transfer.starting_weights",
    "load_starting_weights": "transfer.starting_weights",
    "predict": "prediction.predict_images",
    "pretrain": "callbacks",
}
"""Public name -> the file that defines it."""

__all__ = [
    "FeaturePyramid", "MCLBackbone", "MCLConfig", "MCLDetectorConfig", "MCLForInstanceSegmentation",
    "MCLForObjectDetection", "MCLForPreTraining", "MCLForSupervisedPreTraining", "MCLImageProcessor", "MCLModel",
    "MultiLevelContrast", "RegionHead", "__version__", "assemble_montage", "compare", "demo_checkpoint", "finetune",
    "load_backbone_weights", "load_starting_weights", "predict", "pretrain",
]  # fmt: skip

leave_quietly_on_interrupt()
register_when_imported()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        check_torch_and_torchvision()
    return names_of(__name__, _HOME)(name)
