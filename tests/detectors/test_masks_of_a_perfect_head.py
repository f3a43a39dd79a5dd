"""Masks at their best: a head that predicts its own targets, pasted into the picture, against what is annotated."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcl_hf.detectors.roi_heads import mask_targets
from mcl_hf.models.mask_paste import paste_masks

SIZE = 200


def ellipse(side: float, draws: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask `(SIZE, SIZE)` of an ellipse anywhere between pixels, and its box `(1, 4)`."""
    x, y = draws.uniform(70, 130, 2)
    half_sides = side / 2 * np.array([draws.uniform(0.7, 1.0), 1.0])
    a, b = half_sides if draws.random() < 0.5 else half_sides[::-1]
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    mask = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1
    return torch.from_numpy(mask), torch.tensor([[x - a, y - b, x + a, y + b]], dtype=torch.float32)


def pasted_by_a_perfect_head(mask: torch.Tensor, box: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Trained on the picture `scale` times as large."""
    large = F.interpolate(mask[None, None].float(), scale_factor=scale, mode="nearest")[0].to(torch.uint8)
    target = mask_targets(large, box * (large.shape[-1] / SIZE), torch.zeros(1, dtype=torch.int64), 28)
    return paste_masks(target.float(), box, (SIZE, SIZE))[0]


def iou(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one & other).sum() / (one | other).sum()).item()


@pytest.mark.parametrize(("side", "least"), [(8, 0.999), (16, 0.999), (32, 0.99), (64, 0.97)])
def test_a_perfect_head_gives_the_annotated_mask_where_it_is(side, least):
    draws = np.random.default_rng(0)
    ious, shifts = [], []
    for _ in range(40):
        mask, box = ellipse(side, draws)
        found = pasted_by_a_perfect_head(mask, box)
        ious.append(iou(found, mask))
        centres = [part.nonzero().float().mean(dim=0) for part in (found, mask)]
        shifts.append(centres[0] - centres[1])
    assert np.mean(ious) >= least
    assert torch.stack(shifts).mean(dim=0).abs().max() < 0.02  # px; half a pixel without alignment


@pytest.mark.parametrize(("side", "least"), [(8, 0.88), (16, 0.94), (32, 0.98)])
def test_mask_ap_has_room_at_the_scale_of_coco(side, least):
    draws = np.random.default_rng(0)
    ious = np.array([iou(pasted_by_a_perfect_head(*pair, 800 / 480), pair[0]) for pair in
                     (ellipse(side, draws) for _ in range(150))])  # fmt: skip
    assert np.mean([(ious >= bound).mean() for bound in np.arange(0.5, 0.96, 0.05)]) >= least


def test_pasting_near_the_boxes_is_pasting_everywhere(monkeypatch):
    """The CPU computes what is near a box, devices the whole picture; also of boxes at and beyond its sides."""
    draws = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, generator=draws) * 60 - 10
    boxes = torch.cat([corners, corners + torch.rand(20, 2, generator=draws) * 40], dim=1)
    boxes[0, 2:] = boxes[0, :2]  # without area
    masks = torch.rand(20, 28, 28, generator=draws)
    near = paste_masks(masks, boxes, (50, 60), threshold=0.3)
    monkeypatch.setattr("mcl_hf.models.mask_paste._near", lambda box, cells, size: ((0, size[0]), (0, size[1])))
    assert torch.equal(near, paste_masks(masks, boxes, (50, 60), threshold=0.3))
    assert near.any(dim=(1, 2)).sum() > 15 and paste_masks(masks[:0], boxes[:0], (5, 6)).shape == (0, 5, 6)
