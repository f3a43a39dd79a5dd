"""Probes: how much a network's region features already know, without training it further.

pictures -> region features -> kNN and linear classes of annotated objects, or finding an image again without labels.
"""

from mcl_hf.probe.object_probe import ObjectProbe
from mcl_hf.probe.run_probe import ProbeResult, probe_checkpoint
from mcl_hf.probe.view_probe import ViewProbe

__all__ = ["ObjectProbe", "ProbeResult", "ViewProbe", "probe_checkpoint"]
