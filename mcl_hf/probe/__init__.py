"""Probes: how much a network's region features already know, without training it further.

pictures -> region features -> kNN and linear classes of annotated objects, or finding an image again without labels.
"""

from ..lazy import names_of

_HOME = {
    "ObjectProbe": "object_probe",
    "ProbeResult": "run_probe",
    "ViewProbe": "view_probe",
    "probe_checkpoint": "run_probe",
}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
