"""Recomputing activations changes memory and nothing else."""

import copy
import pickle

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_hf import MCLBackbone, MCLForPreTraining, MCLForSupervisedPreTraining, MCLModel
from mcl_hf.models import recompute_activations
from mcl_hf.models.recompute import find_block_classes, find_stages

from .tiny import tiny_batch, tiny_config, tiny_views

NETWORKS = {
    "resnet18": 4,
    "resnet50": 4,
    "convnext_atto": 4,
    "regnety_002": 4,  # squeeze-and-excitation works in place on a convolution's output
    "swin_tiny_patch4_window7_224": 4,  # drop path: the same random choices again
    "densenet121": 4,  # hands over a list that grows later
}

SWITCH = f"{'activation' if hasattr(MCLModel, 'activation_checkpointing_enable') else 'gradient'}_checkpointing"
"""What transformers calls it: 5.21 the second."""


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_statistics_stay(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).train()
    recomputing = recompute_activations(copy.deepcopy(plain))
    assert len(find_stages(plain)) == NETWORKS[name]
    side = 224 if "swin" in name else 64
    images = torch.randn(2, 3, side, side)
    for network in (plain, recomputing):
        for seed in range(2):
            torch.manual_seed(seed)
            sum(feature.square().mean() for feature in network(images)).backward()
    for (key, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key
    for (key, a), b in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(a, b), key
    assert list(plain.state_dict()) == list(recomputing.state_dict())


class CountConvolutions(TorchDispatchMode):
    """Counts forward convolutions."""

    convolutions = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.convolutions += operation == torch.ops.aten.convolution.default
        return operation(*args, **(kwargs or {}))


def test_no_convolution_runs_twice_and_less_is_kept() -> None:
    kept, counts = [], []
    for recompute in (False, True):
        network = timm.create_model("resnet18", features_only=True).train()
        if recompute:
            recompute_activations(network)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.nbytes), t)[1], lambda t: t):
            loss = sum(feature.mean() for feature in network(torch.randn(2, 3, 64, 64)))
        with CountConvolutions() as counter:
            loss.backward()
        kept.append(sum(sizes))
        counts.append(counter.convolutions)
    assert counts == [0, 0] and kept[1] < kept[0]


def test_pretraining_step_is_the_same() -> None:
    torch.manual_seed(0)
    plain = MCLForPreTraining(tiny_config())
    recomputing = copy.deepcopy(plain)
    recompute_activations(recomputing.mcl.backbone)
    batch = tiny_batch(plain.config)
    for model in (plain, recomputing):
        model(**batch, generator=torch.Generator().manual_seed(0)).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad), name


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no repeated blocks"):
        recompute_activations(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)))


def losses(model: torch.nn.Module) -> torch.Tensor:
    """A loss of any model class, the same at each call."""
    config = model.config
    if isinstance(model, MCLForPreTraining):
        return model(**tiny_batch(config), generator=torch.Generator().manual_seed(0)).loss
    if isinstance(model, MCLForSupervisedPreTraining):
        return model(tiny_views(config), torch.tensor([0, 1, 1, 0]), generator=torch.Generator().manual_seed(0)).loss
    return sum(map.square().mean() for map in model(tiny_views(config)[0]).feature_maps)


@pytest.mark.skipif(SWITCH.startswith("gradient"), reason="transformers 5.21 knows neither")
@pytest.mark.parametrize("option", [{"every_n_layers": 2}, {"offload": True}])
def test_what_does_not_apply_to_recomputing_is_refused(option) -> None:
    model = MCLModel(tiny_config())
    with pytest.raises(ValueError, match="leave both out"):
        model.activation_checkpointing_enable(**option)
    assert not model.gradient_checkpointing
    model.activation_checkpointing_enable(every_n_layers=1, offload=False)
    assert model.gradient_checkpointing


@pytest.mark.parametrize("kind", [MCLBackbone, MCLModel, MCLForPreTraining, MCLForSupervisedPreTraining])
def test_transformers_switch_recomputes_by_our_means(kind) -> None:
    torch.manual_seed(0)
    plain = kind(tiny_config(num_labels=2)).train()
    model = pickle.loads(pickle.dumps(plain))
    getattr(model, f"{SWITCH}_enable")({"use_reentrant": True})  # as Trainer does; the kind is not asked for
    assert getattr(model, f"is_{SWITCH}") and not getattr(plain, f"is_{SWITCH}")
    model = copy.deepcopy(model)
    assert not any("gradient_checkpointing" in key for key in model.config.to_dict())
    online = getattr(model, "mcl", model)
    assert all("forward" in vars(stage) for stage in find_stages(online.backbone))
    losses(plain).backward()
    losses(model).backward()
    for (name, one), other in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert other[0] == name and (one.grad is None) == (other[1].grad is None)
        assert one.grad is None or torch.equal(one.grad, other[1].grad), name
    for one, other in zip(plain.buffers(), model.buffers(), strict=True):
        assert torch.equal(one, other)
    getattr(model, f"{SWITCH}_disable")()
    assert not getattr(model, f"is_{SWITCH}")
    assert not any("forward" in vars(stage) for stage in find_stages(online.backbone))


def test_a_model_around_the_backbone_switches_it_too() -> None:
    """As DETR does, which sets `gradient_checkpointing` of every module that has one."""
    backbone = MCLBackbone(tiny_config())
    for module in torch.nn.Sequential(backbone).modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    assert all("forward" in vars(stage) for stage in find_stages(backbone.backbone))


@pytest.mark.parametrize(("name", "block"), [("resnet50", "Bottleneck"), ("convnext_atto", "ConvNeXtBlock")])
def test_blocks_are_not_split_over_devices(name: str, block: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, features_only=True)
    assert find_block_classes(network) == [block]


def test_model_classes_name_their_blocks() -> None:
    for kind in (MCLBackbone, MCLModel, MCLForPreTraining):
        assert set(kind(tiny_config())._no_split_modules) == {"BasicBlock"}
