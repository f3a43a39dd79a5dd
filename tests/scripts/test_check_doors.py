import subprocess
import sys
from pathlib import Path

import torch

from mcl_hf import MCLConfig, MCLImageProcessor, MCLModel
from tests.transfer.norms import randomise_norms

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_doors.py"


@torch.no_grad()
def test_the_table_of_doors(tmp_path):
    model = MCLModel(MCLConfig(backbone="resnet18", fpn_channels=16, hidden_dim=16, embedding_dim=8)).eval()
    randomise_norms(model)
    model.save_pretrained(tmp_path)
    MCLImageProcessor.from_config(model.config).save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=300)
    old_exporter = torch.__version__.startswith("2.6.")  # which fails on batch norm, and is told so
    assert done.returncode == int(old_exporter), done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    exact = {row[0]: row[1] for row in rows if row[3] == "0, bit for bit"}
    assert {"timm", "transformers TimmWrapper", "torchvision retinanet", "torchvision ResNet"} <= exact.keys()
    assert exact["torchvision mask_rcnn"] == "192 of 232"
    for framework in ("detectron2", "mmdet", *(() if old_exporter else ("onnx",))):
        found = [row for row in rows if row[0].startswith(framework)]
        assert found and all(row[3].startswith("not run: ") or float(row[3].split(",")[0]) < 1e-4 for row in found)
