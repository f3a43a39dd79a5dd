"""Backbones beyond ResNet, and regions on whole pictures."""

from pathlib import Path

import pytest
import torch

from mcl_hf import MCLBackbone, MCLConfig, MCLForPreTraining, MCLModel
from mcl_hf.models import MontageLayout

from .tiny import tiny_batch, tiny_config

SMALL = {
    "resnet18": {"channels": [8, 16, 24, 32]},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 2, 2, 4]},
    "regnety_002": {},
}


@pytest.mark.parametrize("backbone", SMALL)
def test_backbone_families(backbone: str, tmp_path: Path) -> None:
    config = tiny_config(backbone=backbone, backbone_kwargs=SMALL[backbone])
    model = MCLForPreTraining(config)
    model(**tiny_batch(config)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.save_pretrained(tmp_path)
    opened, built = MCLModel.from_pretrained(tmp_path), model.mcl.eval()
    pixels = torch.rand(1, 3, 96, 160)  # not the training side
    with torch.no_grad():
        found, expected = opened(pixels), built(pixels)
    for stride, a, b in zip((4, 8, 16, 32), found.feature_maps, expected.feature_maps, strict=True):
        assert a.shape == (1, 8, 96 // stride, 160 // stride)
        assert torch.equal(a, b)  # buffers too: Swin's are not in the checkpoint
    backbone_maps = MCLBackbone.from_pretrained(tmp_path)(pixels).feature_maps
    assert [m.shape[1] for m in backbone_maps] == MCLBackbone(config).channels


def test_fixed_size_backbone_is_refused_by_name() -> None:
    model = MCLModel(tiny_config(backbone="swinv2_cr_tiny_ns_224", backbone_kwargs={}))
    with pytest.raises(ValueError, match=r"'swinv2_cr_tiny_ns_224' refuses inputs of 64 x 64 px"):
        model(torch.rand(1, 3, 64, 64))


def test_chosen_features_of_the_backbone() -> None:
    config = tiny_config(out_features=["stem", "stage3"])
    backbone = MCLBackbone(config)
    maps = backbone(torch.rand(1, 3, 64, 64)).feature_maps
    assert [m.shape[-1] for m in maps] == [32, 4] and backbone.channels == [m.shape[1] for m in maps]


def test_full_view_as_a_box_is_the_region_of_pretraining() -> None:
    model = MCLModel(tiny_config()).double().eval()
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    box = torch.tensor([[0.0, 0, 64, 64]], dtype=torch.float64)
    with torch.no_grad():
        from_box = model.embed_regions(pixels, [box, box])
        layout = MontageLayout(2, (1,), (2,))
        from_training = model.embed_tiles(pixels, layout)[0]
    assert torch.allclose(from_box, from_training, atol=1e-12)


@pytest.mark.parametrize(("ratio", "level"), [(2, 2), (4, 1), (8, 0)])
def test_a_tile_as_a_box_is_the_region_of_pretraining(ratio: int, level: int) -> None:
    model = MCLModel(tiny_config()).double().eval()
    pixels = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    side = 64 / ratio
    box = torch.tensor([[side, 0, 2 * side, side]], dtype=torch.float64)  # second tile of the first row
    with torch.no_grad():
        tiles = model.region_head(model(pixels).feature_maps[level])
        assert torch.allclose(model.embed_regions(pixels, [box])[0], tiles[1], atol=1e-12)


def test_boxes_keep_their_order_over_levels_and_images() -> None:
    model = MCLModel(tiny_config()).eval()
    pixels = torch.rand(2, 3, 64, 96)
    boxes = [torch.tensor([[0.0, 0, 64, 64], [3, 3, 11, 11]]), torch.tensor([[10.0, 10, 42, 40]])]
    with torch.no_grad():
        together = model.embed_regions(pixels, boxes)
        alone = torch.cat(
            [
                model.embed_regions(pixels[i : i + 1], [box[None]])
                for i, j in ((0, 0), (0, 1), (1, 0))
                for box in [boxes[i][j]]
            ]
        )
    assert torch.allclose(together, alone, atol=1e-5)
    assert model.embed_regions(pixels, [torch.zeros(0, 4)] * 2).shape == (0, 8)
    with pytest.raises(ValueError, match="boxes of 1 images for 2"):
        model.embed_regions(pixels, boxes[:1])
    for useless in ([10.0, 20.0, 5.0, 30.0], [64.0, 64.0, 70.0, 70.0]):
        with pytest.raises(ValueError, match="has no area within an image of 64 x 64 px"):
            model.embed_regions(torch.rand(1, 3, 64, 64), [torch.tensor([useless])])
    with pytest.raises(ValueError, match=r"\(n, 4\) tensor"):
        model.embed_regions(pixels, [boxes[0], torch.zeros(5)])


def test_sizes_of_the_published_resnet50() -> None:
    with torch.device("meta"):
        model = MCLForPreTraining(MCLConfig())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.mcl.named_children()}
    assert count == {"backbone": 23_508_032, "fpn": 3_346_432, "region_head": 3_416_320}
    assert sum(p.numel() for p in model.predictors.parameters()) == 4_219_904
