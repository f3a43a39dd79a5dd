"""`import_checkpoint`: another program's file becomes a folder of ours to start from.

Where it sits: foreign -> convert -> **import_** -> `--init FOLDER`, `MCLModel.from_pretrained`, detectors.

A published MCL checkpoint becomes the whole pre-training model. Anything else brings a backbone, and an FPN and region
head where they have the same layers; the folder holds just these tensors, so that whatever is started from it says what
is new.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..models.image_processing_mcl import MCLImageProcessor
from ..models.modeling_mcl import MCLModel
from ..models.modeling_mcl_pretraining import MCLForPreTraining
from ..models.official_checkpoint import resnet_name
from ..models.weight_files import not_finite, read_json_object
from ..new_folder import whole_folder
from ..version import __version__
from .checkpoint import save_network
from .convert import convert_back
from .foreign import ForeignFile, read_foreign, read_tensors
from .starting_weights import WeightReport, starting_backbone, starting_statistics
from .to_timm import plain_names

IMPORT_RECORD = "imported_from.json"
"""What was imported, for whoever meets the folder later: `file`, its `sha256` (None for a folder), `layout`, `parts`
(loaded, all) and `remarks`."""

_PARTS = {"backbone": "backbone", "fpn": "FPN", "region_head": "region head"}
_SAYS_NOTHING = {
    "detectron2": "detectron2's own models take BGR and stride in the 1x1 convolutions unless their yaml says "
    "STRIDE_IN_1X1 False and RGB: names are the same, results are not",
    "mmdet": "mmdet's caffe-style models take BGR and stride in the 1x1 convolutions: names are the same, results "
    "are not",
}


def import_checkpoint(path: str | Path, out: str | Path) -> tuple[WeightReport, list[str]]:
    """Read a foreign checkpoint and write a folder of ours.

    Args:
        path: A `.pth` or `.safetensors` file, or a folder that timm wrote.
        out: Folder to write; must not hold anything. It is complete or absent.

    Returns:
        How many of how many tensors of each of our parts came, and remarks, one line each.

    Raises:
        InputError: The file cannot be read safely, is in no known layout, or holds no whole backbone of a ResNet.
    """
    path, out = Path(path), Path(out)
    with whole_folder(out) as partial:
        if (path / "config.json").is_file():
            layout, digest = "timm", None
            report, remarks = _import_timm(path, partial)
        else:
            foreign = read_foreign(path)
            layout = foreign.layout
            if layout == "mcl_hf":
                raise InputError(f"{path} is a file of mcl_hf already: its folder opens as it is")
            report, remarks = (_import_mcl if layout == "MCL" else _import_weights)(foreign, partial)
            remarks = [*remarks, *foreign.remarks]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = {
            "file": path.resolve().name,
            "sha256": digest,
            "layout": layout,
            "parts": report.parts,
            "remarks": remarks,
            "mcl_hf": __version__,
        }
        (partial / IMPORT_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return report, remarks


def _check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    broken = not_finite(tensors)
    if broken:
        raise InputError(
            f"{path} holds NaN or infinite numbers in {len(broken)} of {len(tensors)} tensors, such as {broken[0]}: "
            "its training has failed; take an earlier checkpoint of it"
        )


def _import_mcl(foreign: ForeignFile, folder: Path) -> tuple[WeightReport, list[str]]:
    """A published MCL checkpoint: online network, target and predictors."""
    _check_finite(foreign.path, foreign.tensors)
    dtype = next(iter(foreign.tensors.values())).dtype
    try:
        model = MCLForPreTraining.from_official(foreign.path, dtype=dtype)
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    model.save_pretrained(folder)
    MCLImageProcessor.from_config(model.config).save_pretrained(folder)
    parts = {title: getattr(model.mcl, name) for name, title in _PARTS.items()}
    parts |= {"predictors": model.predictors, "target": model.target}
    counts = {title: len(part.state_dict()) for title, part in parts.items()}
    return WeightReport(str(foreign.path), {title: (count, count) for title, count in counts.items()}), []


def _import_weights(foreign: ForeignFile, folder: Path) -> tuple[WeightReport, list[str]]:
    """Backbone, and what else has our layers."""
    tensors, left = convert_back(foreign.tensors, foreign.table)
    plain = {name.removeprefix("backbone.") for name in tensors if name.startswith("backbone.")}
    backbone = resnet_name(plain)
    if backbone is None:
        raise InputError(f"{foreign.path} ({foreign.layout}) holds no ResNet-18, 34, 50, 101 or 152")
    fields: dict[str, Any] = {"backbone": backbone, "num_channels": tensors["backbone.conv1.weight"].shape[1]}
    if any(name.startswith("fpn.") and name.endswith(".conv.bias") for name in tensors):
        left |= {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.")}
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    lateral = next((n for n in tensors if n.startswith("fpn.lateral.") and n.endswith(".conv.weight")), None)
    if lateral is not None:  # any of them: whatever does not fit the others is refused by name
        fields["fpn_channels"] = tensors[lateral].shape[0]
    convs = sum(name.startswith("region_head.conv.") and name.endswith("conv.weight") for name in tensors)
    if convs:
        fields["region_convs"] = convs
    classifier = [name for name in tensors if name.startswith("backbone.fc.")]
    left |= {name: tensors.pop(name) for name in classifier}
    report = _write(foreign.path, MCLConfig(**fields), tensors, folder)
    remarks = []
    if left:
        remarks.append(f"left out: {len(left)} tensors of {foreign.layout} such as {next(iter(left))}")
    if foreign.layout in _SAYS_NOTHING:
        remarks.append(_SAYS_NOTHING[foreign.layout])
    return report, remarks


def _import_timm(path: Path, folder: Path) -> tuple[WeightReport, list[str]]:
    """A folder that timm wrote, of any architecture and by any release: older ones write what is published flat, and
    weights pickled."""
    try:
        description = read_json_object(path / "config.json")
        published = description.get("pretrained_cfg") or description
        channels = dict(description.get("model_args") or {}).get("in_chans") or (published.get("input_size") or [3])[0]
        statistics = starting_statistics(description, channels)
        fields = {"num_channels": channels, "backbone": description["architecture"], **starting_backbone(description)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no folder of timm's: its config.json names no architecture") from error
    if statistics is not None:
        fields |= {"image_mean": statistics[0], "image_std": statistics[1]}
    try:
        config = MCLConfig(**fields)
    except ValueError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    weights = [path / name for name in ("model.safetensors", "pytorch_model.bin")]
    given, _ = read_tensors(next((file for file in weights if file.is_file()), weights[0]))
    names = plain_names(config)
    tensors = {f"backbone.{name}": given[plain] for plain, name in names.items() if name and plain in given}
    left = [plain for plain in given if not names.get(plain)]
    report = _write(path, config, tensors, folder)
    return report, [f"left out: {len(left)} tensors such as {left[0]}"] if left else []


def _write(path: Path, config: MCLConfig, tensors: dict[str, torch.Tensor], folder: Path) -> WeightReport:
    """Check names and shapes against the model, then write just these tensors."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in MCLModel(config).state_dict().items()}
    _check_finite(path, tensors)
    wrong = [name for name, tensor in tensors.items() if expected.get(name) != tensor.shape]
    if wrong:
        found, wanted = tuple(tensors[wrong[0]].shape), expected.get(wrong[0])
        reason = f"{found}, the model has {tuple(wanted)}" if wanted is not None else "which the model does not have"
        raise InputError(f"{path}: {len(wrong)} tensors do not fit {config.backbone}, such as {wrong[0]}: {reason}")
    report = WeightReport(str(path))
    for name in expected:
        report.count(_PARTS[name.split(".")[0]], name in tensors)
    given, total = report.parts["backbone"]
    if given < total:
        missing = next(name for name in expected if name.startswith("backbone.") and name not in tensors)
        raise InputError(f"{path} holds {given}/{total} tensors of {config.backbone}: {missing} is missing")
    save_network(config, tensors, folder)
    return report
