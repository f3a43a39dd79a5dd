"""The suites need transformers' source release, which tests do not fetch; the way to it is said, and it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "transformers_suites.py"


def run(*words):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment)


def release(folder, of_models, known="assert False"):
    """A stand-in for a release: every mixin has one test, and one that ours are known to fail."""
    (folder / "tests").mkdir(parents=True)
    model = "class {}:\n    def test_one(self):\n        {}\n    def test_num_layers_is_small(self):\n        {}\n"
    model += "    def test_config(self):\n        assert False\n"
    files = {
        "test_modeling_common": "from .exporters.test_export import ExportTesterMixin\n"
        "class GradientCheckpointingLayer:\n    pass\n"
        + model.format("ModelTesterMixin(ExportTesterMixin)", of_models, known).replace("test_config", "config")
        + SWITCH,
        "test_backbone_common": model.format("BackboneTesterMixin", USES, "assert False"),
        "test_image_processing_common": "class ImageProcessingTester:\n    pass\n"
        "class ImageProcessingTestMixin:\n    def test_one(self):\n        pass\n",
    }
    for name, text in files.items():
        (folder / "tests" / f"{name}.py").write_text(text)
    return str(folder)


USES = """config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        self.all_model_classes[0](config).eval()(**inputs)"""
SWITCH = """    def test_gradient_checkpointing_enable_disable(self):
        model = self.all_model_classes[0](self.model_tester.get_config())
        assert [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
"""


def test_suites_of_a_source_release_are_run_on_our_classes(tmp_path):
    """Of five models one's own test, embeddings, the switch; gradients of maps of three; the processor."""
    done = run(release(tmp_path / "release", USES))
    assert done.returncode == 0 and "19 passed, 7 xfailed" in done.stdout, done.stdout + done.stderr
    assert "FOLDER is transformers' unpacked source distribution" in run(str(tmp_path / "nowhere")).stderr


@pytest.mark.slow
def test_a_new_failure_and_a_known_one_that_is_none_any_more_are_told(tmp_path):
    part = "with self.subTest('part'):\n            assert False"
    done = run(release(tmp_path / "known", USES, known=part))
    assert done.returncode == 0 and "19 passed, 7 xfailed" in done.stdout, done.stdout + done.stderr
    for name, texts, passed in (("new", ("assert False",), "14 passed"), ("mended", ("pass", "pass"), "19 passed")):
        done = run(release(tmp_path / name, *texts))
        assert done.returncode == 1 and f"5 failed, {passed}" in done.stdout, done.stdout + done.stderr
