import os
import platform
import subprocess
import sys

import pytest
import torch

from mcl_hf.engine import arithmetic
from mcl_hf.engine.arithmetic import emulation_warning, set_arithmetic
from mcl_hf.engine.host_copies import copy_to_device
from mcl_hf.engine.peak_memory import peak_memory_gib


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


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "bf16"), ("cpu", "bf16")])
@pytest.mark.parametrize("native", [False, True])
def test_bf16_on_a_cpu_without_it_is_warned_of(monkeypatch, device, precision, native):
    monkeypatch.setattr(arithmetic, "cpu_computes_bf16", lambda: native)
    slow = (device, precision, native) == ("cpu", "bf16", False)
    assert ["--precision fp32" in line for line in emulation_warning(torch.device(device), precision)] == [True] * slow


def test_a_run_in_emulated_bf16_says_so(monkeypatch, tiny_run, capfd):
    monkeypatch.setattr(arithmetic, "cpu_computes_bf16", lambda: False)
    tiny_run("slow", precision="bf16", max_steps=1)
    assert "this CPU has no bf16 instructions" in capfd.readouterr().out


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
