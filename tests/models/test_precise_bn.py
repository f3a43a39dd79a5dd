import pytest
import torch
from torch import nn

from mcl_hf.finetuning.evaluation_watch import statistics_restored
from mcl_hf.models.precise_bn import training_norms, update_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.03), nn.ReLU(), nn.BatchNorm2d(4)).train()


def test_statistics_become_the_mean_over_batches():
    model = network()
    batches = [torch.randn(5, 3, 8, 8) * scale for scale in (1.0, 2.0, 5.0)]
    with torch.no_grad():
        maps = [model[0](batch) for batch in batches]
    assert update_statistics(model, model, batches) == 2
    means = torch.stack([values.mean((0, 2, 3)) for values in maps]).mean(0)
    variances = torch.stack([values.var((0, 2, 3)) for values in maps]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert model[1].momentum == 0.03


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    model = network()
    before = model[3].running_mean.clone()
    assert update_statistics(model, model[:2], [torch.randn(5, 3, 8, 8)]) == 1
    assert torch.equal(model[3].running_mean, before)


def test_frozen_norms_are_left_alone_and_weights_stay():
    model = network()
    model[1].eval()
    assert training_norms(model) == [model[3]]
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    before = model[1].running_var.clone()
    update_statistics(model, model, [torch.randn(5, 3, 8, 8) + 3])
    assert torch.equal(model[1].running_var, before)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_statistics_come_back_even_after_an_error():
    model = network()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(RuntimeError), statistics_restored(model):
        update_statistics(model, model, [torch.randn(5, 3, 8, 8) + 3])
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
        raise RuntimeError
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
