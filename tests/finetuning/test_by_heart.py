"""Detectors of transformers learn 32 small scenes by heart, from the checkpoint that comes with the package.

Minutes each: they run with MCL_BY_HEART=1, or with their names, MCL_BY_HEART=d_fine,deimv2. DETR runs by name alone: it
sees 3 x 3 cells of such a picture, and has not learned them (docs/status.md).
"""

import os

import pytest
import torch

import mcl_hf
from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from tests.scenes import write_scenes

WANTED = os.environ.get("MCL_BY_HEART", "").split(",")
SMALL = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 20, "d_model": 64,
}  # fmt: skip
WITH_MASKS = {
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "encoder_feedforward_dim": 128,
    "dim_feedforward": 128, "hidden_dim": 64, "feature_size": 64, "mask_feature_size": 64, "num_queries": 20,
    "train_num_points": 256,
}  # fmt: skip
OPTIONS = dict.fromkeys(("detr", "deformable_detr"), SMALL) | {"mask2former": WITH_MASKS}
OPTIONS |= {
    name: {**SMALL, "encoder_hidden_dim": 64, "decoder_in_channels": [64] * 3, "num_denoising": 20}
    for name in ("rt_detr_v2", "d_fine", "deimv2")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector", [name for name in TRANSFORMERS_DETECTORS if name in WANTED or ("1" in WANTED and name != "detr")]
)
def test_it_learns_32_scenes_by_heart(detector, tmp_path):
    torch.set_num_threads(1)
    scenes = write_scenes(tmp_path / "scenes", 32, width=96, height=96)
    result = mcl_hf.finetune(
        init="demo",
        detector=detector,
        detector_options=OPTIONS[detector],
        data=str(scenes),
        val_data=str(scenes),
        val_split="train",
        output_dir=str(tmp_path / "run"),
        min_size_train=[96],
        max_size_train=96,
        min_size_test=96,
        max_size_test=96,
        flip=0.0,
        augment="off",
        ema=False,
        batch_size=8,
        max_steps=600,
        base_learning_rate=2e-3,
        backbone_lr_scale=1.0,
        clip_grad_norm=1.0,
        lr_milestones=["5/6"],
        warmup_steps=20,
        log_every_steps=25,
        save_every_steps=0,
        eval_every_steps=100,
        num_workers=0,
        device="cpu",
    )
    assert result.metrics["eval/box/AP50"] > 0.9
