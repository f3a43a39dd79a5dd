import pytest
import torch

from mcl_hf.engine.arithmetic import set_arithmetic
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


def test_a_copy_on_the_cpu_is_the_tensor_itself():
    tensor = torch.arange(4)
    assert copy_to_device(tensor, torch.device("cpu")) is tensor


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_gib(torch.device("cpu"))
    held = torch.ones(int((before + 0.2) * 2**28))  # 4 bytes each: a little more than the peak so far
    assert held.sum() > 0 and peak_memory_gib(torch.device("cpu")) >= before + 0.2
