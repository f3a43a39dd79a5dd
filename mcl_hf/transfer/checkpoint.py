"""What can be exported: any of our folders, opened as the tensors of one network under the names of `MCLModel`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..models.image_processing_mcl import MCLImageProcessor
from ..models.timm_backbone import describe_backbone
from ..models.weight_files import read_json_object
from ..remote.checkpoints import MODEL_FILES, last_checkpoint, local_checkpoint
from .starting_weights import read_checkpoint, rename_from_detector

DETECTOR_TYPE = "mcl_detector"
_SHARED_FIELDS = ("backbone", "backbone_kwargs", "num_channels", "image_mean", "image_std", "fpn_channels")
_OTHER_PARTS = ("predictors.", "target.", "classifiers.", "contrast.")


@dataclass
class Checkpoint:
    """One network of a checkpoint."""

    source: str  # as it was given
    folder: Path  # where its files lie
    config: MCLConfig  # a detector's shared fields
    network: str  # online or target
    tensors: dict[str, torch.Tensor]  # by the names of `MCLModel`; a detector's own heads keep theirs
    description: dict[str, Any]  # config.json; a detector's with defaults for what it leaves out
    detector: str | None = None  # kind of a fine-tuned one
    # Pyramid levels that training never ran in this network: their batch-norm statistics are those it started with, and
    # in the online network their convolutions, too.
    stale_levels: list[str] = field(default_factory=list)

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and std of each channel of images in [0, 1]."""
        mean, std = self.config.image_mean or (), self.config.image_std or ()  # the configuration fills both
        return [round(float(value), 8) for value in mean], [round(float(value), 8) for value in std]


def open_checkpoint(source: str | Path, network: str = "online") -> Checkpoint:
    """Open a checkpoint for export.

    Args:
        source: A run's folder, its `pretraining/`, a checkpoint, a detector's folder, or a Hub repository `user/name`.
        network: `online`, or `target`, the slowly moving copy, which `pretraining/` and checkpoints hold.

    Raises:
        InputError: Nothing there that is a checkpoint of ours, damaged weights, or no target network.
    """
    source = str(source)
    folder, description = find_folder(source)
    kind = description.get("model_type")
    if kind not in (MCLConfig.model_type, DETECTOR_TYPE):
        raise InputError(
            f"{source} is not a checkpoint of mcl_hf: its config.json has model_type {kind!r}; a foreign one becomes "
            "ours by mcl-hf import"
        )
    shared = {name: description[name] for name in _SHARED_FIELDS if name in description}
    config = checked_config(MCLConfig, shared if kind == DETECTOR_TYPE else description, folder)
    try:
        tensors = read_checkpoint(str(folder), config)
    except (ValueError, KeyError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if not any(name.startswith("backbone.") for name in tensors):
        raise InputError(f"{source} holds no backbone: {len(tensors)} tensors such as {next(iter(tensors), 'none')!r}")
    if network == "target":
        tensors = {name.removeprefix("target."): t for name, t in tensors.items() if name.startswith("target.")}
        if not tensors:
            raise InputError(
                f"{source} holds no target network: give the pretraining/ folder of a run, or one of its checkpoints"
            )
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OTHER_PARTS)}
    checkpoint = Checkpoint(source, folder, config, network, tensors, description)
    if kind == DETECTOR_TYPE:
        whole = checked_config(CONFIG_MAPPING[kind], description, folder)
        checkpoint.description = json.loads(whole.to_json_string(use_diff=False))
        checkpoint.detector, checkpoint.tensors = whole.detector, rename_from_detector(tensors)
    else:
        checkpoint.stale_levels = stale_levels(tensors)
    return checkpoint


def find_folder(source: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a checkpoint, fetched where it is a repository, and its config.json; a run that has not finished
    gives its last checkpoint. InputError: neither a folder nor a repository, or no config.json that can be read."""
    try:
        folder = local_checkpoint(source, MODEL_FILES)
    except ValueError as error:
        raise InputError(str(error)) from error
    if folder.is_file():
        raise InputError(f"{source} is a file: give the folder of a checkpoint (foreign files go to mcl-hf import)")
    if not (folder / "config.json").is_file():
        folder = last_checkpoint(folder) or folder
    try:
        return folder, read_json_object(folder / "config.json")
    except OSError as error:
        raise InputError(f"{source} is not a checkpoint: it has no config.json that can be read") from error
    except ValueError as error:
        raise InputError(str(error)) from error


def checked_config(kind: type[PreTrainedConfig], description: dict[str, Any], folder: Path) -> Any:
    """The config.json of a folder as a configuration of a kind, with defaults for what it leaves out. InputError: an
    entry of another type, or that contradicts the others."""
    try:
        config: Any = kind.from_dict(dict(description))
        if not isinstance(config.architectures or [], list):
            raise TypeError(f"architectures is no list: {config.architectures!r}")
        describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)  # is there such a backbone?
        return config
    except Exception as error:  # transformers and timm's builders raise whatever an odd value leads them to
        reason = " ".join((str(error) or type(error).__name__).split())
        raise InputError(f"{folder / 'config.json'} cannot be used: {reason}") from error


def save_network(config: MCLConfig, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write an `MCLModel`, of which these are all tensors or some, with its configuration and image processor."""
    config.architectures = ["MCLModel"]
    config.save_pretrained(folder)
    MCLImageProcessor.from_config(config).save_pretrained(folder)
    own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # some may be views of others
    save_file(own, folder / "model.safetensors", {"format": "pt"})


def stale_levels(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Pyramid levels whose batch norm has seen fewer batches than P5's, which every step runs: in lean scope the target
    network reads no others, the online network only those of its montages."""
    counts: dict[str, int] = {}
    for index, level in enumerate(("P2", "P3", "P4", "P5")):
        lateral, output = (tensors.get(f"fpn.{kind}.{index}.bn.num_batches_tracked") for kind in ("lateral", "output"))
        if output is not None:
            counts[level] = int(output if lateral is None else min(lateral, output))
    return [level for level, count in counts.items() if count < counts.get("P5", 0)]
