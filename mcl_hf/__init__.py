"""mcl_hf: multi-level contrastive pre-training of detection backbones (MCL, arXiv 2304.02010).

Importing it registers the models with transformers' Auto classes. `pretrain`, `finetune` and `compare` are loaded on
first use, so that importing the package brings in neither datasets nor accelerate.
"""

from typing import Any

from .startup import check_torch_and_torchvision, leave_quietly_on_interrupt

leave_quietly_on_interrupt()
check_torch_and_torchvision()

from transformers import (  # noqa: E402  (the check above explains a broken pair of torch and torchvision)
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForInstanceSegmentation,
    AutoModelForObjectDetection,
    AutoModelForPreTraining,
)
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
)

from . import models  # noqa: E402
from .detection.configuration_detector import MCLDetectorConfig  # noqa: E402
from .detection.modeling_detector import MCLForInstanceSegmentation, MCLForObjectDetection  # noqa: E402
from .models import (  # noqa: E402
    FeaturePyramid,
    MCLBackbone,
    MCLConfig,
    MCLForPreTraining,
    MCLForSupervisedPreTraining,
    MCLImageProcessor,
    MCLModel,
    MultiLevelContrast,
    RegionHead,
    assemble_montage,
)
from .models.modeling_mcl import MCLPreTrainedModel  # noqa: E402
from .remote.retry import load_patiently  # noqa: E402
from .transfer import starting_weights  # noqa: E402
from .transfer.starting_weights import load_backbone_weights, load_starting_weights  # noqa: E402
from .version import __version__  # noqa: E402

for _kind in (MCLConfig, MCLPreTrainedModel, MCLImageProcessor):
    load_patiently(_kind)
for _name in ("WeightReport", "load_backbone_weights", "load_starting_weights", "starting_statistics"):
    setattr(models, _name, getattr(starting_weights, _name))  # where they were before; `models` knows no network

AutoConfig.register(MCLConfig.model_type, MCLConfig, exist_ok=True)
AutoModel.register(MCLConfig, MCLModel, exist_ok=True)
AutoBackbone.register(MCLConfig, MCLBackbone, exist_ok=True)
AutoModelForPreTraining.register(MCLConfig, MCLForPreTraining, exist_ok=True)
AutoConfig.register(MCLDetectorConfig.model_type, MCLDetectorConfig, exist_ok=True)
AutoModelForObjectDetection.register(MCLDetectorConfig, MCLForObjectDetection, exist_ok=True)
AutoModelForInstanceSegmentation.register(MCLDetectorConfig, MCLForInstanceSegmentation, exist_ok=True)
# transformers.pipeline: "image-segmentation" opens its models by this class, and both tasks know classes by these names
AutoModelForImageSegmentation.register(MCLDetectorConfig, MCLForInstanceSegmentation, exist_ok=True)
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES[MCLDetectorConfig.model_type] = MCLForObjectDetection.__name__
MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES[MCLDetectorConfig.model_type] = MCLForInstanceSegmentation.__name__
for _config in (MCLConfig, MCLDetectorConfig):
    AutoImageProcessor.register(_config, image_processor_classes={"torchvision": MCLImageProcessor}, exist_ok=True)

__all__ = [
    "FeaturePyramid",
    "MCLBackbone",
    "MCLConfig",
    "MCLDetectorConfig",
    "MCLForInstanceSegmentation",
    "MCLForObjectDetection",
    "MCLForPreTraining",
    "MCLForSupervisedPreTraining",
    "MCLImageProcessor",
    "MCLModel",
    "MultiLevelContrast",
    "RegionHead",
    "__version__",
    "assemble_montage",
    "compare",
    "finetune",
    "load_backbone_weights",
    "load_starting_weights",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name == "compare":
        from .detection.compare import compare

        return compare
    if name == "finetune":
        from .callbacks import finetune

        return finetune
    if name == "pretrain":
        from .callbacks import pretrain

        return pretrain
    raise AttributeError(f"module 'mcl_hf' has no attribute {name!r}")
