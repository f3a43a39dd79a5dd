"""`probe_checkpoint`: what one or several networks know, as numbers. Behind `mcl-hf probe`.

Flow: names of networks + images, annotated or plain -> networks -> object_probe, view_probe -> ProbeResult.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..data import open_source
from ..errors import InputError
from .networks import RANDOM, TIMM, open_networks
from .object_probe import ObjectProbe
from .region_features import calibrate_norms
from .view_probe import ViewProbe


@dataclass
class ProbeResult:
    """Numbers of one network."""

    network: str  # its name, as it was given
    about: str  # a line about it: what was loaded
    objects: dict[str, Any] | None = None  # from `ObjectProbe.measure`, or None without annotated images
    views: dict[str, Any] | None = None  # from `ViewProbe.measure`, or None without plain images

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


def probe_checkpoint(
    *networks: str | Path,
    probe_data: str | Path | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    num_images: int = 200,
    seed: int = 0,
    split: str = "train",
    image_folder: str | Path | None = None,
    image_column: str | None = None,
    allow_outside_paths: bool = False,
    device: str = "cpu",
    on_network: Callable[[str], None] | None = None,
) -> list[ProbeResult]:
    """Probe networks with annotated images, with plain ones, or with both; one result a network, in their order.

    Args:
        networks: one or more of `random`, `timm:NAME`, a folder or a Hub repository.
        probe_data: images with boxes and classes: whatever `open_detection_data` opens.
        data: images without labels: whatever `open_source` opens.
        num_images: most images that are read of each, spread evenly.
        seed: of halves, crops, and of weights that start random.
        split: part of both data sets, where they have parts.
        image_folder: of a COCO JSON's images; found beside it where left out.
        image_column: of tables; found by itself where there is only one.
        allow_outside_paths: read images outside of the data's folder, which paths in the data may name.
        device: to run the networks on.
        on_network: called with a line about each network before it is probed.

    Raises:
        InputError: a network or data that cannot be opened, neither kind of data, or too few images.

    Example:
        >>> from mcl_hf.probe import probe_checkpoint
        >>> results = probe_checkpoint("my-run", "random", probe_data="coco")  # doctest: +SKIP
        >>> results[0].objects["features"]["region_head"]["knn"]["all"]  # doctest: +SKIP
        0.61
    """
    if not networks:
        raise InputError("name a network to probe: a folder, a Hub repository, timm:NAME or random")
    if probe_data is None and data is None:
        raise InputError("a probe needs images: annotated ones with --probe-data, plain ones with --data, or both")
    if num_images < 4:
        raise InputError(f"a probe needs at least 4 images, got {num_images}")
    names = [str(network) for network in networks]
    opened = open_networks(names, seed)
    config = opened[0][0].config
    reading: Any = {"split": split, "image_column": image_column, "allow_outside_paths": allow_outside_paths}
    probes: dict[str, ObjectProbe | ViewProbe] = {}
    if probe_data is not None:
        from ..annotations.open_data import open_detection_data

        annotated = open_detection_data(probe_data, images=image_folder, skip_broken=True, check_files=False, **reading)
        probes["objects"] = ObjectProbe(annotated, config, num_images, seed)
    if data is not None:
        probes["views"] = ViewProbe(open_source(data, **reading), config, num_images, seed)
    results = []
    for (network, about), name in zip(opened, names, strict=True):
        if on_network is not None:
            on_network(about)
        network.to(torch.device(device))
        if name == RANDOM or name.startswith(TIMM):
            calibrate_norms(network, next(iter(probes.values())).images, backbone=name == RANDOM)
        results.append(ProbeResult(name, about, **{kind: probe.measure(network) for kind, probe in probes.items()}))
        network.to("cpu")
    return results
