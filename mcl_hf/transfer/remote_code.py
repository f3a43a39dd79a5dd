"""A model folder that carries its own code, so that it opens with `trust_remote_code=True` where mcl_hf is absent: the
files of `mcl_hf/models` that the model classes reach by `from .name import ...`, as they are.

Source: transformers `dynamic_module_utils.py` (which files it fetches, how it reads `auto_map`).
"""

import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from ..errors import InputError
from ..models.configuration_mcl import MCLConfig
from ..new_folder import check_new
from .checkpoint import find_folder

MODEL_MAP = {
    "AutoConfig": "configuration_mcl.MCLConfig",
    "AutoModel": "modeling_mcl.MCLModel",
    "AutoBackbone": "modeling_mcl.MCLBackbone",
    "AutoModelForPreTraining": "modeling_mcl_pretraining.MCLForPreTraining",
}
"""Auto class -> file and class in the folder."""

CARRIED = frozenset(target.rpartition(".")[2] for target in MODEL_MAP.values())
"""Classes whose code travels."""

PROCESSOR_MAP = {"AutoImageProcessor": "image_processing_mcl.MCLImageProcessor"}
_TRAINING_FILES = ("training_state", "manifest.json")
_CODE = Path(__file__).parents[1] / "models"


def write_with_code(model_folder: str | Path, out: str | Path) -> list[str]:
    """Copy the folder of a pre-training model, less its training state, into a new one, and put the code beside it.

    Returns:
        Names of the files of code.

    Raises:
        InputError: A detector, whose code does not fit into one flat folder; no checkpoint; or `out` is not empty.
    """
    folder, description = find_folder(str(model_folder))
    refuse_detector(description.get("model_type"))
    out = Path(out)
    check_new(out)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(_TRAINING_FILES) and path.name != "log.jsonl":
            shutil.copyfile(path, out / path.name)
    return add_code(out)


def add_code(folder: Path) -> list[str]:
    """Put the code beside a model, and name it; the names of its files."""
    names = code_files()
    for name in names:
        shutil.copyfile(_CODE / name, folder / name)
    _name_classes(folder)
    return names


def name_code(folder: Path) -> None:
    """Let the model in a folder below name the code of the folder above, where that has the model's own class."""
    names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if CARRIED.intersection(names):
        _name_classes(folder)


def refuse_detector(model_type: object) -> None:
    """InputError where a checkpoint is no model of pre-training."""
    if model_type != MCLConfig.model_type:
        raise InputError(
            f"--with-code is for pre-training models: the code of a {model_type} spans several packages, which a "
            "folder of transformers' remote code cannot hold; whoever opens it needs mcl_hf installed"
        )


def code_files() -> list[str]:
    """Files of `mcl_hf/models` that the classes of the maps need, by name."""
    entries = {target.split(".")[0] for target in (*MODEL_MAP.values(), *PROCESSOR_MAP.values())}
    files = {f"{name}.py" for name in entries}
    for name in entries:
        files |= {Path(path).name for path in get_relative_import_files(_CODE / f"{name}.py")}
    return sorted(files)


def _name_classes(folder: Path) -> None:
    for name, auto_map in (("config.json", MODEL_MAP), ("preprocessor_config.json", PROCESSOR_MAP)):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8")) | {"auto_map": auto_map}
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
