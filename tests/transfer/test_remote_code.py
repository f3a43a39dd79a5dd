"""In fresh processes without mcl_hf: a folder with its code, and the timm export by its name on the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcl_hf import MCLDetectorConfig, MCLForObjectDetection, MCLForPreTraining
from mcl_hf.cli import main
from mcl_hf.errors import InputError
from mcl_hf.transfer import export_checkpoint, write_with_code
from mcl_hf.transfer.remote_code import code_files

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mcl_hf":
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import torch
from safetensors.torch import load_file, save_file
pixels = load_file("pixels.safetensors")["pixels"]
"""
WITH_CODE = """
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining
from transformers.dynamic_module_utils import get_class_from_dynamic_module
try:
    AutoModel.from_pretrained("code", trust_remote_code=False)
    raise SystemExit("opened without being trusted")
except (ValueError, OSError, KeyError):
    pass
model = AutoModel.from_pretrained("code", trust_remote_code=True).eval()
whole = AutoModelForPreTraining.from_pretrained("code", trust_remote_code=True).eval()
backbone = get_class_from_dynamic_module("modeling_mcl.MCLBackbone", "code").from_pretrained("code").eval()
processor = AutoImageProcessor.from_pretrained("code", trust_remote_code=True)
with torch.no_grad():
    found = {
        "p2": model(pixels).feature_maps[0],
        "c5": backbone(pixels).feature_maps[-1],
        "target": whole.target(pixels).feature_maps[3],
        "predictor": whole.predictors[1].mlp[3].weight.clone(),
        "processed": processor(torch.zeros(3, 64, 64, dtype=torch.uint8), return_tensors="pt").pixel_values,
    }
save_file({name: tensor.contiguous() for name, tensor in found.items()}, "found.safetensors")
"""
HUB = """
import timm
network = timm.create_model("hf-hub:user/name-timm", pretrained=True).eval()
with torch.no_grad():
    save_file({"c5": network.forward_features(pixels).contiguous()}, "found.safetensors")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    save_file({"pixels": torch.randn(1, 3, 64, 96, generator=generator)}, tmp_path / "pixels.safetensors")
    return tmp_path


def run_alone(script: str, folder: Path) -> dict[str, torch.Tensor]:
    """Run a script in a process of its own where mcl_hf cannot be imported and the Hub not be reached."""
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "found.safetensors")


@torch.no_grad()
def test_a_folder_with_its_code_opens_without_the_package(
    run: Path, pretraining: MCLForPreTraining, folder: Path, capsys
) -> None:
    assert main(["export", str(run / "pretraining"), "--to", "transformers", "--with-code", str(folder / "code")]) == 0
    found = run_alone(WITH_CODE, folder)
    pixels = load_file(folder / "pixels.safetensors")["pixels"]
    expected = pretraining.mcl(pixels)
    assert torch.equal(found["p2"], expected.feature_maps[0])
    assert torch.equal(found["c5"], expected.backbone_feature_maps[3])
    assert torch.equal(found["target"], pretraining.target(pixels).feature_maps[3])
    assert torch.equal(found["predictor"], pretraining.predictors[1].mlp[3].weight)
    assert found["processed"].shape == (1, 3, 64, 64)


@torch.no_grad()
def test_the_timm_export_opens_by_its_name_on_the_hub(run: Path, pretraining: MCLForPreTraining, folder: Path) -> None:
    export_checkpoint(run, folder / "timm", "timm")
    commit = "0" * 40
    repository = folder / "cache" / "hub" / "models--user--name-timm"
    shutil.copytree(folder / "timm", repository / "snapshots" / commit)  # what a download leaves in the client's cache
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    found = run_alone(HUB, folder)
    pixels = load_file(folder / "pixels.safetensors")["pixels"]
    assert torch.equal(found["c5"], pretraining.mcl(pixels).backbone_feature_maps[3])


def test_files_of_code_and_their_map(run: Path, tmp_path: Path) -> None:
    (run / "training_state.json").write_text("{}")
    names = write_with_code(run, tmp_path / "out")
    (run / "training_state.json").unlink()
    assert names == code_files() and {"modeling_mcl.py", "montage.py", "fpn.py"} <= set(names)
    assert not {"starting_weights.py", "modeling_mcl_supervised.py"} & set(names)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_mcl.MCLModel"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*names, "config.json", "model.safetensors", "preprocessor_config.json"}
    with pytest.raises(InputError, match="not empty"):
        write_with_code(run, tmp_path / "out")


def test_a_detector_is_refused(tmp_path: Path, capsys) -> None:
    config = MCLDetectorConfig(
        detector="retinanet", backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, fpn_channels=8,
        num_labels=2,
    )  # fmt: skip
    MCLForObjectDetection(config).save_pretrained(tmp_path / "detector")
    arguments = ["export", str(tmp_path / "detector"), "--to", "transformers", "--with-code", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "--with-code is for pre-training models" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
