"""transformers' own test suites, run on our models, backbone, detectors and image processor.

The suites are `ModelTesterMixin`, `BackboneTesterMixin` and `ImageProcessingTestMixin` of transformers' source
distribution; an installed transformers does not have them. X is the installed release:

    pip download transformers==X --no-binary :all: --no-deps && tar xf transformers-X.tar.gz
    pip install parameterized
    python scripts/transformers_suites.py transformers-X [options of pytest, such as -k gradient]

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

from mcl_hf import (
    MCLBackbone,
    MCLConfig,
    MCLDetectorConfig,
    MCLForInstanceSegmentation,
    MCLForObjectDetection,
    MCLImageProcessor,
    MCLModel,
)

SOURCE = "TRANSFORMERS_SOURCE"
"""Environment variable through which pytest's process knows the folder."""
TINY: dict[str, Any] = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 4},
    "fpn_channels": 8,
}
FEW_REGIONS = {
    "box_head_convs": 1, "mask_head_convs": 1, "box_fc_dim": 16, "num_labels": 3, "min_size": 64, "max_size": 96,
    "box_score_thresh": 0.001, "rpn_pre_nms_top_n_train": 60, "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 30, "rpn_batch_size_per_image": 32,
    "box_batch_size_per_image": 16, "box_detections_per_img": 10, "topk_candidates": 20,
}  # fmt: skip
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


def labels() -> list[dict[str, torch.Tensor]]:
    """One object in each of two images."""
    label = {
        "class_labels": torch.tensor([1]),
        "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        "masks": torch.ones(1, 64, 64),
    }
    return [label, label]


def make_cases(suites: dict[str, Any]) -> dict[str, type]:
    """One test case a class of ours."""
    models = {
        "MCLModelTest": (MCLModel, MCLConfig(**TINY, region_size=2, region_convs=1, hidden_dim=16, embedding_dim=8)),
        "MCLBackboneModelTest": (MCLBackbone, MCLConfig(**TINY)),
        **{
            f"{detector}_Test": (
                MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection,
                MCLDetectorConfig(detector=detector, **TINY, **FEW_REGIONS),
            )
            for detector in ("mask_rcnn", "faster_rcnn", "retinanet")
        },
    }

    def model_case(model_class: Any, config: Any) -> dict[str, Any]:
        has_loss, common = hasattr(config, "detector"), vars(sys.modules["suites.test_modeling_common"])

        def set_up(self: Any) -> None:
            self.model_tester = Tester(config)

        def inputs_with_gradient(self: Any) -> tuple[Any, dict[str, Any]]:
            chosen, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            return chosen, prepare(self, inputs, model_class, return_labels=True)

        def reads_pixels(self: Any) -> None:  # vision models of transformers replace this test as well
            self.assertIsInstance(model_class(config).get_input_embeddings(), torch.nn.Conv2d)

        def switches(self: Any) -> None:  # our switch is of a whole network; the rest of the test holds for it, too
            with mock.patch.dict(common, GradientCheckpointingLayer=torch.nn.Module):
                suites["ModelTesterMixin"].test_gradient_checkpointing_enable_disable(self)

        def keeps_gradients(self: Any) -> None:  # backbones of transformers, whose first output is maps, replace it too
            chosen, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            chosen.output_hidden_states = True
            output = model_class(chosen)(**inputs)
            output.hidden_states[0].retain_grad()
            output[0][-1].flatten()[0].backward()
            self.assertIsNotNone(output.hidden_states[0].grad)

        def prepare(self: Any, inputs: Any, chosen: Any, return_labels: bool = False) -> dict[str, Any]:
            inputs = suites["ModelTesterMixin"]._prepare_for_class(self, inputs, chosen, return_labels)
            return {**inputs, "labels": labels()} if return_labels and has_loss else inputs

        return {
            "setUp": set_up,
            "_prepare_for_class": prepare,
            "_prepare_config_and_inputs_for_retain_grad_hidden_states_attentions": inputs_with_gradient,
            "test_model_get_set_embeddings": reads_pixels,
            "test_gradient_checkpointing_enable_disable": switches,
            **({} if has_loss else {"test_retain_grad_hidden_states_attentions": keeps_gradients}),
            "all_model_classes": (model_class,),
            "has_attentions": False,
            "test_resize_embeddings": False,
            "__module__": __name__,
        }

    cases: dict[str, type] = {
        name: type(name, (suites["ModelTesterMixin"], unittest.TestCase), model_case(*pair))
        for name, pair in models.items()
    }
    backbone = {**model_case(MCLBackbone, MCLConfig(**TINY)), "config_class": MCLConfig}
    cases["MCLBackboneTest"] = type("MCLBackboneTest", (suites["BackboneTesterMixin"], unittest.TestCase), backbone)
    size = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}, "do_center_crop": True}
    tester = type(
        "ProcessorTester",
        (suites["ImageProcessingTester"],),
        {
            "__init__": lambda self, parent: suites["ImageProcessingTester"].__init__(self, parent, **size),
            "_get_image_processing_classes": lambda self: {"torchvision": MCLImageProcessor},
        },
    )
    cases["MCLImageProcessorTest"] = type(
        "MCLImageProcessorTest",
        (suites["ImageProcessingTestMixin"], unittest.TestCase),
        {"image_processor_tester_class": tester, "__module__": __name__},
    )
    for case in cases.values():
        for name, reason in NOT_OURS.items():
            owner, _, test = name.rpartition(".")
            if owner in ("", case.__name__) and hasattr(case, test):
                setattr(case, test, pytest.mark.xfail(reason=reason, strict=True)(_whole(getattr(case, test))))
    return cases


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
