"""Of several processes, the one that notices first tells the others before it ends, and takes the store along."""

import threading
import time

import pytest
import torch.distributed as dist

from mcl_hf.engine import lifeline


@pytest.fixture
def store(monkeypatch):
    """A store that three processes would share, one of which (rank 1) has fallen silent."""
    shared = dist.HashStore()
    shared.set("beat/1", "far-away 7")
    monkeypatch.setattr(lifeline, "_store", lambda: shared)
    for name, seconds in (("BEAT", 0.05), ("SILENCE", 1000.0), ("SILENCE_AFTER_ERROR", 0.5), ("TELLING", 5.0)):
        monkeypatch.setattr(lifeline, f"{name}_SECONDS", seconds)
    return shared


def end_of(watched, found, body):
    try:
        with watched.watching():
            body(watched)
    except Exception as error:
        found[watched.rank] = (error, time.monotonic())


def broken(watched):
    raise RuntimeError("[gloo] Connection closed by peer")


def broken_when_told(watched):
    limit = time.monotonic() + 10
    while watched._finding is None and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.3)
    raise RuntimeError("[gloo] Connection closed by peer")


def failing(watched):
    raise ValueError("lost\nkeys")


def run_both(first):
    found = {}
    threads = [
        threading.Thread(target=end_of, args=(lifeline.Lifeline(rank, 3), found, body))
        for rank, body in ((0, first), (2, broken_when_told))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    return found


def test_whoever_notices_first_tells_the_others_the_name(store):
    found = run_both(broken)  # rank 2 alone would wait for 1000 s
    for rank in (0, 2):
        assert isinstance(found[rank][0], lifeline.RankLostError)
        assert "rank 1 on far-away has given no sign of life" in str(found[rank][0])
        assert f"rank {rank} ends with it" in str(found[rank][0])
    assert store.get("beat/2").startswith(b"lost: rank 1 on far-away")


def test_a_process_that_fails_stays_until_the_others_know_why(store, monkeypatch):
    monkeypatch.setattr(lifeline, "TELLING_SECONDS", 1.0)  # rank 1 will never know
    found = run_both(failing)
    assert isinstance(found[0][0], ValueError)
    assert "rank 0" in str(found[2][0]) and "failed: ValueError: lost keys" in str(found[2][0])


def test_who_has_failed_leaves_as_soon_as_all_others_know(store):
    store.set("beat/1", "lost: rank 0 failed")
    found, began = {}, time.monotonic()
    store.set("beat/2", "failed: of its own")
    end_of(lifeline.Lifeline(0, 3), found, failing)
    assert isinstance(found[0][0], ValueError)
    assert found[0][1] - began < 2.0
