import pytest
import torch

from mcl_hf import FeaturePyramid, RegionHead
from mcl_hf.models.region_head import cut_into_regions


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_regions_are_cut_row_major(memory_format: torch.memory_format) -> None:
    maps = torch.rand(2, 3, 4, 6).contiguous(memory_format=memory_format)
    regions = cut_into_regions(maps, 2)
    assert regions.shape == (2 * 2 * 3, 3, 2, 2)
    assert torch.equal(regions[7], maps[1, :, 0:2, 2:4])  # image 1, row 0, column 1
    assert torch.equal(regions[3 + 2], maps[0, :, 2:4, 4:6])
    with pytest.raises(ValueError, match="does not divide"):
        cut_into_regions(maps, 4)


def test_nothing_leaks_between_regions() -> None:
    head = RegionHead(channels=4, region_size=2, num_convs=2, hidden_dim=8, embedding_dim=4).eval()
    maps = torch.rand(1, 4, 4, 4)
    changed = maps.clone()
    changed[:, :, :2, :2] += 1
    with torch.no_grad():
        difference = (head(maps) - head(changed)).abs().sum(dim=1)
    assert difference[0] > 0 and torch.equal(difference[1:], torch.zeros(3))


def test_reading_parts_equals_reading_all_in_eval_mode() -> None:
    fpn = FeaturePyramid([4, 8, 12, 16], channels=6).eval().double()
    maps = [torch.rand(7, 4 * (i + 1), 32 >> i, 32 >> i, dtype=torch.float64) for i in range(4)]
    reads = {3: slice(0, 4), 2: slice(4, 5), 1: slice(5, 6), 0: slice(6, 7)}
    with torch.no_grad():
        whole, parts = fpn(maps), fpn(maps, reads)
    for level, images in reads.items():
        assert torch.allclose(parts[level], whole[level][images], atol=1e-12)


def test_levels_finer_than_all_readers_are_not_computed() -> None:
    fpn = FeaturePyramid([4, 8], channels=6)
    maps = [torch.rand(2, 4, 4, 4), torch.rand(2, 8, 2, 2)]
    pyramid = fpn(maps, {1: slice(0, 2)})
    assert pyramid[0] is None and pyramid[1].shape == (2, 6, 2, 2)
    assert fpn.lateral[0].bn.num_batches_tracked == 0
    with pytest.raises(ValueError, match="built for 2 maps"):
        fpn(maps[:1])


def test_maps_of_odd_size_meet() -> None:
    fpn = FeaturePyramid([4, 8], channels=6)
    assert [p.shape[-2:] for p in fpn([torch.rand(1, 4, 5, 7), torch.rand(1, 8, 3, 4)])] == [(5, 7), (3, 4)]
