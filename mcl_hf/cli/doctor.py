"""`mcl-hf doctor`: does this installation work, and, with `--plan`, what will a run need?

Without `--plan` it looks at versions, devices, memory, shared memory, disk, compilers and the Hub's settings (not the
network), and rehearses the smallest run there is: three steps, a checkpoint, and its reopening.
"""

import importlib.util
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]  # comes with accelerate
from packaging.requirements import Requirement
from packaging.version import Version

from ..errors import InputError
from ..finetuning.arguments import RECIPES, FinetuneArguments, load_finetune_arguments
from ..pretraining.arguments import PretrainArguments, load_arguments
from ..recipes import load_recipe, recipe_names
from ..version import __version__
from .command import command, import_torch, say
from .options import given_flags, recipe_parser
from .pack import num_cores

# The newest releases that the tests have passed with.
TESTED = {
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "timm": "1.0.31",
    "transformers": "5.24.0",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "safetensors": "0.8.0",
    "huggingface-hub": "2.4.0",
    "pillow": "13.0.0",
    "numpy": "2.4.6",
}
OPTIONAL = {
    "matplotlib": "viz",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "scipy": "transformers-detectors",
    "tifffile": "multispectral",
    "onnxscript": "onnx",
    "faster_coco_eval": "fast-coco",
}
RUNS: dict[str, Any] = {
    "pretrain": (PretrainArguments, load_arguments), RECIPES: (FinetuneArguments, load_finetune_arguments)
}  # fmt: skip
"""Task whose recipes are meant -> its options, and what reads them."""
SMALL_SHARED_MEMORY = 1.0
"""GiB of /dev/shm under which data workers may die of a bus error."""
EXAMPLES = """
examples:
  mcl-hf doctor
  mcl-hf doctor --plan mcl-r18-small --data my_images/ --epochs 100
  mcl-hf doctor --plan mcl-r50-in1k-100ep --data packed/ --processes 8
  mcl-hf doctor --plan auto --init my-run --data my-annotated-images
"""


class Finding(NamedTuple):
    """One line of the report: "ok", "note", "warning" or "FAILED"; what was found and, if need be, what to do."""

    grade: str
    text: str


@command
def main(argv: list[str]) -> int:
    """Run the command."""
    task = RECIPES if any(_is_finetuning(word.removeprefix("--plan=")) for word in argv) else "pretrain"
    kind, load = RUNS[task]
    description = "Check the installation; with --plan, measure a few steps of a run and say what all of it will need."
    parser = recipe_parser("mcl-hf doctor", description, EXAMPLES, task, kind)
    parser.add_argument("--plan", metavar="RECIPE", help="plan a run: name of a recipe or a YAML file, options on top")
    parser.add_argument("--processes", metavar="N", type=int, default=1, help="of the planned run (default: 1)")
    namespace = parser.parse_args(argv)
    if namespace.plan is None:
        if argv:
            raise InputError("mcl-hf doctor takes options with --plan RECIPE only: name the run they belong to")
        return report(CHECKS)
    if namespace.recipe is not None:
        raise InputError("--plan names the recipe already: leave --recipe out")
    if namespace.processes < 1:
        raise InputError(f"--processes must be at least 1, got {namespace.processes}")
    arguments = load(namespace.plan, **given_flags(namespace, kind))

    import_torch()
    from .doctor_plan import print_plan

    print_plan(arguments, namespace.processes)
    return 0


def _is_finetuning(recipe: str) -> bool:
    """Whether it names a recipe of fine-tuning, or a YAML file with options that only fine-tuning has."""
    if recipe in recipe_names(RECIPES):
        return True
    if not recipe.endswith((".yaml", ".yml")) or not Path(recipe).is_file():
        return False
    only = FinetuneArguments.__pydantic_fields__.keys() - PretrainArguments.__pydantic_fields__.keys()
    return bool(only & load_recipe(recipe).keys())


def report(checks: Sequence[Callable[[], Iterator[Finding]]]) -> int:
    """Print what the checks find, as they find it; 2 if anything failed, else 0."""
    counts: Counter[str] = Counter()
    for check in checks:
        for finding in check():
            counts[finding.grade] += 1
            say(f"{finding.grade:<8} {finding.text}")
    ready = "mend these first" if counts["FAILED"] else "ready"
    say(f"\n{counts['FAILED']} failed, {counts['warning']} warnings: {ready}")
    return 2 if counts["FAILED"] else 0


