"""`import_checkpoint`: another program's file becomes a folder of ours to start from.

Where it sits: a file -> **import_** (with keymaps, convert) -> `--init FOLDER`, `MCLModel.from_pretrained`, detectors.

Files are read without running anything in them, and recognised by the names of their tensors. A published MCL
checkpoint becomes the whole pre-training model. Anything else brings a backbone, and an FPN and region head where they
have the same layers; the folder holds just these tensors, so that whatever is started from it says what is new.

Source: the layouts of facebookresearch/moco, WXinlong/DenseCL (OpenSelfSup), hologerry/SoCo, detectron2, mmdet,
torchvision and timm, as their own converters read them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..models.image_processing_mcl import MCLImageProcessor
from ..models.modeling_mcl import MCLModel
from ..models.modeling_mcl_pretraining import MCLForPreTraining
from ..models.official_checkpoint import resnet_name
from ..models.weight_files import not_finite, read_json_object, read_pickled, read_safetensors
from ..new_folder import whole_folder
from ..version import __version__
from .checkpoint import save_network
from .convert import convert_back
from .keymaps import PLAIN, TABLES, Table
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
_HOLDERS = (
    "state_dict", "model", "model_state_dict", "teacher", "ema", "model_ema", "ema_model", "student", "network", "net",
)  # fmt: skip
"""Where programs put the weights within a file; the first that is there counts."""

_DEEPEST = 3  # mappings within each other that are looked into
_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
# Tensors that tell a layout -> its name; the first whose names are all there wins.
_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("encoder_q.0.conv1.weight", "encoder_q.1.lateral_convs.0.conv.weight"), "MCL"),
    (("encoder_q.0.conv1.weight",), "DenseCL"),
    (("encoder_q.conv1.weight",), "MoCo"),
    (("encoder.conv1.weight",), "SoCo"),
    (("backbone.bottom_up.stem.conv1.weight",), "detectron2"),
    (("backbone.body.conv1.weight",), "torchvision"),
    (("backbone.conv1.weight", "fpn.lateral.0.conv.weight"), "mcl_hf"),
    (("mcl.backbone.conv1.weight",), "mcl_hf"),
    (("backbone.conv1.weight",), "mmdet"),
    (("conv1.weight", "layer1.0.conv1.weight"), "ResNet"),
)
_LATERALS = {
    "detectron2": "backbone.fpn_lateral{}.weight",
    "torchvision": "backbone.fpn.inner_blocks.{}.0.weight",
    "mmdet": "neck.lateral_convs.{}.conv.weight",
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
            tensors, taken = _read_tensors(path)
            layout = _layout(path, tensors)
            if layout == "mcl_hf":
                raise InputError(f"{path} is a file of mcl_hf already: its folder opens as it is")
            if layout == "MCL":
                report, remarks = _import_mcl(path, tensors, partial), taken
            else:
                report, remarks = _import_weights(path, layout, tensors, partial)
                remarks += taken
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = {"file": path.resolve().name, "sha256": digest, "layout": layout, "parts": report.parts,
                  "remarks": remarks, "mcl_hf": __version__}  # fmt: skip
        (partial / IMPORT_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return report, remarks


def _check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    broken = not_finite(tensors)
    if broken:
        raise InputError(
            f"{path} holds NaN or infinite numbers in {len(broken)} of {len(tensors)} tensors, such as {broken[0]}: "
            "its training has failed; take an earlier checkpoint of it"
        )


def _import_mcl(path: Path, tensors: dict[str, torch.Tensor], folder: Path) -> WeightReport:
    """A published MCL checkpoint: online network, target and predictors."""
    _check_finite(path, tensors)
    try:
        model = MCLForPreTraining.from_official(path, dtype=next(iter(tensors.values())).dtype)
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    model.save_pretrained(folder)
    MCLImageProcessor.from_config(model.config).save_pretrained(folder)
    parts = {title: getattr(model.mcl, name) for name, title in _PARTS.items()}
    parts |= {"predictors": model.predictors, "target": model.target}
    counts = {title: len(part.state_dict()) for title, part in parts.items()}
    return WeightReport(str(path), {title: (count, count) for title, count in counts.items()})


def _import_weights(
    path: Path, layout: str, theirs: dict[str, torch.Tensor], folder: Path
) -> tuple[WeightReport, list[str]]:
    """Backbone, and what else has our layers."""
    tensors, left = convert_back(theirs, _table(layout, theirs))
    plain = {name.removeprefix("backbone.") for name in tensors if name.startswith("backbone.")}
    backbone = resnet_name(plain)
    if backbone is None:
        raise InputError(f"{path} ({layout}) holds no ResNet-18, 34, 50, 101 or 152")
    fields: dict[str, Any] = {"backbone": backbone, "num_channels": tensors["backbone.conv1.weight"].shape[1]}
    if any(name.startswith("fpn.") and name.endswith(".conv.bias") for name in tensors):
        left |= {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.")}
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    laterals = [n for n in tensors if n.startswith("fpn.lateral.") and n.endswith(".conv.weight")]
    if laterals:  # any of them: whatever does not fit the others is refused by name
        fields["fpn_channels"] = tensors[laterals[0]].shape[0]
    convs = [n for n in tensors if n.startswith("region_head.conv.") and n.endswith("conv.weight")]
    if convs:
        fields["region_convs"] = len(convs)
    left |= {name: tensors.pop(name) for name in list(tensors) if name.startswith("backbone.fc.")}
    report = _write(path, MCLConfig(**fields), tensors, folder)
    remarks = []
    if left:
        remarks.append(f"left out: {len(left)} tensors of {layout} such as {next(iter(left))}")
    if layout in _SAYS_NOTHING:
        remarks.append(_SAYS_NOTHING[layout])
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
    given, _ = _read_tensors(next((file for file in weights if file.is_file()), weights[0]))
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


def _layout(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Whose names the tensors have."""
    for marks, layout in _MARKS:
        if all(mark in tensors for mark in marks):
            return layout
    raise InputError(
        f"{path} is in no layout that is known here: {len(tensors)} tensors such as {', '.join(list(tensors)[:3])}; "
        "known are MCL, MoCo, DenseCL, SoCo, detectron2, mmdet, torchvision and timm ResNets"
    )


