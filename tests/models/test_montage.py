import pytest
import torch

from mcl_hf.models import MontageLayout, assemble_batch, assemble_montage, draw_montages
from mcl_hf.models.montage import check_montages

LAYOUT = MontageLayout.of(16, (1, 2, 4, 8), (1, 1 / 4, 1 / 16, 1 / 32))


def test_layout_of_the_paper() -> None:
    assert LAYOUT.counts == (16, 4, 1, 1)
    assert LAYOUT.cells == (16, 16, 16, 64)
    assert MontageLayout.of(128, (1, 2, 4, 8), (1, 1 / 4, 1 / 16, 1 / 32)).counts == (128, 32, 8, 4)
    assert [(s.start, s.stop) for s in LAYOUT.slices] == [(0, 16), (16, 20), (20, 21), (21, 22)]


def test_drawn_montages_spread_images_evenly() -> None:
    for montage, cells in zip(draw_montages(LAYOUT, torch.Generator().manual_seed(0)), LAYOUT.cells[1:], strict=True):
        counts = torch.bincount(montage, minlength=16)
        assert montage.shape == (cells,) and counts.max() - counts.min() <= 1


def test_draws_follow_the_generator() -> None:
    first, second = (draw_montages(LAYOUT, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_each_cell_shows_its_image() -> None:
    tiles = torch.arange(5 * 3 * 2 * 2).view(5, 3, 2, 2)
    cells = torch.tensor([4, 0, 3, 1, 2, 2, 0, 4])  # two montages of 2 x 2
    montages = assemble_montage(tiles, cells, ratio=2)
    assert montages.shape == (2, 3, 4, 4)
    for index, image in enumerate(cells.tolist()):
        montage, row, column = index // 4, index % 4 // 2, index % 2
        shown = montages[montage, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(shown, tiles[image])


def test_batch_is_level_0_then_montages() -> None:
    views = [torch.rand(16, 3, 64 // r, 64 // r) for r in (1, 2, 4, 8)]
    montages = draw_montages(LAYOUT)
    batch = assemble_batch(views, montages, (1, 2, 4, 8))
    assert batch.shape == (22, 3, 64, 64)
    assert torch.equal(batch[:16], views[0])
    assert torch.equal(batch[21, :, :8, :8], views[3][montages[2][0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:2], "of 3 levels, got 2"),
        (lambda m: [m[0][:-1], *m[1:]], "16 int64 image indices"),
        (lambda m: [m[0].int(), *m[1:]], "torch.int32"),
        (lambda m: [m[0].clone().fill_(16), *m[1:]], "images 16 to 16"),
        (lambda m: [m[0].clone().fill_(-1), *m[1:]], "images -1 to -1"),
    ],
)
def test_montages_that_do_not_fit_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_montages(change(draw_montages(LAYOUT)), LAYOUT)