def versions() -> Iterator[Finding]:
    """Python, and each package that mcl_hf needs, against what it asks for and what was tested."""
    yield Finding("ok", f"mcl_hf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    try:
        needed = [Requirement(text) for text in metadata.requires("mcl-hf") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("note", "mcl-hf runs from a folder and is not installed: pip install -e . gives the command")
        needed = [Requirement(name) for name in TESTED]
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        tested = TESTED.get(requirement.name)
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("FAILED", f"{requirement.name} is not installed: pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(Version(found).base_version, prereleases=True):
            yield Finding("FAILED", f"{requirement.name} {found} is too old: pip install '{requirement}'")
        elif tested is not None and Version(Version(found).base_version) > Version(tested):
            yield Finding("note", f"{requirement.name} {found} is newer than the newest tested, {tested}")
        else:
            yield Finding("ok", f"{requirement.name} {found}")
    for name, extra in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding("note", f"{name} is not installed, which is fine; pip install 'mcl-hf[{extra}]' adds it")


def machine() -> Iterator[Finding]:
    """Devices, cores, memory, shared memory, disk."""
    import_torch()
    import torch

    from ..engine.arithmetic import chosen_precision, computes_bf16

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            device = torch.device("cuda", index)
            bf16 = "bf16" if computes_bf16(device) else f"no bf16: --precision {chosen_precision('auto', device)}"
            yield Finding("ok", f"GPU {index}: {card.name}, {card.total_memory / 2**30:.0f} GiB, {bf16}")
        if torch.cuda.device_count() > 1 and not torch.distributed.is_nccl_available():
            yield Finding("FAILED", "several GPUs and a torch without NCCL: they cannot train together")
    elif torch.accelerator.is_available():
        yield Finding("warning", f"{torch.accelerator.current_accelerator()}: never tried with this library")
    else:
        bf16 = "with kernels for bf16" if computes_bf16(torch.device("cpu")) else "without bf16: --precision fp32"
        yield Finding("note", f"no GPU: training runs on the CPU, {bf16}")
    memory, cores = psutil.virtual_memory(), num_cores()
    yield Finding("ok", f"{cores} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free")
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm").total / 2**30
        if size >= SMALL_SHARED_MEMORY:
            yield Finding("ok", f"/dev/shm has {size:.1f} GiB")
        else:
            risk = "data workers hand their batches over in it and may die of a bus error"
            cure = "in Docker use --shm-size=8g, or train with --num-workers 0"
            yield Finding("warning", f"/dev/shm has {size:.2f} GiB: {risk}; {cure}")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("ok" if free > 5 else "warning", f"{free:.1f} GiB of disk are free in this folder")


def surroundings() -> Iterator[Finding]:
    """Compiler, the Hub's settings. The network is not asked, and no token is shown."""
    from huggingface_hub import constants, get_token

    from ..retry import without_secrets

    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        yield Finding("note", "no C++ compiler: --compile will not work on the CPU")
    cache = Path(constants.HF_HUB_CACHE)
    parent = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        yield Finding("warning", f"the Hub's cache {cache} cannot be written: set HF_HOME to a folder that can")
    offline = ", offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    token = "a token is set" if get_token() else "no token, which public data and models do not need"
    yield Finding("ok", f"Hub: {without_secrets(constants.ENDPOINT)}{offline}, {token}")


def rehearsal() -> Iterator[Finding]:
    """The smallest run: the embedded photos, a few steps, a checkpoint."""
    from ..pretraining.rehearsal import rehearse

    arguments = PretrainArguments(
        data=["photos"], backbone="resnet10t", backbone_kwargs={"channels": [8, 16, 16, 32], "stem_width": 8},
        fpn_channels=16, region_convs=1, region_size=2, hidden_dim=32, embedding_dim=16, num_workers=1,
    )  # fmt: skip
    say("         rehearsing a small run ...", sys.stderr)
    try:
        measured = rehearse(arguments, batch_size=8)
    except InputError as error:
        yield Finding("FAILED", f"the smallest run there is: {error}")
        return
    yield Finding("ok", f"pre-trained a few steps ({measured.seconds:.2f} s each), saved the model and opened it again")


CHECKS = (versions, machine, surroundings, rehearsal)
