"""Start DETR from a pre-trained backbone, and take one training step.

    mcl-hf pretrain --recipe demo --output-dir demo-run
    python examples/backbone_in_detr.py demo-run

transformers builds a detector's backbone from a configuration alone; `load_backbone_weights` fills it and prints how
many of how many tensors went in. The same two lines serve Mask2Former, UperNet and others with a `backbone_config`.
Needs scipy for DETR's loss: pip install 'mcl_hf[transformers-detectors]'.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, DetrConfig, DetrForObjectDetection

from mcl_hf import load_backbone_weights


def build_detector(run: Path, num_labels: int) -> DetrForObjectDetection:
    """A small DETR whose backbone is the pre-trained one, the rest new."""
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=AutoConfig.from_pretrained(run),
        num_labels=num_labels,
        num_queries=20,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
    )
    detector = DetrForObjectDetection(config)
    load_backbone_weights(detector, str(run))
    return detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    detector = build_detector(arguments.run, num_labels=3)
    processor = AutoImageProcessor.from_pretrained(arguments.run)

    # --- one image with two boxes: class, and centre x, centre y, width, height as shares of the image ---------------
    image = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8)
    pixel_values = processor(image, return_tensors="pt", do_center_crop=False).pixel_values
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.5, 0.2, 0.2]])
    labels = [{"class_labels": torch.tensor([0, 2]), "boxes": boxes}]

    # --- one step: a new head learns faster than a trained backbone ------------------------
    backbone = [p for name, p in detector.named_parameters() if "backbone" in name and p.requires_grad]
    rest = [p for name, p in detector.named_parameters() if "backbone" not in name]
    optimizer = torch.optim.AdamW([{"params": backbone, "lr": 1e-5}, {"params": rest, "lr": 1e-4}])
    losses = []
    for _ in range(3):
        loss = detector(pixel_values=pixel_values, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 3))
    print(f"pixel_values {tuple(pixel_values.shape)}, losses {losses}")


if __name__ == "__main__":
    main()
