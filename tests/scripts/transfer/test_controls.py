"""Each control differs from MCL in one thing, and in no other."""

import pytest
import torch

from mcl_hf import MCLConfig, MCLForPreTraining, assemble_montage
from mcl_hf.models.montage import MontageLayout
from scripts.transfer.controls import (
    AlonePreTraining,
    WrongLevelsMCLModel,
    WrongLevelsPreTraining,
    split_montages,
    tile_boxes,
)

FIELDS = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8},
    "fpn_channels": 8,
    "region_size": 2,
    "region_convs": 1,
    "hidden_dim": 16,
    "embedding_dim": 8,
    "montage_ratios": [1, 2, 4],
    "montage_fractions": [1, 1 / 4, 1 / 16],
    "level_weights": [0.5, 0.25, 0.25],
}


def pair(kind):
    """MCL and a variant with the same weights, in eval mode."""
    torch.manual_seed(0)
    plain = MCLForPreTraining(MCLConfig(**FIELDS)).eval()
    variant = kind(MCLConfig(**FIELDS)).eval()
    variant.load_state_dict(plain.state_dict())
    return plain, variant


def images_of(seed=0):
    layout = MontageLayout.of(16, (1, 2, 4), (1, 1 / 4, 1 / 16))
    return torch.randn(sum(layout.counts), 3, 64, 64, generator=torch.Generator().manual_seed(seed)), layout


def test_splitting_montages_undoes_assembling_them():
    tiles = torch.randn(8, 3, 4, 4)
    order = torch.randperm(8)
    assert torch.equal(split_montages(assemble_montage(tiles, order, 2), 2), tiles[order])


@torch.no_grad()
def test_without_a_montage_a_tile_sees_nothing_of_its_neighbours():
    plain, alone = pair(AlonePreTraining)
    images, layout = images_of()
    changed = images.clone()
    changed[16, :, :32, :32] += 1  # one tile of the first montage of level 1
    found = [[model.mcl.embed_tiles(batch, layout) for batch in (images, changed)] for model in (plain, alone)]
    for mine in found:
        assert torch.equal(mine[0][0], mine[1][0])  # level 0 is as it was
        assert not torch.allclose(mine[0][1][0], mine[1][1][0])  # the tile itself is another
    assert not torch.allclose(found[0][0][1][1], found[0][1][1][1])  # in a montage, so is its neighbour
    assert torch.equal(found[1][0][1][1:], found[1][1][1][1:])  # alone, no other
    assert torch.allclose(found[0][0][0], found[1][0][0], atol=1e-5)  # full views have no neighbours in either


@torch.no_grad()
def test_wrong_levels_read_other_maps_and_nothing_else_is_different(monkeypatch):
    plain, wrong = pair(WrongLevelsPreTraining)
    images, layout = images_of()
    expected = plain.mcl.embed_tiles(images, layout)
    found = wrong.mcl.embed_tiles(images, layout)
    assert wrong.mcl.maps_to_read() == [1, 2, 3] and plain.config.level_maps == [3, 2, 1]
    assert torch.allclose(found[1], expected[1], atol=1e-4)  # the middle level of three is its own mirror
    assert not torch.allclose(found[0], expected[0], atol=1e-2) and not torch.allclose(found[2], expected[2], atol=1e-2)
    monkeypatch.setattr(WrongLevelsMCLModel, "maps_to_read", lambda self: self.config.level_maps)
    for one, other in zip(wrong.mcl.embed_tiles(images, layout), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)  # from the right levels it is MCL


def test_tile_boxes_are_row_major():
    boxes = tile_boxes(2, 2, 64, torch.device("cpu"))
    assert boxes[1].tolist() == [0, 32, 0, 64, 32] and boxes[4].tolist() == [1, 0, 0, 32, 32]


@pytest.mark.parametrize("kind", [AlonePreTraining, WrongLevelsPreTraining])
def test_controls_train(kind):
    model = kind(MCLConfig(**FIELDS))
    assert type(model.mcl) is type(model.target) is kind.network
    views = [[torch.randn(16, 3, 64 // r, 64 // r) for r in (1, 2, 4)] for _ in range(2)]
    model(*views).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    with pytest.raises(ValueError, match="lean scope"):
        kind(MCLConfig(**FIELDS, region_scope="published"))
