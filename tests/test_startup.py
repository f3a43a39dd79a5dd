"""The start-up check, with stand-ins for torch and torchvision in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcl_hf.cli import COMMANDS
from mcl_hf.cli.show import PICTURES

STARTUP = Path(__file__).parents[1] / "mcl_hf" / "startup.py"
NO_NMS = "operator torchvision::nms does not exist"
GOOD_TORCH = "def empty(*size, device): return size\n"
GOOD_TORCHVISION = "class ops:\n    nms = staticmethod(lambda boxes, scores, threshold: boxes)\n"


def check(tmp_path: Path, torch: str | None, torchvision: str | None) -> subprocess.CompletedProcess:
    """Run the check where `torch` and `torchvision` are the given sources; None hides the module."""
    for name, source in (("torch", torch), ("torchvision", torchvision)):
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
    code = f"import runpy; runpy.run_path({str(STARTUP)!r})['check_torch_and_torchvision'](); print('fine')"
    # -S leaves the installed packages out, -I would leave the stand-ins out too.
    return subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)


def test_matching_pair_passes(tmp_path):
    done = check(tmp_path, GOOD_TORCH, GOOD_TORCHVISION)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize(
    ("torch", "torchvision", "said"),
    [
        (GOOD_TORCH, f"raise RuntimeError({NO_NMS!r})", f"do not fit each other ({NO_NMS})"),
        (GOOD_TORCH, "class ops: pass", "do not fit each other"),
        (GOOD_TORCH, "raise OSError('libtorch.so: cannot open')", "do not fit each other (libtorch.so"),
        (GOOD_TORCH, None, "torchvision is not installed: pip install"),
        (None, GOOD_TORCHVISION, "torch is not installed: pip install"),
    ],
)
def test_mismatch_ends_in_one_line_that_names_the_cure(tmp_path, torch, torchvision, said):
    done = check(tmp_path, torch, torchvision)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError:") and said in last and "pip install" in last
    assert "During handling" not in done.stderr and "direct cause" not in done.stderr


def test_inside_the_command_there_is_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text(GOOD_TORCH)
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError({NO_NMS!r})")
    package = tmp_path / "mcl_hf"
    (package / "cli").mkdir(parents=True)
    (package / "startup.py").write_text(STARTUP.read_text())
    (package / "__init__.py").write_text(
        "from mcl_hf.startup import check_torch_and_torchvision\ncheck_torch_and_torchvision()\n"
    )
    (package / "cli" / "__init__.py").write_text("")
    (package / "cli" / "__main__.py").write_text("print('ran')\n")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "mcl_hf.cli"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("mcl-hf: error: torch") and done.stderr.count("\n") == 1


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    package = tmp_path / "mcl_hf"
    package.mkdir()
    (package / "startup.py").write_text(STARTUP.read_text())
    (package / "__init__.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore Ctrl-C
        "from .startup import check_torch_and_torchvision, leave_quietly_on_interrupt\n"
        "leave_quietly_on_interrupt()\ncheck_torch_and_torchvision()\n"
    )
    (package / "cli.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "mcl_hf.cli"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "mcl-hf: interrupted\n")


def test_what_needs_no_model_imports_none(tmp_path):
    """Help, mistyped options and wrong input of every command; one process for all, as what is imported stays."""
    names = [*(name for name in COMMANDS if name != "show"), *(f"show {picture}" for picture in PICTURES)]
    lines = [
        "--help", "--version", "pretrainn", "show", "show nothing", "pretrain --recipe nothing", "import",
        "finetune --recipe nothing", "export --to nothing", "pretrain --recipe demo", "pretrain --epochs ten",
        "compare --seeds 0", "evaluate --data nowhere",
        "evaluate --data bccd-mini --pictures -1 detector", "evaluate --data nowhere.json detector",
        "doctor --epochs 3", "doctor --plan nothing", "doctor --plan demo --epochs ten", "push run user/name@v1",
        "card", "card --recipe demo auto --out one.md", "card run --recipe demo", "probe run --out picture.png",
        "show run nowhere", "show data --pictures 0", "show montages --out montages.txt",
        "show similarity run --image nowhere.png", "compare --data bccd-mini",
        *(f"{name} {end}" for name in names for end in ("--help", "--nothin")),
    ]  # fmt: skip
    code = f"""
import contextlib, io, sys
from mcl_hf.cli import main
for line in {lines!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(line.split())
        except SystemExit as left:
            code = left.code
    assert code == (0 if line.endswith(("--help", "--version")) else 2), (line, code)
    assert "Traceback" not in said.getvalue(), line
    found = [name for name in ("torch", "transformers", "datasets", "matplotlib", "gradio") if name in sys.modules]
    assert not found, f"{{line}} imports {{found}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_library():
    code = """
import sys
import mcl_hf
assert not {"torch", "transformers", "torchvision", "datasets", "accelerate", "matplotlib"} & set(sys.modules)
assert mcl_hf.MCLModel.__name__ in dir(mcl_hf.models.modeling_mcl) and "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("first", ["import mcl_hf", "from transformers import AutoModel, pipeline"])
@pytest.mark.parametrize("auto", ["AutoConfig", "AutoModel", "AutoBackbone", "AutoImageProcessor"])
@pytest.mark.slow
def test_auto_classes_know_ours_in_either_order(first, auto):
    code = f"""
import sys
{first}
import mcl_hf
from transformers import {auto}
{{
    "AutoConfig": lambda: AutoConfig.for_model("mcl_dense"),
    "AutoModel": lambda: AutoModel.from_config(mcl_hf.MCLConfig(backbone="resnet10t")),
    "AutoBackbone": lambda: AutoBackbone.from_config(mcl_hf.MCLConfig(backbone="resnet10t")),
    "AutoImageProcessor": lambda: sys.modules[AutoImageProcessor.__module__].IMAGE_PROCESSOR_MAPPING[mcl_hf.MCLConfig],
}}["{auto}"]()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_first_name_on_the_meta_device_opens():
    """As whoever asks for a model's size alone makes one; the check of torchvision is on the CPU."""
    code = (
        "import torch, mcl_hf\n"
        "with torch.device('meta'):\n"
        "    model = mcl_hf.MCLModel(mcl_hf.MCLConfig(backbone='resnet10t'))\n"
        "assert {parameter.device.type for parameter in model.parameters()} == {'meta'}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=STARTUP.parents[1], check=True, timeout=100)
