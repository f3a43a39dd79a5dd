"""`--compile` compiles what it says, and changes neither the numbers nor what is saved."""

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from mcl_hf.models import FeaturePyramid, MCLForPreTraining, RegionHead


@pytest.fixture
def compiled(monkeypatch):
    """Modules that were compiled, in order: traced and differentiated as ever, but without the minutes of inductor."""
    modules = []
    compile_module = nn.Module.compile

    def compile_quickly(module):
        modules.append(module)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    return modules


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one(tiny_run, read_log, compiled):
    levels = {"max_steps": 2, "montage_ratios": [1, 2, 4, 8], "montage_fractions": [1, "1/2", "1/4", "1/4"],
              "level_weights": [0.5, 0.25, 0.125, 0.125]}  # fmt: skip
    plain = tiny_run("plain", **levels).output_dir
    assert compiled == []
    whole = tiny_run("compiled", compile=True, **levels).output_dir
    assert len(compiled) == 6  # three parts of the online network, and of the target
    assert [type(module) for module in (*compiled[1:3], *compiled[4:6])] == [FeaturePyramid, RegionHead] * 2
    losses = [[line["loss"] for line in read_log(folder)] for folder in (plain, whole)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    names = [list(load_file(folder / "pretraining" / "model.safetensors")) for folder in (plain, whole)]
    assert names[0] == names[1]
    MCLForPreTraining.from_pretrained(whole / "checkpoints" / "last")
