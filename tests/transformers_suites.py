"""transformers' own test suites, run on our models, backbone, detectors and image processor.

The suites are `ModelTesterMixin`, `BackboneTesterMixin` and `ImageProcessingTestMixin` of transformers' source
distribution; an installed transformers does not have them. X is the installed release:

    pip download transformers==X --no-binary :all: --no-deps && tar xf transformers-X.tar.gz
    pip install parameterized
    python tests/transformers_suites.py transformers-X [options of pytest, such as -k gradient]

Nothing is downloaded. Left out are suites of text (`generation`) and of export (`exporters`), which the distribution
does not carry. What `NOT_OURS` names is run and must fail; any other failure, and one of these that passes, ends the
script with an exit code other than 0.
"""

import contextlib
import functools
import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcl_hf import (
    MCLBackbone,
    MCLConfig,
    MCLForInstanceSegmentation,
    MCLForObjectDetection,
    MCLImageProcessor,
    MCLModel,
)
from tests.tiny_detector import DETECTORS, tiny_config, tiny_labels  # beside the package, not in it

SOURCE = "TRANSFORMERS_SOURCE"
"""Environment variable through which pytest's process knows the folder."""
TINY: dict[str, Any] = {name: getattr(tiny_config(), name) for name in ("backbone", "backbone_kwargs", "fpn_channels")}
_CHECKPOINTING = "wants transformers' own checkpointing layers; tests/models/test_recompute.py tests ours"
NOT_OURS = {
    "MCLBackboneTest.test_config": "wants the last stage alone by default; detectors read C2 to C5",
    "test_can_load_ignoring_mismatched_shapes": "takes image_std, the pixels' deviation, for one of new weights",
    "test_num_layers_is_small": "wants two layers; a backbone has four stages",
    "test_training_gradient_checkpointing": _CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_false": _CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_true": _CHECKPOINTING,
}
"""Test, of one class or of all that have it -> what in it is another way to build a model, not a fault of ours."""


def load_suites(source: Path) -> dict[str, Any]:
    """The mixins of a source distribution."""
    package = types.ModuleType("suites")
    package.__path__ = [str(source / "tests")]
    sys.modules["suites"] = package
    left_out = {  # of the distribution; what the suites import of it
        "suites.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "suites.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "fetch_hub_objects_for_ci": {"url_to_local_path": str},
    }
    for name, members in left_out.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(members)
    return {
        name: getattr(importlib.import_module(f"suites.{module}"), name)
        for module, name in (
            ("test_modeling_common", "ModelTesterMixin"),
            ("test_backbone_common", "BackboneTesterMixin"),
            ("test_image_processing_common", "ImageProcessingTestMixin"),
            ("test_image_processing_common", "ImageProcessingTester"),
        )
    }


class Tester:
    """What the suites of models ask for: a tiny configuration and inputs."""

    batch_size = 2
    num_hidden_layers = 4
    seq_length = hidden_size = 32  # sides of the first map

    def __init__(self, config: Any) -> None:
        self.config = config
        self.is_training = hasattr(config, "detector")  # the others have no loss

    def get_config(self) -> Any:
        return type(self.config).from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, 64, 64)}


class OurCase:
    """What our models are to the suites; stands before a mixin of transformers."""

    all_model_classes: tuple[Any, ...]
    config: Any
    has_attentions = test_resize_embeddings = False

    def setUp(self) -> None:
        self.model_tester = Tester(self.config)


