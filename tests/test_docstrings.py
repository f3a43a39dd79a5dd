"""Examples in docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import mcl_hf

MODULES = sorted(
    module.name
    for package in ("models",)
    for module in pkgutil.walk_packages([f"{mcl_hf.__path__[0]}/{package}"], f"mcl_hf.{package}.")
) + [f"mcl_hf.detectors.{name}" for name in ("configuration_detector", "modeling_detector", "start_detector")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_public_parts_have_examples() -> None:
    finder = doctest.DocTestFinder()
    for part in ("MCLConfig", "MCLBackbone", "MCLModel", "MCLForPreTraining", "FeaturePyramid", "RegionHead"):
        assert any(test.examples for test in finder.find(getattr(mcl_hf, part))), part
