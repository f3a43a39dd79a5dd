"""Probes: how much a network's region features already know, without training it further.

pictures -> region features -> kNN and linear classes of annotated objects, or finding an image again without labels.
"""

from typing import Any

from ..lazy import load_name

_HOME = {
    "ObjectProbe": "object_probe",
    "ProbeResult": "run_probe",
    "ViewProbe": "view_probe",
    "probe_checkpoint": "run_probe",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, _HOME, name)