def _table(layout: str, tensors: dict[str, torch.Tensor]) -> Table:
    """Names of a layout; a pyramid of three levels is a RetinaNet's."""
    if layout in PLAIN:
        return PLAIN[layout]
    laterals = sum(_LATERALS[layout].format(index) in tensors for index in range(6))
    return TABLES[layout, "retinanet" if laterals == 3 else "mask_rcnn"]


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Named tensors of a file, less `module.`, wherever it keeps them, and a remark where that was a choice: of several
    sets (student and teacher, model and optimizer) the first of `_HOLDERS` counts, or else the largest."""

    def rank(place: tuple[str, ...]) -> int:
        return next((_HOLDERS.index(name) for name in place if name in _HOLDERS), len(_HOLDERS))

    sets = sorted(_sets(_content(path)), key=lambda found: (rank(found[0]), -len(found[1])))
    if not sets:
        raise InputError(f"{path} holds no tensors")
    place, tensors = sets[0]
    others = [".".join(other) for other, held in sets[1:] if 2 * len(held) > len(tensors)]
    if not others and (not place or place[0] in _HOLDERS[:3]):
        return tensors, []
    also = f"; the file also has {', '.join(others[:5])}" if others else ""
    return tensors, [f"taken: the tensors under {'.'.join(place)}{also}"]


def _content(path: Path) -> Any:
    if path.suffix != ".safetensors" and path.is_dir():
        raise InputError(f"{path} is a folder without a config.json of timm's: name the file of weights in it")
    if path.suffix not in (".safetensors", *_PICKLED):
        raise InputError(f"{path}: give a {', '.join(_PICKLED)} or .safetensors file")
    try:
        return read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (ValueError, OSError) as error:
        reason = str(error)
        if path.suffix == ".pkl" and "running code" in reason:
            reason += (
                "; a .pkl is a bare pickle, which is never read here: where you trust it, load it there and "
                "torch.save({'model': {name: torch.tensor(value) ...}}, 'model.pth')"
            )
        raise InputError(reason) from error


def _sets(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Every mapping of names to tensors down to a depth, and its place."""
    if not isinstance(content, Mapping) or len(place) > _DEEPEST:
        return
    named = [(name, value) for name, value in content.items() if isinstance(name, str)]
    tensors = {name.removeprefix("module."): value for name, value in named if isinstance(value, torch.Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from _sets(value, (*place, str(name)))
