"""The order of samples: a full permutation per epoch, the same whichever way it is asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_hf.data import SampleOrder
from mcl_hf.errors import InputError


@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_each_epoch_is_a_permutation(num_samples: int, seed: int, epoch: int) -> None:
    order = SampleOrder(num_samples, seed)
    indices = order.index(np.arange(num_samples) + epoch * num_samples)
    assert indices.dtype == np.int64
    assert np.array_equal(np.sort(indices), np.arange(num_samples))


def test_one_position_equals_its_place_in_an_array_across_epochs() -> None:
    order = SampleOrder(37, seed=5)
    positions = np.arange(30, 90)  # crosses two epoch borders
    assert [order.index(int(p)) for p in positions] == order.index(positions).tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    assert SampleOrder(1000, seed=7).index(np.arange(8)).tolist() == [24, 244, 432, 442, 760, 32, 365, 530]


def test_epochs_and_seeds_differ() -> None:
    order, other = SampleOrder(500, seed=0), SampleOrder(500, seed=1)
    first, second, elsewhere = (
        order.index(np.arange(500)),
        order.index(500 + np.arange(500)),
        other.index(np.arange(500)),
    )
    for one, two in ((first, second), (first, elsewhere)):
        assert (one == two).sum() < 10  # about one coincidence is expected


@pytest.mark.parametrize("num_samples", [2, 5, 64, 100])
def test_every_index_comes_equally_often_to_every_place(num_samples: int) -> None:
    epochs = 400
    indices = SampleOrder(num_samples, seed=3).index(np.arange(epochs * num_samples)).reshape(epochs, num_samples)
    expected = epochs / num_samples
    counts = np.stack([np.bincount(indices[:, place], minlength=num_samples) for place in range(num_samples)])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (num_samples - 1) ** 2
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees) + 5


def test_positions_of_a_billion_images_need_no_array() -> None:
    order = SampleOrder(10**9, seed=1)
    positions = np.random.default_rng(0).integers(0, 10**12, 20_000)
    indices = order.index(positions)
    assert indices.min() >= 0
    assert indices.max() < 10**9
    assert abs(indices.mean() / 10**9 - 0.5) < 0.02


def test_substitutes_depend_on_position_and_salt() -> None:
    order = SampleOrder(10_000, seed=1)
    found = {order.substitute(position, salt) for position in range(50) for salt in (1, 2)}
    assert len(found) > 95
    assert all(0 <= index < 10_000 for index in found)
    assert order.substitute(3, 1) == SampleOrder(10_000, seed=1).substitute(3, 1)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        SampleOrder(0, seed=0)
