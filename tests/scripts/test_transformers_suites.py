"""The suites need transformers' source release, which tests do not fetch; the way to it is said, and it starts."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "transformers_suites.py"


def run(*words):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment)


def test_suites_of_a_source_release_are_run_on_our_classes(tmp_path):
    """A stand-in for the release: every mixin has one test, and one that is left out; the script adds embeddings."""
    (tmp_path / "tests").mkdir()
    model = "class {}:\n    def test_one(self):\n        {}\n    def test_config(self):\n        assert False\n"
    uses = "config, inputs = self.model_tester.prepare_config_and_inputs_for_common()\n"
    uses += "        self.all_model_classes[0](config).eval()(**inputs)"
    files = {
        "test_modeling_common": "from .exporters.test_export import ExportTesterMixin\n"
        + model.format("ModelTesterMixin(ExportTesterMixin)", uses),
        "test_backbone_common": model.format("BackboneTesterMixin", uses),
        "test_image_processing_common": "class ImageProcessingTester:\n    pass\n"
        + model.format("ImageProcessingTestMixin", "pass"),
    }
    for name, text in files.items():
        (tmp_path / "tests" / f"{name}.py").write_text(text)
    done = run(str(tmp_path))
    assert done.returncode == 0 and "13 passed, 7 skipped" in done.stdout, done.stdout + done.stderr
    assert "FOLDER is transformers' unpacked source distribution" in run(str(tmp_path / "nowhere")).stderr
