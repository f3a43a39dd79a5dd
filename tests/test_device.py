"""Pre-training and detectors on a device made of CPU tensors (`device.py`).

Each file runs in a process of its own: such a device is registered for good, and torch then says that there is an
accelerator.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices written in Python",
)
@pytest.mark.parametrize(
    "file",
    [
        "device_pretraining.py",
        "device_detectors.py",
        pytest.param("device_transformers_detectors.py", marks=pytest.mark.slow),
    ],
)
def test_everything_runs_on_a_device_as_on_the_cpu(file):
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
