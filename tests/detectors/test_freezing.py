import copy
import pickle

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_hf import MCLForInstanceSegmentation
from mcl_hf.detectors.freezing import freeze, parameter_groups, stage_of
from mcl_hf.errors import InputError
from tests.tiny_detector import tiny_config


@pytest.fixture
def detector():
    return MCLForInstanceSegmentation(tiny_config()).train()


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("conv1.0.weight", 0), ("bn1.bias", 0), ("layer1.0.conv1.weight", 1), ("layer4.2.bn3.weight", 4),
        ("stem.conv.weight", 0), ("s1.b1.conv1.conv.weight", 1), ("stages.0.blocks.1.norm.weight", 1),
        ("stages_3.blocks.0.mlp.fc1.weight", 4), ("layers_0.blocks.0.attn.qkv.weight", 1),
    ],
)  # fmt: skip
def test_stages_are_read_from_timms_names(name, stage):
    assert stage_of(name) == stage


def test_frozen_stages_do_not_train_and_stay_in_eval(detector):
    lines = freeze(detector, freeze_at=2, frozen_bn=False)
    assert "first 2 stages" in lines[0]
    detector.eval()
    detector.train()
    for name, parameter in detector.backbone.named_parameters():
        assert parameter.requires_grad is (stage_of(name) >= 2)
    for name, module in detector.backbone.named_modules():
        if isinstance(module, _BatchNorm):
            assert module.training is (stage_of(f"{name}.") >= 2)
    assert detector.fpn.training


def test_frozen_batch_norm_keeps_statistics_and_affine_through_a_forward_pass(detector):
    freeze(detector, freeze_at=0, frozen_bn=True)
    before = {name: buffer.clone() for name, buffer in detector.backbone.named_buffers()}
    detector.train().pyramid(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in detector.backbone.named_buffers())
    trained = [name for name, parameter in detector.backbone.named_parameters() if parameter.requires_grad]
    assert trained and not any(".bn" in name for name in trained)


def test_a_frozen_detector_saves_and_opens_like_any_other(detector, tmp_path):
    freeze(detector, freeze_at=5, frozen_bn=True)
    detector.save_pretrained(tmp_path)
    reopened = MCLForInstanceSegmentation.from_pretrained(tmp_path)
    state = detector.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in reopened.state_dict().items())


def test_groups_hold_every_trained_parameter_once(detector):
    freeze(detector, freeze_at=1, frozen_bn=False)
    groups = parameter_groups(detector, lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in detector.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)
    by_id = {id(parameter): group for group in groups for parameter in group["params"]}
    stage4, head = detector.backbone.layer4[0].conv1.weight, detector.roi_heads.box_predictor.cls_score
    assert by_id[id(stage4)]["lr_scale"] == 0.5 and by_id[id(head.weight)]["lr_scale"] == 1.0
    assert by_id[id(head.bias)]["weight_decay"] == 1e-4  # a bias, no norm
    assert by_id[id(detector.backbone.layer4[0].bn1.weight)]["weight_decay"] == 0.0


def test_a_stage_that_is_not_there_is_one_clear_line(detector):
    with pytest.raises(InputError, match="freeze_at must be 0"):
        freeze(detector, freeze_at=6, frozen_bn=False)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_frozen_detector_can_be_copied_and_pickled(again):
    """As for another process, and as averaging of weights does."""
    model = MCLForInstanceSegmentation(tiny_config("mask_rcnn"))
    freeze(model, 2, True)
    copied = again(model)
    norms = [part for part in copied.backbone.modules() if isinstance(part, _BatchNorm)]
    assert norms and not any(part.training for part in norms) and not norms[0].train().training
    assert [type(part) for part in copied.modules()] == [type(part) for part in model.modules()]
    for one, other in zip(copied.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
