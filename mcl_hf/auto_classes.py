"""Makes transformers' Auto classes know ours, at the moment at which they are first imported.

Importing transformers' models takes several seconds, and a command that only prints its help needs none of them. So
`import mcl_hf` does not: `register_when_imported` watches for the modules of `_REGISTER`, and registers ours as soon as
one of them is there.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from typing import Any


def register_when_imported() -> None:
    """Register our classes with the Auto classes that are imported already, and with the others once they are."""
    for name, register in _REGISTER.items():
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, _AutoModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoModules())


def _register_configurations(auto: Any) -> None:
    from .detectors.configuration_detector import MCLDetectorConfig
    from .models.configuration_mcl import MCLConfig

    for config in (MCLConfig, MCLDetectorConfig):
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(auto: Any) -> None:
    from .detectors.modeling_detector import MCLDetectorConfig, MCLForInstanceSegmentation, MCLForObjectDetection
    from .models.modeling_mcl import MCLBackbone, MCLConfig, MCLModel
    from .models.modeling_mcl_pretraining import MCLForPreTraining

    auto.AutoModel.register(MCLConfig, MCLModel, exist_ok=True)
    auto.AutoBackbone.register(MCLConfig, MCLBackbone, exist_ok=True)
    auto.AutoModelForPreTraining.register(MCLConfig, MCLForPreTraining, exist_ok=True)
    auto.AutoModelForObjectDetection.register(MCLDetectorConfig, MCLForObjectDetection, exist_ok=True)
    auto.AutoModelForInstanceSegmentation.register(MCLDetectorConfig, MCLForInstanceSegmentation, exist_ok=True)
    # transformers.pipeline: "image-segmentation" opens its models by this class, and both tasks know classes by names
    auto.AutoModelForImageSegmentation.register(MCLDetectorConfig, MCLForInstanceSegmentation, exist_ok=True)
    auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES[MCLDetectorConfig.model_type] = MCLForObjectDetection.__name__
    auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES[MCLDetectorConfig.model_type] = (
        MCLForInstanceSegmentation.__name__
    )


def _register_processors(auto: Any) -> None:
    from .detectors.configuration_detector import MCLDetectorConfig
    from .models.configuration_mcl import MCLConfig
    from .models.image_processing_mcl import MCLImageProcessor

    for config in (MCLConfig, MCLDetectorConfig):
        auto.AutoImageProcessor.register(
            config, image_processor_classes={"torchvision": MCLImageProcessor}, exist_ok=True
        )


def _choose_maps(module: Any) -> None:
    from .detectors.encoder_maps import choose_maps_of_encoders

    choose_maps_of_encoders(module)


def _load_patiently(module: Any) -> None:
    """Let our classes ask the Hub again while it is away: the models themselves know no network."""
    from .retry import load_patiently

    for name in ("MCLConfig", "MCLPreTrainedModel", "MCLImageProcessor"):
        kind = getattr(module, name, None)
        if kind is not None and kind.__module__ == module.__name__:
            load_patiently(kind)


ENCODERS = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4")
"""Detectors of transformers that read as many maps as `feat_strides` names."""
_AUTO = "transformers.models.auto"
_REGISTER: dict[str, Callable[[Any], None]] = {
    **{f"transformers.models.{name}.configuration_{name}": _choose_maps for name in ENCODERS},
    **{
        f"{__package__}.models.{name}": _load_patiently
        for name in ("configuration_mcl", "modeling_mcl", "image_processing_mcl")
    },
    f"{_AUTO}.configuration_auto": _register_configurations,
    f"{_AUTO}.modeling_auto": _register_models,
    f"{_AUTO}.image_processing_auto": _register_processors,
}


class _AutoModules(importlib.abc.MetaPathFinder):
    """Finds the modules of `_REGISTER` as Python does, and registers our classes after each has run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in _REGISTER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                _REGISTER[name](module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
