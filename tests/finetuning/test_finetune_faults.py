"""Fine-tuning that is killed, fine-tuning by two processes, and a detector that learns its scenes by heart."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mcl_hf
from mcl_hf.viz import read_log
from tests.detectors.test_transformers_detectors import OPTIONS
from tests.finetuning.test_finetune import TINY, assert_equal, logged
from tests.scenes import write_scenes
from tests.training.ranks import run_ranks

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["mcl_hf.finetuning.finetune", "matplotlib.pyplot"])
LONG = {**TINY, "max_steps": 30, "eval_every_steps": 5, "num_workers": 1}


def finetune(rank: int, folder: Path, options: dict) -> None:
    torch.set_num_threads(1)
    mcl_hf.finetune(**options, callbacks=())


def alone(options: dict) -> None:
    os.setpgrp()
    finetune(0, Path(), options)


def start(options: dict) -> multiprocessing.Process:
    process = _CONTEXT.Process(target=alone, args=(options,))
    process.start()
    return process


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    scenes = write_scenes(tmp_path / "scenes", 8, width=96, height=72)
    write_scenes(scenes, 4, width=96, height=72, split="val")
    options = {**LONG, "data": str(scenes)}
    whole = start({**options, "output_dir": str(tmp_path / "whole")})
    whole.join()
    assert whole.exitcode == 0
    draws = random.Random(0)
    log = tmp_path / "cut" / "log.jsonl"
    for kill_after in (2, 9, 16):  # lines of the log
        process = start({**options, "output_dir": str(tmp_path / "cut"), "resume": "auto"})
        while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= kill_after):
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.3))  # in a step, in an evaluation, while a checkpoint is written
        assert process.is_alive(), "it must be killed before its end"
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    last = start({**options, "output_dir": str(tmp_path / "cut"), "resume": "auto"})
    last.join()
    assert last.exitcode == 0
    assert_equal(tmp_path / "whole", tmp_path / "cut")
    assert_equal(tmp_path / "whole" / "best", tmp_path / "cut" / "best")
    assert logged(tmp_path / "whole") == logged(tmp_path / "cut")


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tmp_path):
    scenes = write_scenes(tmp_path / "scenes", 8, width=96, height=72)
    write_scenes(scenes, 5, width=96, height=72, split="val")  # not the same number for both
    options = {**TINY, "data": str(scenes), "batch_size": None, "global_batch_size": 4, "max_steps": 2}
    codes = run_ranks(finetune, 2, tmp_path / "ranks", {**options, "output_dir": str(tmp_path / "two")})
    assert codes == [0, 0], (tmp_path / "ranks" / "rank0.txt").read_text()
    (*_, last) = read_log(tmp_path / "two" / "log.jsonl")
    assert "eval/box/AP" in last and last["step"] == 2
    # The detector that two processes wrote and measured has the same figures when one process measures it.
    from mcl_hf.detection import evaluate_detections, open_detection_data, open_detector, predict_data, to_results

    model, processor = open_detector(str(tmp_path / "two"))
    data = open_detection_data(scenes, split="val")
    results = to_results(predict_data(model, processor, data).detections, data)
    metrics = evaluate_detections(data, results, masks=True)
    assert metrics.box.figures["AP"] == pytest.approx(last["eval/box/AP"], abs=1e-9)
    assert metrics.box.figures["AR100"] == pytest.approx(last["eval/box/AR100"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["deformable_detr", "deimv2"])
def test_two_processes_take_the_step_of_one_in_a_detector_of_transformers(tmp_path, detector):
    """Losses are one an object or a match, over all processes: of one of the detectors transformers' own are twice as
    large in two, of the other those of single processes."""
    noise = {"num_denoising": 0} if detector == "deimv2" else {}  # each process would draw its own
    scenes = write_scenes(tmp_path / "scenes", 8, width=96, height=72)
    options = {
        "init": "demo", "detector": detector, "detector_options": {**OPTIONS[detector], "dropout": 0.0, **noise},
        "flip": 0.0,
        "data": str(scenes), "global_batch_size": 4, "max_steps": 1, "save_every_steps": 0, "num_workers": 0,
        "min_size_train": [96], "max_size_train": 128, "optimizer": "sgd", "base_learning_rate": 0.1, "augment": "off",
        "clip_grad_norm": 1e6, "warmup_steps": 0, "device": "cpu", "log_every_steps": 1,
    }  # fmt: skip
    codes = run_ranks(finetune, 2, tmp_path / "ranks", {**options, "output_dir": str(tmp_path / "two")})
    assert codes == [0, 0], (tmp_path / "ranks" / "rank0.txt").read_text()
    finetune(0, tmp_path, {**options, "output_dir": str(tmp_path / "one")})
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-5 if detector == "deformable_detr" else 3e-4), name


@pytest.mark.slow
def test_a_tiny_detector_learns_eight_scenes_by_heart(tmp_path):
    scenes = write_scenes(tmp_path / "scenes", 8)
    torch.set_num_threads(1)
    result = mcl_hf.finetune(
        init="random",
        backbone="resnet10t",
        data=str(scenes),
        val_data=str(scenes),
        val_split="train",
        output_dir=str(tmp_path / "run"),
        detector_options={
            "backbone_kwargs": {"channels": [16, 32, 48, 64], "stem_width": 16},
            "fpn_channels": 32,
            "box_head_convs": 2,
            "mask_head_convs": 2,
            "box_fc_dim": 128,
            "anchor_sizes": [[12], [24], [40], [64], [96]],
            "rpn_pre_nms_top_n_train": 100,
            "rpn_pre_nms_top_n_test": 60,
            "rpn_post_nms_top_n_train": 40,
            "rpn_post_nms_top_n_test": 30,
            "rpn_batch_size_per_image": 32,
            "box_batch_size_per_image": 16,
            "box_detections_per_img": 10,
        },
        min_size_train=[96],
        max_size_train=128,
        min_size_test=96,
        max_size_test=128,
        flip=0.0,
        batch_size=8,
        max_steps=280,
        base_learning_rate=0.1,
        log_every_steps=50,
        save_every_steps=0,
        precise_bn_steps=4,
        num_workers=0,
        device="cpu",
    )
    assert result.metrics["eval/box/AP50"] > 0.9 and result.metrics["eval/mask/AP50"] > 0.9
