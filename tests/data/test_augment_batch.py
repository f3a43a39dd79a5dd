"""Views finished in a batch on a device are those that a worker would have finished, within one gray level."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import torch

from mcl_hf.data import ViewBatch, ViewLoader, draw_views, open_source, side_recipes
from mcl_hf.data.views.finish import augment_batch, collect_draws
from mcl_hf.data.views.render import finish_direct
from mcl_hf.errors import InputError

SMALL = {"view_size": 64, "ratios": (1, 2, 4), "batch_size": 6, "seed": 3}


@pytest.fixture(scope="module")
def source():
    return open_source("photos", group_column="source_image")


def take(loader: ViewLoader, count: int) -> list[ViewBatch]:
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("num_channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "scale"), [(40, 1.0), (13, 0.25), (3, 1.0)])
def test_a_batch_equals_the_same_draws_one_by_one(num_channels: int, size: int, scale: float) -> None:
    draws = [draw for position in range(12) for draw in draw_views(80, 60, side_recipes(2, 2), 0, position)]
    assert {draw.solarise for draw in draws} == {draw.flip for draw in draws} == {True, False}
    smooth = np.random.default_rng(0).integers(0, 256, (len(draws), num_channels, size, size), dtype=np.uint8)
    views = torch.from_numpy(smooth)
    found = augment_batch(views, collect_draws(draws, num_channels, scale)).numpy().astype(int)
    exact = 0
    for one, view, draw in zip(found, smooth, draws, strict=True):
        expected = finish_direct(view, draw, scale).astype(int)
        # a level apart before solarising at 127 and 128 is none or one apart after it
        assert np.abs(one - expected).max() <= 1
        exact += np.array_equal(one, expected)
    assert exact > len(draws) * 0.8


def test_nothing_drawn_changes_nothing() -> None:
    plain = [
        dataclasses.replace(draw, flip=False, jitter_order=(), grayscale=False, blur_sigma_px=0.0, solarise=False)
        for draw in draw_views(80, 60, side_recipes(2, 2), 0, 0)
    ]
    views = torch.randint(0, 256, (4, 3, 9, 9), dtype=torch.uint8)
    assert torch.equal(augment_batch(views, collect_draws(plain, 3, 1.0)), views)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("sides", [1, 2])
def test_batches_of_the_loader_are_those_of_the_workers(source, num_workers: int, sides: int) -> None:
    on_device = ViewLoader(source, **SMALL, sides=sides, augment_on="device", num_workers=num_workers, start_step=7)
    for found, expected in zip(take(on_device, 2), take(ViewLoader(source, **SMALL, sides=sides), 9)[7:], strict=True):
        assert found.draws_a is not None and (found.draws_b is None) == (sides == 1)
        assert not torch.equal(found.views_a[0], expected.views_a[0])
        done = found.augmented(torch.Tensor.clone)
        assert (
            done.draws_a is None
            and done.augmented(torch.Tensor.clone) is done
            and (done.views_b is None) == (sides == 1)
        )
        assert torch.equal(done.sample_ids, expected.sample_ids)
        for one, other in zip(
            done.views_a + (done.views_b or []), expected.views_a + (expected.views_b or []), strict=True
        ):
            assert one.dtype == torch.uint8 and (one.int() - other.int()).abs().max() <= 1


def test_a_batch_with_its_draws_travels(source) -> None:
    (batch,) = take(ViewLoader(source, **SMALL, augment_on="device"), 1)
    again = pickle.loads(pickle.dumps(batch)).augmented(torch.Tensor.clone)
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.views_a, batch.augmented(torch.Tensor.clone).views_a, strict=True)
    )
    (spawned,) = take(ViewLoader(source, **SMALL, augment_on="device", num_workers=1, start_method="spawn"), 1)
    assert torch.equal(spawned.augmented(torch.Tensor.clone).views_b[1], again.views_b[1])


def test_published_views_are_not_for_the_device(source) -> None:
    with pytest.raises(InputError, match="Pillow's"):
        ViewLoader(source, **SMALL, augment_on="device", view_rendering="published")
