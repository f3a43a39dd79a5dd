"""Probes: how much a network's region features already know, without training it further.

pictures -> region features -> kNN and linear classes of annotated objects, or finding an image again without labels.
"""

import importlib
from typing import Any

_HOME = {
    "ObjectProbe": "object_probe",
    "ProbeResult": "run_probe",
    "ViewProbe": "view_probe",
    "probe_checkpoint": "run_probe",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
