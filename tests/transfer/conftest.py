"""A ResNet-18 run as small as one gets that every framework still knows, with batch norm statistics that matter."""

from pathlib import Path

import pytest
import torch

from mcl_hf import MCLConfig, MCLForPreTraining, MCLImageProcessor
from tests.transfer.norms import randomise_norms

TRAINED_IN_TARGET = ("backbone.", "region_head.", "fpn.lateral.3.", "fpn.output.3.")  # lean scope reads P5 only


@pytest.fixture(scope="session")
def pretraining() -> MCLForPreTraining:
    torch.manual_seed(0)
    config = MCLConfig(backbone="resnet18", fpn_channels=8, hidden_dim=16, embedding_dim=8, region_size=2)
    model = MCLForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.add_(0.01)
    randomise_norms(model.mcl)
    randomise_norms(model.target, TRAINED_IN_TARGET)
    return model


@pytest.fixture(scope="session")
def run(pretraining: MCLForPreTraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: the slim model at its root, the whole one in `pretraining/`."""
    folder = tmp_path_factory.mktemp("run")
    pretraining.mcl.save_pretrained(folder)
    MCLImageProcessor.from_config(pretraining.config).save_pretrained(folder)
    pretraining.save_pretrained(folder / "pretraining")
    MCLImageProcessor.from_config(pretraining.config).save_pretrained(folder / "pretraining")
    return folder
