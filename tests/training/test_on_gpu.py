"""What only a GPU can show: skipped where there is none, as in continuous integration."""

import importlib

import numpy as np
import pytest
import torch
import torch.distributed as dist

import mcl_hf
from mcl_hf.models import MCLConfig, MCLForPreTraining, MCLModel, convert_cross_rank_norm
from mcl_hf.pretraining.step import train_step
from tests.detectors.test_transformers_detectors import OPTIONS as SMALL
from tests.detectors.test_transformers_detectors import RUN as OF_TRANSFORMERS
from tests.finetuning.test_finetune import TINY as FINETUNE
from tests.scenes import write_scenes
from tests.training.conftest import TINY
from tests.training.ranks import run_ranks, said

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture
def losses_of(tiny_run, read_log):
    """Runs `pretrain` and returns the losses that it logged."""

    def run(name, **options):
        return [line["loss"] for line in read_log(tiny_run(name, **options).output_dir)]

    return run


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd"])
def test_fp32_is_the_run_of_the_cpu(losses_of, optimizer):
    options = {"optimizer": optimizer, "tf32": False}
    one, other = (losses_of(device, device=device, **options) for device in ("cpu", "auto"))
    np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"precision": "fp16", "optimizer": "lars"},
        {"precision": "bf16", "augment_on": "device", "num_workers": 1},
        {"precision": "bf16", "compile": True},
        {"precision": "bf16", "activation_checkpointing": True, "sides_in_turn": True},
        {"precision": "bf16", "gradient_accumulation_steps": 2, "queue_size": 8, "level_pairing": "all"},
        {"precision": "bf16", "objective": "supervised"},
    ],
    ids=["bf16", "fp16", "augmented there", "compiled", "little memory", "queue", "supervised"],
)
def test_every_way_to_train_stays_near_fp32(losses_of, options):
    plain = {name: value for name, value in options.items() if name in ("objective", "queue_size", "level_pairing")}
    plain["gradient_accumulation_steps"] = options.get("gradient_accumulation_steps", 1)
    one, other = (losses_of(name, device="auto", **more) for name, more in (("plain", plain), ("other", options)))
    np.testing.assert_allclose(one, other, rtol=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("detector", ["mask_rcnn", "faster_rcnn", "retinanet"])
def test_a_detector_is_fine_tuned_and_measured(tmp_path, read_log, detector, precision):
    folder = write_scenes(tmp_path / "scenes", 8)
    options = {**FINETUNE, "device": "auto", "num_workers": 1, "detector": detector, "precision": precision}
    result = mcl_hf.finetune(data=str(folder), val_data=str(folder), output_dir=str(tmp_path / "run"), **options)
    assert result.steps == 4 and np.isfinite([line["loss"] for line in read_log(tmp_path / "run")]).all()
    assert "eval/box/AP" in result.metrics


@pytest.mark.parametrize("detector", ["rt_detr_v2", "deformable_detr", "mask2former"])
def test_a_detector_of_transformers_is_fine_tuned_and_measured(tmp_path, read_log, detector):
    folder = write_scenes(tmp_path / "scenes", 8)
    options = {**OF_TRANSFORMERS, "device": "auto", "precision": "bf16", "ema": True, "augment": "strong"}
    options |= {"init": "random", "backbone": "resnet18", "detector_options": SMALL[detector], "detector": detector}
    result = mcl_hf.finetune(data=str(folder), val_data=str(folder), output_dir=str(tmp_path / "run"), **options)
    assert result.steps == 2 and np.isfinite([line["loss"] for line in read_log(tmp_path / "run")]).all()
    assert "eval/box/AP" in result.metrics


@torch.no_grad()
def test_embeddings_in_bf16_are_those_of_the_cpu():
    torch.manual_seed(0)
    model = MCLModel(MCLConfig(**{name: TINY[name] for name in ("backbone", "backbone_kwargs", "fpn_channels")})).eval()
    pixels = torch.randn(2, 3, 256, 640)
    boxes = [torch.tensor([[301.0, 103.0, 367.0, 161.0], [1.0, 2.0, 200.0, 210.0]])] * 2
    expected = model.embed_regions(pixels, boxes)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = model.cuda().embed_regions(pixels.cuda(), [image.cuda() for image in boxes])
    assert torch.nn.functional.cosine_similarity(found.float().cpu(), expected).min() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(losses_of, precision):
    options = {"device": "auto", "precision": precision, "max_steps": 6, "save_every_steps": 3}
    whole = losses_of("whole", **options)
    part = losses_of("part", **{**options, "max_steps": 3})
    np.testing.assert_allclose(part, whole[:3], rtol=0.05)  # the schedule of a shorter run is another
    resumed = losses_of("part", **options, resume="auto")
    np.testing.assert_allclose(resumed[3:], whole[3:], rtol=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sides_in_turn": True},
        {"augment_on": "device"},
        {"objective": "supervised"},
        {"queue_size": 8},
        {"queue_size": 8, "level_pairing": "all"},
    ],
    ids=["default", "in turn", "augmented there", "supervised", "queue", "queue of all levels"],
)
def test_no_step_waits_for_the_device(tiny_run, monkeypatch, options):
    def watched(run, batches, step, broken):
        torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")  # the first ones set things up
        try:
            return train_step(run, batches, step, broken)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(importlib.import_module("mcl_hf.pretraining.pretrain"), "train_step", watched)
    assert tiny_run(device="auto", precision="bf16", max_steps=4, **options).steps == 4


def both_norms(rank, folder):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(rank)).cuda()
    model_fields = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "fpn_channels", "region_size")}
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = convert_cross_rank_norm(MCLForPreTraining(MCLConfig(**model_fields)), "cuda", compiled).cuda()
        maps = network.mcl.train()(pixels).feature_maps
        sum(level.pow(3).sum() for level in maps).backward()
        results.append([*maps, *(p.grad for p in network.mcl.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))
    dist.destroy_process_group()


@two_gpus
def test_both_kinds_of_cross_rank_norm_agree(tmp_path):
    assert run_ranks(both_norms, 2, tmp_path) == [0, 0], said(tmp_path, 0)


def train_on_two(rank, folder, photos, options):
    mcl_hf.pretrain(
        **{**TINY, "device": "auto", "data": str(photos), "output_dir": str(folder / "run"), **options},
    )


@two_gpus
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "bf16", "compile": True}], ids=str)
def test_two_gpus_train_together_and_resume(photos, tmp_path, read_log, options):
    for more in ({"max_steps": 2}, {"max_steps": 4, "resume": "auto"}):
        codes = run_ranks(train_on_two, 2, tmp_path, photos, {**options, **more}, timeout=900)
        assert codes == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    assert len(losses) == 4 and np.isfinite(losses).all()
