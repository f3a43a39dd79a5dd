"""What can be probed, by its name: a checkpoint of any kind, a timm network, random weights, all as an `MCLModel`."""

from pathlib import Path

import torch

from ..errors import InputError
from ..models import MCLConfig, MCLModel
from ..remote.checkpoints import MODEL_FILES, last_checkpoint, local_checkpoint
from ..transfer.starting_weights import load_starting_weights, starting_description, starting_statistics

RANDOM, TIMM = "random", "timm:"
_OF_THE_PICTURES = ("num_channels", "fpn_channels", "region_size", "region_convs", "hidden_dim", "embedding_dim",
                    "montage_ratios", "montage_fractions", "level_weights", "image_mean", "image_std")  # fmt: skip


def open_networks(names: list[str], seed: int = 0) -> list[tuple[MCLModel, str]]:
    """Networks by name, with a line about each; all of one input size, so that they can stand side by side.

    Args:
        names: `random`, `timm:NAME`, folders (of a run, a checkpoint, a finished model) or Hub repositories. `random`
            and `timm:NAME` take FPN, region head and input size from the first checkpoint among them, or `MCLConfig`'s
            defaults.
        seed: of what starts random.

    Raises:
        InputError: one cannot be opened, or they read pictures of different sizes or channels.
    """
    opened = {name: open_checkpoint(name) for name in names if name != RANDOM and not name.startswith(TIMM)}
    like = next(iter(opened.values())).config if opened else None
    networks = []
    for name in names:
        if name in opened:
            network = opened[name]
            millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
            networks.append((network, f"{name}: {network.config.backbone}, {millions:.1f} M parameters"))
        elif name == RANDOM:
            # Beside `timm:NAME` alone, random weights are those of the same network.
            of_timm = (_with_backbone(None, other) for other in names if other.startswith(TIMM))
            network = _new(like or next(of_timm, None) or MCLConfig(), seed)
            networks.append((network, "random: nothing is trained, batch norm apart"))
        else:
            network = _new(_with_backbone(like, name), seed)
            try:
                report = load_starting_weights(network, name)
            except ValueError as error:
                raise InputError(f"{name}: {' '.join(str(error).split())}") from error
            networks.append((network, f"{report}: of these features only c5 is trained, batch norm apart"))
    first = networks[0][0].config
    for (network, _), name in zip(networks, names, strict=True):
        for field in ("region_size", "num_channels", "level_maps"):
            if getattr(network.config, field) != getattr(first, field):
                raise InputError(
                    f"{name} has {field} {getattr(network.config, field)} and {names[0]} {getattr(first, field)}: "
                    "probe them one by one, as they read different pictures"
                )
    return networks


def open_checkpoint(name: str) -> MCLModel:
    """A folder or Hub repository in float32, of an unfinished run its last checkpoint; else an `InputError`."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").exists():
        name = str(last_checkpoint(folder) or folder)
    try:
        local = local_checkpoint(name, MODEL_FILES)
        return MCLModel.from_pretrained(local, dtype=torch.float32).eval()
    except Exception as error:  # transformers raises whatever an odd description or file leads it to
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be opened as an MCL model: {reason}") from error


def _new(config: MCLConfig, seed: int) -> MCLModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MCLModel(config).eval()


def _with_backbone(like: MCLConfig | None, start: str) -> MCLConfig:
    """The configuration with the backbone and the pixel statistics of timm weights."""
    try:
        description = starting_description(start)
        architecture = str(description.get("architecture"))
        statistics = starting_statistics(description, 3 if like is None else like.num_channels)
        own = {} if statistics is None else {"image_mean": statistics[0], "image_std": statistics[1]}
        if like is None:
            return MCLConfig(backbone=architecture, **own)
        fields = {field: getattr(like, field) for field in _OF_THE_PICTURES}
        if like.backbone == architecture:
            fields["backbone_kwargs"] = like.backbone_kwargs
        return MCLConfig(backbone=architecture, **{**fields, **own})
    except ValueError as error:
        raise InputError(f"{start}: {' '.join(str(error).split())}") from error
