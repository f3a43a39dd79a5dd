from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from mcl_hf.engine import launch
from mcl_hf.engine.launch import launch_warnings, launched, processes_asked_for, refuse_split_models
from mcl_hf.errors import InputError
from mcl_hf.pretraining.arguments import PretrainArguments

ACCELERATE = "python /bin/accelerate launch --cpu --num_processes {} scripts/pretrain.py"


class Parent:
    def __init__(self, line):
        self.line = line

    def cmdline(self):
        return self.line.split()


def test_what_accelerate_was_asked_for_is_read_from_its_command_line():
    assert processes_asked_for(Parent(ACCELERATE.format(2))) == 2
    assert processes_asked_for(Parent(ACCELERATE.replace("--num_processes {}", "--num-processes=3"))) == 3
    assert processes_asked_for(Parent("bash -c python x.py --num_processes 2")) is None
    assert processes_asked_for(None) is None


def test_launchers_that_start_strangers_are_noticed():
    [line] = launch_warnings(1, Parent(ACCELERATE.format(2)), {})
    assert "asked for 2 processes but started one" in line and "torchrun --nproc-per-node 2" in line
    [line] = launch_warnings(1, Parent("slurmstepd"), {"SLURM_STEP_NUM_TASKS": "4"})
    assert "started this command 4 times, and each trains alone" in line
    assert launch_warnings(2, Parent(ACCELERATE.format(2)), {"SLURM_STEP_NUM_TASKS": "2"}) == []
    assert launch_warnings(1, Parent("bash"), {"SLURM_STEP_NUM_TASKS": "1"}) == []


def test_launchers_that_would_split_the_model_are_refused(tmp_path, monkeypatch):
    for split in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        with pytest.raises(InputError, match=f"accelerate is set to {split}.* --multi_gpu"):
            refuse_split_models(DistributedType(split))
    for whole in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU"):
        refuse_split_models(DistributedType(whole))
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType.FSDP)
    with pytest.raises(InputError, match="FSDP"), launched(PretrainArguments(device="cpu"), tmp_path):
        raise AssertionError("the run was let in")


def test_ranks_wait_for_what_the_main_process_does_alone(tmp_path, monkeypatch):
    """COCO is scored on one process for longer than the ten minutes that NCCL waits."""
    from accelerate import Accelerator

    asked = {}

    def accelerator(**options):
        asked.update({type(handler).__name__: handler for handler in options["kwargs_handlers"]})
        return Accelerator(**options)

    monkeypatch.setattr(launch, "Accelerator", accelerator)
    with launch.launched(SimpleNamespace(precision="fp32", device="cpu", report_to=[]), tmp_path / "run"):
        pass
    assert asked["InitProcessGroupKwargs"].timeout.total_seconds() >= 3600
    assert asked["GradScalerKwargs"].init_scale <= 2**14


def test_accelerates_own_accumulation_divides_no_loss(tmp_path, monkeypatch):
    """Its configuration file and launcher set it in the environment; the loop accumulates by the run's own option."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    arguments = SimpleNamespace(precision="fp32", device="cpu", report_to=[])
    weight = torch.ones(1, requires_grad=True)
    with launch.launched(arguments, tmp_path / "run") as accelerator:
        accelerator.backward(weight * 8)
    assert weight.grad == 8
    (line,) = launch.launch_warnings(2, None, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})
    assert "--gradient-accumulation-steps" in line
    assert not launch.launch_warnings(1, None, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"})


@pytest.mark.parametrize("refused", [False, True])
def test_an_accelerator_of_the_callers_is_put_aside_and_back(tmp_path, refused):
    """As a `Trainer` leaves one behind in a notebook."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what tests before have left
    theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4, cpu=True)
    precision = "fp16" if refused else "fp32"
    with (
        pytest.raises(InputError) if refused else nullcontext(),
        launched(PretrainArguments(precision=precision, device="cpu"), tmp_path) as accelerator,
    ):
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 1)
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == ("bf16", 4)
    assert theirs.state is not None and theirs.device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)
