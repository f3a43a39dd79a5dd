"""The sampler of anchors and proposals, fixed anchors, and RoIAlign from the level that fits."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from mcl_hf.detectors.proposals import FixedStrideAnchors, GeneratorSampler
from mcl_hf.detectors.roi_heads import PyramidRoIAlign


@pytest.mark.parametrize(("positives", "negatives"), [(40, 100), (3, 100), (40, 5), (0, 100), (40, 0)])
def test_the_sampler_draws_what_torchvisions_draws(positives: int, negatives: int) -> None:
    """The same numbers of each kind; from the same state the very same ones."""
    matches = [torch.cat([torch.ones(positives), torch.zeros(negatives), -torch.ones(7)])]
    torch.manual_seed(3)
    expected = BalancedPositiveNegativeSampler(32, 0.5)(matches)
    sampler = GeneratorSampler(32, 0.5)
    sampler.generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    found = sampler(matches)
    for mine, reference in zip(found, expected, strict=True):
        assert torch.equal(mine[0], reference[0])


def test_anchors_are_torchvisions_where_sizes_divide_and_fixed_elsewhere() -> None:
    sizes, ratios, strides = ((32,), (64,)), (0.5, 1.0, 2.0), (32, 64)
    ours, theirs = FixedStrideAnchors(sizes, ratios, strides), AnchorGenerator(sizes, (ratios,) * 2)

    def anchors_of(generator: torch.nn.Module, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        maps = [torch.zeros(1, 1, -(-height // s), -(-width // s), dtype=dtype) for s in strides]
        return generator(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)[0]

    assert torch.equal(anchors_of(ours, 128, 192, torch.float32), anchors_of(theirs, 128, 192, torch.float32))
    coarse = anchors_of(ours, 160, 160, torch.float32)[5 * 5 * 3 :].view(3, 3, 3, 4)  # (row, column, ratio, box)
    centres = (coarse[..., 0] + coarse[..., 2]) / 2
    assert torch.equal(centres[0, :, 1], torch.tensor([0.0, 64.0, 128.0]))  # torchvision: 0, 53, 106
    half = anchors_of(ours, 160, 160, torch.bfloat16)
    assert half.dtype == torch.float32 and torch.equal(half, anchors_of(ours, 160, 160, torch.float32))


def test_regions_are_read_from_the_level_that_fits() -> None:
    pyramid = [torch.randn(2, 4, 448 // stride, 448 // stride) for stride in (4, 8, 16, 32)]
    pooler = PyramidRoIAlign(7)
    sides = (56.0, 100.0, 112.0, 224.0, 447.0, 448.0)
    levels = (0, 0, 1, 2, 2, 3)
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in sides])
    found = pooler(pyramid, [boxes[:2], boxes[2:]])
    for index, (box, level) in enumerate(zip(boxes, levels, strict=True)):
        roi = torch.cat([torch.tensor([float(index >= 2)]), box])[None]
        expected = roi_align(pyramid[level], roi, 7, spatial_scale=1 / (4 * 2**level), sampling_ratio=0, aligned=True)
        assert torch.equal(found[index], expected[0])
    assert pooler(pyramid, [boxes[:0], boxes[:0]]).shape == (0, 4, 7, 7)
    half = pooler([level.bfloat16() for level in pyramid], [boxes[:2], boxes[2:]])
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), found, atol=0.1)
    small = PyramidRoIAlign(7, canonical_size=64)(pyramid, [boxes[:1], boxes[:0]])  # 56 px is now nearly 64 px
    roi = torch.cat([torch.zeros(1), boxes[0]])[None]
    assert torch.equal(small, roi_align(pyramid[1], roi, 7, spatial_scale=1 / 8, sampling_ratio=0, aligned=True))
