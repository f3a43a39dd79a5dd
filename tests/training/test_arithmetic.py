import contextlib
import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from mcl_hf.engine.arithmetic import (
    chosen_device,
    chosen_precision,
    copy_to_device,
    emulation_warning,
    peak_memory_gib,
    set_arithmetic,
)


@pytest.fixture
def restored():
    """Puts the process's switches back."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    switches = cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = switches


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_tf32_is_switched_for_products_and_convolutions(restored, tf32, precision):
    set_arithmetic(torch.device("cuda"), tf32=tf32, fixed_shapes=tf32)
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is tf32


@pytest.mark.parametrize("fixed", [True, False])
def test_cudnn_tries_its_algorithms_where_shapes_are_fixed(restored, fixed):
    set_arithmetic(torch.device("cuda"), tf32=True, fixed_shapes=fixed)
    assert torch.backends.cudnn.benchmark is fixed


def test_the_cpu_keeps_its_precision_and_drops_denormals(restored):
    before = torch.get_float32_matmul_precision()
    set_arithmetic(torch.device("cpu"), tf32=True, fixed_shapes=True)
    assert torch.get_float32_matmul_precision() == before
    assert (torch.tensor([1e-40]) * 1.0).item() == 0.0


CARDS = {"none": None, "GTX 1080": (6, 1), "T4": (7, 5), "A100": (8, 0)}


@pytest.fixture
def of_kind(monkeypatch):
    """A machine of a kind: whether its CPU has bf16, and its GPU's compute capability or None."""

    def make(cpu: bool, card: str = "none"):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: cpu)
        capability = CARDS[card]
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        return torch.device("cuda" if capability else "cpu")

    return make


@pytest.mark.parametrize("cpu", [False, True])
@pytest.mark.parametrize(
    ("card", "fastest"), [("none", None), ("GTX 1080", "fp32"), ("T4", "fp16"), ("A100", "bf16")], ids=str
)
def test_auto_is_the_fastest_precision_of_the_device(of_kind, cpu, card, fastest):
    device = of_kind(cpu, card)
    fastest = fastest or ("bf16" if cpu else "fp32")
    assert chosen_precision("auto", device) == fastest
    assert {chosen_precision(given, device) for given in ("fp32", "bf16", "fp16")} == {"fp32", "bf16", "fp16"}
    warned = emulation_warning(device, "bf16")
    assert [f"--precision {fastest}" in line for line in warned] == [True] * (fastest != "bf16")
    assert emulation_warning(device, "fp32") == []


@pytest.mark.parametrize("there", [False, True])
def test_auto_takes_the_accelerator_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))  # of a build for GPUs
    assert chosen_device("auto").type == ("cuda" if there else "cpu")
    assert chosen_device("cpu").type == "cpu"


def test_a_run_in_emulated_bf16_says_so(of_kind, tiny_run, capfd):
    of_kind(cpu=False)
    tiny_run("slow", precision="bf16", max_steps=1)
    assert "this CPU has no bf16 instructions" in capfd.readouterr().out


@pytest.mark.parametrize(("cpu", "chosen"), [(False, "fp32"), (True, "bf16")])
def test_a_run_records_what_auto_chose(of_kind, tiny_run, capfd, cpu, chosen):
    of_kind(cpu)
    run = tiny_run("auto", precision="auto", max_steps=1)
    assert f"on cpu, {chosen};" in capfd.readouterr().out
    state = json.loads((run.output_dir / "checkpoints" / "step-00000001" / "training_state.json").read_text())
    assert state["arguments"]["precision"] == chosen
    of_kind(not cpu)  # another machine
    tiny_run("auto", precision="auto", max_steps=2, resume="auto")
    assert f"another precision: {chosen} before" in capfd.readouterr().out


PAGES_AGAIN = """
import os, resource, sys, torch
from mcl_hf.engine.arithmetic import keep_freed_memory
told = keep_freed_memory(os.environ, spare_memory=sys.argv[1] == "spare")
for _ in range(30):  # glibc's aligned blocks wander at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(int(sys.argv[2]), dtype=torch.uint8)  # freed at once
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(told, faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(
    ("environment", "how", "size", "told", "kept"),
    [
        ({}, "all", 2**26, True, True),
        ({}, "spare", 2**26, True, False),
        ({}, "spare", 2**24, True, True),
        ({"MALLOC_TOP_PAD_": "0"}, "all", 2**26, False, False),
    ],
)
def test_freed_memory_is_kept_for_the_next_tensor(environment, how, size, told, kept):
    """Pages that a tensor touches for the first time, after others of its size were freed."""
    command = [sys.executable, "-c", PAGES_AGAIN, how, str(size)]
    run = subprocess.run(command, env=os.environ | environment, text=True, capture_output=True, check=True)
    was_told, faults = run.stdout.split()
    assert was_told == str(told)
    assert int(faults) < 20 if kept else int(faults) >= 32  # pages of 4 KiB, or of 2 MiB where they are huge


def test_a_copy_on_the_cpu_is_the_tensor_itself():
    tensor = torch.arange(4)
    assert copy_to_device(tensor, torch.device("cpu")) is tensor


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_gib(torch.device("cpu"))
    held = torch.ones(int((before + 0.2) * 2**28))  # 4 bytes each: a little more than the peak so far
    assert held.sum() > 0 and peak_memory_gib(torch.device("cpu")) >= before + 0.2
