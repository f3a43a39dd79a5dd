"""The order of streams is a permutation, computed, and nearly sequential for whoever reads a lane."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_hf.data import StreamOrder
from mcl_hf.errors import InputError


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    seed=st.integers(0, 2**40),
    images_per_step=st.integers(1, 64),
    block_rows=st.integers(1, 20),
    chunk=st.integers(1, 9),
    epoch=st.integers(0, 1000),
)
def test_every_epoch_takes_every_row_once(
    rows: list[int], seed: int, images_per_step: int, block_rows: int, chunk: int, epoch: int
) -> None:
    order = StreamOrder(rows, seed, images_per_step, block_rows, chunk)
    n = order.num_samples
    indices = order.index(np.arange(epoch * n, (epoch + 1) * n))
    assert sorted(indices.tolist()) == list(range(n))
    assert [order.index(int(p)) for p in range(epoch * n, epoch * n + min(n, 5))] == indices[:5].tolist()[: min(n, 5)]
    shards, places = order.shard_and_row(indices)
    assert all(0 <= place < rows[shard] for shard, place in zip(shards.tolist(), places.tolist(), strict=True))
    for salt in range(1, 8):
        assert 0 <= order.substitute(epoch * n, salt) < n


def test_epochs_and_seeds_differ() -> None:
    rows = [100] * 20
    one, other = StreamOrder(rows, 1, 64), StreamOrder(rows, 2, 64)
    first, second = one.index(np.arange(2000)), one.index(np.arange(2000, 4000))
    assert (first != second).mean() > 0.9
    assert (first != other.index(np.arange(2000))).mean() > 0.9


def test_a_worker_returns_to_few_blocks_of_rows() -> None:
    """Of 8, 4, 2 or 1 workers each reads every stretch of 128 rows about once, though steps mix many shards."""
    order = StreamOrder([1000] * 400, seed=3, images_per_step=256)
    per_step = order.index(np.arange(256 * 400)).reshape(400, 256)
    assert len(np.unique(per_step[7] // 1000)) > 10
    for workers in (1, 2, 4, 8):
        for worker in (0, workers - 1):
            seen = per_step[worker::workers].reshape(-1)
            stretches = len(np.unique(seen // 128))
            assert stretches * 128 < 2.5 * len(seen)
    # with a number of workers that does not divide eight, they share lanes: more reading, the same images
    seen = per_step[0::3].reshape(-1)
    assert len(np.unique(seen // 128)) * 128 > 2.5 * len(seen)


def test_stand_ins_come_from_what_has_been_read() -> None:
    order = StreamOrder([1000] * 50, seed=3, images_per_step=64)
    own = int(order.index(12345))
    near = [order.substitute(12345, salt) for salt in (1, 2, 3)]
    assert all(abs(index - own) <= 2 * order.block_rows or index % 1000 < 128 for index in near)
    assert near == [order.substitute(12345, salt) for salt in (1, 2, 3)]
    assert len({order.substitute(12345, salt) // 1000 for salt in range(4, 20)}) > 5


def test_a_billion_images_cost_little() -> None:
    tracemalloc.start()
    order = StreamOrder(np.full(100_000, 10_000), seed=0, images_per_step=1024 * 32)
    order.index(np.arange(7_500_000_000, 7_500_000_032))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_no_rows() -> None:
    with pytest.raises(InputError, match="no images"):
        StreamOrder([0, 0], 0, 8)