class ModelCase(OurCase):
    """Before the mixin of models, some of whose tests vision models of transformers replace as well."""

    def _prepare_for_class(self, inputs: Any, chosen: Any, return_labels: bool = False) -> dict[str, Any]:
        inputs = super()._prepare_for_class(inputs, chosen, return_labels)  # type: ignore[misc]
        if not return_labels or not self.model_tester.is_training:
            return inputs
        return {**inputs, "labels": [tiny_labels(64, 64, objects=1)] * 2}

    def _prepare_config_and_inputs_for_retain_grad_hidden_states_attentions(self) -> tuple[Any, dict[str, Any]]:
        chosen, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return chosen, self._prepare_for_class(inputs, self.all_model_classes[0], return_labels=True)

    def test_model_get_set_embeddings(self) -> None:
        embeddings = self.all_model_classes[0](self.config).get_input_embeddings()
        self.assertIsInstance(embeddings, torch.nn.Conv2d)  # type: ignore[attr-defined]

    def test_gradient_checkpointing_enable_disable(self) -> None:
        common = vars(sys.modules["suites.test_modeling_common"])
        # our switch is of a whole network; the rest of the test holds for it, too
        with mock.patch.dict(common, GradientCheckpointingLayer=torch.nn.Module):
            super().test_gradient_checkpointing_enable_disable()  # type: ignore[misc]


class MapsCase(ModelCase):
    """Of models whose first output is maps."""

    def test_retain_grad_hidden_states_attentions(self) -> None:
        chosen, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        chosen.output_hidden_states = True
        output = self.all_model_classes[0](chosen)(**inputs)
        output.hidden_states[0].retain_grad()
        output[0][-1].flatten()[0].backward()
        assert output.hidden_states[0].grad is not None


def make_cases(suites: dict[str, Any]) -> dict[str, type]:
    """One test case a class of ours."""

    def case(name: str, *bases: type, **members: Any) -> type:
        return type(name, (*bases, unittest.TestCase), {"__module__": __name__, **members})

    def models(name: str, model_class: Any, config: Any) -> type:
        kind = ModelCase if hasattr(config, "detector") else MapsCase
        return case(name, kind, suites["ModelTesterMixin"], all_model_classes=(model_class,), config=config)

    size = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}, "do_center_crop": True}

    class ProcessorTester(suites["ImageProcessingTester"]):  # type: ignore[misc]
        def __init__(self, parent: Any) -> None:
            super().__init__(parent, **size)

        def _get_image_processing_classes(self) -> dict[str, Any]:
            return {"torchvision": MCLImageProcessor}

    backbone = {"all_model_classes": (MCLBackbone,), "config": MCLConfig(**TINY), "config_class": MCLConfig}
    whole = MCLConfig(**TINY, region_size=2, region_convs=1, hidden_dim=16, embedding_dim=8)
    cases = [
        models("MCLModelTest", MCLModel, whole),
        models("MCLBackboneModelTest", MCLBackbone, MCLConfig(**TINY)),
        case("MCLBackboneTest", OurCase, suites["BackboneTesterMixin"], **backbone),
        case("MCLImageProcessorTest", suites["ImageProcessingTestMixin"], image_processor_tester_class=ProcessorTester),
    ]
    for detector in DETECTORS:
        kind = MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection
        cases.append(models(f"{detector}_Test", kind, tiny_config(detector, box_score_thresh=0.001)))
    for each in cases:
        for name, reason in NOT_OURS.items():
            owner, _, test = name.rpartition(".")
            if owner in ("", each.__name__) and hasattr(each, test):
                setattr(each, test, pytest.mark.xfail(reason=reason, strict=True)(_whole(getattr(each, test))))
    return {each.__name__: each for each in cases}


def _whole(test: Any) -> Any:
    """A test as a function of its own, since marks stay with a function, which several cases have; what fails in a part
    of it fails the test."""

    @functools.wraps(test)
    def run(self: Any) -> None:
        with mock.patch.object(self, "subTest", lambda *_, **__: contextlib.nullcontext()):
            test(self)

    return run


if __name__ == "__main__":
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "tests" / "test_modeling_common.py").is_file():
        sys.exit(
            f"usage: {sys.argv[0]} FOLDER [options of pytest]; FOLDER is transformers' unpacked source distribution"
        )
    os.environ[SOURCE] = sys.argv[1]
    sys.exit(
        pytest.main(
            [__file__, "-q", "--no-header", "-c", os.devnull, "-W", "ignore", "-p", "no:cacheprovider", *sys.argv[2:]]
        )
    )
elif os.environ.get(SOURCE):
    globals().update(make_cases(load_suites(Path(os.environ[SOURCE]))))
