"""`export_checkpoint`: one checkpoint of ours into a folder that another framework opens.

Where it sits: checkpoint -> target_statistics -> convert -> to_* -> **export**
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from ..errors import InputError
from ..files import fill_template
from ..new_folder import check_new, whole_folder
from ..version import __version__
from .checkpoint import Checkpoint, find_folder, open_checkpoint, save_network
from .convert import Coverage
from .detector_to_onnx import EXPORTED, write_detector_graph
from .remote_code import add_code, refuse_detector
from .target_statistics import refresh_statistics
from .targets import NETWORKS, TARGETS
from .to_detectors import ANCHORS_FILE, write_detector
from .to_onnx import write_graphs
from .to_timm import feature_options, write_timm

_WITH_DETECTORS = ("torchvision", "detectron2", "mmdet")


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    detector: str | None = None,
    network: str | None = None,
    data: str | Sequence[str] | None = None,
    num_images: int = 1024,
    batch_size: int = 16,
    allow_outside_paths: bool = False,
    with_code: bool = False,
) -> Coverage:
    """Export a checkpoint.

    Args:
        source: A run's folder, its `pretraining/`, a checkpoint, a detector, or a Hub repository `user/name`.
        out: Folder to write; must not hold anything. It is complete or absent.
        to: One of `TARGETS`.
        detector: `mask_rcnn`, `faster_rcnn` or `retinanet`, for torchvision, detectron2 and mmdet; None follows the
            checkpoint, or is Mask R-CNN.
        network: `online` or `target`. None is online, and for `transformers` all that the checkpoint holds.
        data: Images to make the target network's statistics of, where training has not made them.
        num_images: How many of them.
        batch_size: Images of a batch there.
        allow_outside_paths: Read images outside of the folder of `data`, which paths in tables may name.
        with_code: For `transformers`: the folder carries its code.

    Returns:
        How many of how many tensors went over.

    Raises:
        InputError: One line: the source cannot be read, the target has no name for its backbone, options do not fit.
    """
    out = Path(out)
    _check_options(to, detector, network, data, with_code)
    check_new(out)
    folder, description = find_folder(str(source))
    kind = description.get("model_type")
    if kind in EXPORTED:
        if to != "onnx" or network is not None:
            raise InputError(f"{source} is a {kind} of transformers, of which --to onnx alone makes something else")
        with whole_folder(out) as partial:
            return write_detector_graph(folder, partial, out)
    if with_code:
        refuse_detector(kind)
    checkpoint = open_checkpoint(source, network or "online")
    untrained: list[str] = []
    if network == "target" and checkpoint.stale_levels and to != "timm":  # timm gets the backbone alone
        if data is not None:
            checkpoint.tensors = refresh_statistics(
                checkpoint.config, checkpoint.tensors, data, num_images, batch_size, allow_outside_paths
            )
        else:
            checkpoint.tensors = {n: t for n, t in checkpoint.tensors.items() if n.startswith("backbone.")}
            untrained.append(
                f"the target network's FPN and region head: training never ran its {', '.join(checkpoint.stale_levels)}"
                ", so the batch-norm statistics are stale; --data IMAGES makes them anew"
            )
    with whole_folder(out) as partial:
        if to == "timm":
            coverage = write_timm(checkpoint, partial)
        elif to in _WITH_DETECTORS:
            coverage = write_detector(checkpoint, detector, partial, to)
        elif to in ("onnx", "pt2"):
            coverage = write_graphs(checkpoint, partial, to)
        else:
            coverage = _write_transformers(checkpoint, partial, network is None, with_code)
        coverage.left_out += untrained
        coverage.notes += _as_initialised(checkpoint, to, detector)
        (partial / "README.md").write_text(_readme(checkpoint, coverage, to, out, partial), encoding="utf-8")
    return coverage


def _check_options(
    to: str, detector: str | None, network: str | None, data: str | Sequence[str] | None, with_code: bool
) -> None:
    if to not in TARGETS:
        raise InputError(f"--to must be one of {', '.join(TARGETS)}, got {to!r}")
    if detector is not None and to not in _WITH_DETECTORS:
        raise InputError(f"--detector is for {', '.join(_WITH_DETECTORS)}; {to} gets no detector")
    if network not in (None, *NETWORKS):
        raise InputError(f"--network must be one of {', '.join(NETWORKS)}, got {network!r}")
    if data is not None and network != "target":
        raise InputError("--data is for --network target, whose FPN lacks statistics; the online network has its own")
    if data is not None and to == "timm":
        raise InputError(f"--data makes statistics of the target network's FPN, and {to} gets no FPN: leave it out")
    if with_code and to != "transformers":
        raise InputError("--with-code is for --to transformers; other formats need no code of ours")


def _as_initialised(checkpoint: Checkpoint, to: str, detector: str | None) -> list[str]:
    """What is to be said of levels of the online network's FPN that go along without having been trained."""
    if checkpoint.network != "online" or to == "timm":
        return []
    levels = [level for level in checkpoint.stale_levels if level != "P2" or detector != "retinanet"]
    if not levels:
        return []
    one = len(levels) == 1
    return [
        f"{' and '.join(levels)} of the FPN {'was' if one else 'were'} read by no level of this pre-training: "
        f"{'it goes' if one else 'they go'} over as {'it was' if one else 'they were'} initialised"
    ]


def _readme(checkpoint: Checkpoint, coverage: Coverage, to: str, out: Path, folder: Path) -> str:
    """What is in the folder, called `out` once it is whole, how it is opened, and what must not be changed."""
    config, (mean, std) = checkpoint.config, checkpoint.statistics
    return fill_template(
        Path(__file__).with_name("export_readme.md"),
        version=__version__, to=to, out=out, coverage=coverage, network=checkpoint.network, backbone=config.backbone,
        channels=config.num_channels, mean=mean, std=std,
        feature_options=feature_options(config.backbone, config.num_channels, config.backbone_kwargs),
        own_anchors=(folder / ANCHORS_FILE).is_file(), with_code=(folder / "modeling_mcl.py").is_file(),
    )  # fmt: skip


def _write_transformers(checkpoint: Checkpoint, folder: Path, whole: bool, with_code: bool) -> Coverage:
    """Our own format: all that the checkpoint holds, or one network of it."""
    if checkpoint.detector is not None and not whole:
        raise InputError(f"{checkpoint.source} is a detector: it has one network, leave --network out")
    coverage = Coverage("transformers")
    if whole:
        names = ("config.json", "preprocessor_config.json")
        for path in sorted(checkpoint.folder.iterdir()):
            weights = path.name.startswith("model") and path.name.endswith((".safetensors", ".safetensors.index.json"))
            if path.name in names or weights:
                shutil.copyfile(path, folder / path.name)
        held = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                held += len(file.keys())
        coverage.parts["all that the checkpoint holds"] = (held, held)
    else:
        save_network(checkpoint.config, checkpoint.tensors, folder)
        for part in ("backbone", "fpn", "region_head"):
            count = sum(name.startswith(f"{part}.") for name in checkpoint.tensors)
            if count:
                coverage.parts[part] = (count, count)
    if with_code:
        add_code(folder)
    return coverage
