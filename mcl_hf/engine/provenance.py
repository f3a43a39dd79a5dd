"""What a run was made on and from, for those who read of its model later: machine, releases, start, recipe.

Where it sits: a task's file puts these into its `TrainingState`; model cards are written from it. Nothing here names a
person, a host or a path: a folder is recorded by its name.
"""

import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torchvision.models import get_model_weights

from ..data.sources.licences import card_licence
from ..data.sources.remote_files import plain_address
from ..errors import InputError
from ..models.weight_files import read_json_object
from ..remote.checkpoints import CARD, hub_source, last_checkpoint, with_last
from ..transfer.starting_weights import plain_source
from ..transfer.torchvision_detectors import TORCHVISION
from ..version import __version__
from .state import RECORD, TrainingState, read_training_state

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "datasets")
_CONFIG = "config.json"


def machine(device: torch.device) -> dict[str, Any]:
    """The device of the main process (`device`, its product name, and `kind`: `cpu`, `cuda`, ...), `cpu` and the
    `cores` that the process may use, `system`, the releases of `python` and of the `packages` that compute, and
    `from_step`, the step that a run went on from there."""
    kind = device.type
    cpu = _cpu_name()
    return {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else cpu if kind == "cpu" else kind,
        "kind": kind,
        "cpu": cpu,
        "cores": num_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {"mcl_hf": __version__} | {name: metadata.version(name) for name in _PACKAGES},
        "from_step": 0,
    }


def recorded_options(options: Any) -> dict[str, Any]:
    """The fields of a run's options as checkpoints and trackers get them: whole, but for keys in addresses."""
    found: dict[str, Any] = without_keys(asdict(options))
    return found


def without_keys(value: Any) -> Any:
    """Texts of any nesting, their addresses without what may open them: `user:password@`, and all after `?`."""
    if isinstance(value, dict):
        return {name: without_keys(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_keys(item) for item in value]
    if not isinstance(value, str) or "://" not in value or value.startswith("hf://"):  # its `?` is a wildcard
        return value
    return plain_address(value)


def join_machines(before: list[dict[str, Any]], now: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Machines of a run that goes on after `step`: those of the attempts before, and of this one, if any; an equal one
    is named once."""
    if not now or (before and {**before[-1], "from_step": 0} == {**now[0], "from_step": 0}):
        return before
    return [*before, {**now[0], "from_step": step}]


def start_record(init: str | None) -> dict[str, Any]:
    """What a run's weights started from; nothing is asked over the network.

    Args:
        init: as the options have it: None or `random`, `timm:NAME`, `torchvision:NAME`, a path, or a repository
            `user/name[/pretraining][@revision]`.

    Returns:
        `kind` is `random`, `timm`, `torchvision`, `folder` or `hub`; all but the first have a `name`, weights of the
        Hub their `repository`, a folder of ours, as `run`, what its own run recorded, and weights their `licence`,
        where one is known; None where torchvision states none.
    """
    if init is None or init == "random":
        return {"kind": "random"}
    init = plain_source(init)
    if init.startswith("timm:"):
        name = init.removeprefix("timm:")
        described = _of_timm(name)
        repository = str(described.get("hf_hub_id") or "").partition("@")[0]
        found = {"kind": "timm", "name": name} | ({"repository": repository} if repository else {})
        return found | _licence(described)
    if init.startswith(TORCHVISION):
        name = init.removeprefix(TORCHVISION)
        return {"kind": "torchvision", "name": name, "licence": None} | _licence(get_model_weights(name).DEFAULT.meta)
    path = with_last(Path(init))
    if path.exists():
        found = {"kind": "folder", "name": path.resolve().name}
        state = _state_of(path)
        if state is not None:
            licence = state.start.get("licence")
            return found | {"run": _run_record(state)} | ({"licence": licence} if licence else {})
        return found | _licence_in(path if path.is_dir() else path.parent)
    source = hub_source(init)
    if source is None:
        return {"kind": "hub", "name": init, "repository": init}
    found = {"kind": "hub", "name": init, "repository": source.repository}
    cached = [try_to_load_from_cache(source.repository, file, revision=source.revision) for file in (CARD, _CONFIG)]
    return found | next((_licence_in(Path(file).parent) for file in cached if isinstance(file, str)), {})


def recipe_record(recipe: dict[str, Any] | None, without_influence: Collection[str]) -> dict[str, Any]:
    """The recipe of a run, from `load_options`, and the options that differ from it, less those that change nothing of
    its result."""
    if recipe is None:
        return {}
    return {**recipe, "changed": [name for name in recipe["changed"] if name not in without_influence]}


def _of_timm(name: str) -> dict[str, Any]:
    """timm's configuration of weights: of the tag that a plain name stands for, or as it lies in the Hub's cache."""
    import timm

    if name.startswith("hf-hub:"):
        repository, _, revision = name.removeprefix("hf-hub:").partition("@")
        cached = try_to_load_from_cache(repository, _CONFIG, revision=revision or None)
        return {**(_described(Path(cached)) if isinstance(cached, str) else {}), "hf_hub_id": repository}
    try:
        found = timm.models.get_pretrained_cfg(name)
    except (RuntimeError, ValueError):  # a name that this release does not know, or knows under another one
        return {}
    return {} if found is None else dict(found.to_dict())


def _described(file: Path) -> dict[str, Any]:
    """The weights' configuration in timm's config.json; empty where the file has none."""
    try:
        content = read_json_object(file)
    except (OSError, ValueError):  # which is for whoever loads the weights to say
        return {}
    found = content.get("pretrained_cfg")
    return found if isinstance(found, dict) else content  # older files have it flat


def _licence(described: Mapping[str, Any]) -> dict[str, str]:
    """`licence`, where one is named."""
    name = described.get("license")
    return {"licence": str(name)} if name and name not in ("unknown", "other") else {}


def _licence_in(folder: Path) -> dict[str, str]:
    """`licence` as the card in a folder has it, or the record of the run, or the weights' configuration."""
    state = _state_of(folder)
    return (
        _licence({"license": card_licence(folder / CARD)})
        or _licence({"license": None if state is None else state.start.get("licence")})
        or _licence(_described(folder / _CONFIG))
    )


def _state_of(path: Path) -> TrainingState | None:
    """The record of a run whose folder, model or checkpoint lies at `path`."""
    for folder in (path, last_checkpoint(path)):
        if folder is not None and (folder / RECORD).is_file():
            try:
                return read_training_state(folder)
            except InputError:  # damaged, which is for whoever loads the weights to say
                return None
    return None


def _run_record(state: TrainingState) -> dict[str, Any]:
    sources = state.data.get("sources")
    return {
        "task": state.task,
        "objective": state.arguments.get("objective"),
        "recipe": state.recipe.get("name"),
        "steps": state.step,
        "images_seen": state.images_seen,
        "data": [source["name"] for source in sources or () if isinstance(source, dict) and "name" in source],
        "start": {key: value for key, value in state.start.items() if key != "run"},
    }


def _cpu_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """The product; of virtual machines that tell its line alone ("AMD EPYC"), with the numbers of its generation, since
    each generation rounds otherwise."""
    try:
        pairs = [line.partition(":")[::2] for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        pairs = []
    told = {key.strip(): value.strip() for key, value in reversed(pairs) if value.strip()}
    name = told.get("model name") or platform.processor() or platform.machine()
    if "model name" in told and "cpu family" in told and not any(letter.isdigit() for letter in name):
        return f"{name} (family {told['cpu family']}, model {told.get('model', 'unknown')})"
    return name


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
