import contextlib
import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from mcl_hf.data.step_loader import StepLoader
from mcl_hf.engine.signals import StopRequest, interrupts_ignored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_asks_a_second_acts(number):
    stop = StopRequest()
    acted = []
    before = signal.signal(number, lambda *_: acted.append(True))
    try:
        with stop.listening():
            os.kill(os.getpid(), number)
            assert (stop.name, acted) == (signal.Signals(number).name, [])
            os.kill(os.getpid(), number)
            assert acted == [True]
    finally:
        signal.signal(number, before)


def test_a_terminal_that_closes_asks_however_often_it_says_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        stop = StopRequest()
        with stop.listening():
            for _ in range(2):  # by the shell, and by the system
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.name == "SIGHUP"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by nohup
        stop = StopRequest()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.name is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_the_run():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest().listening(), interrupts_ignored():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


class Steps(torch.utils.data.Dataset):
    def __getitem__(self, step):
        return SimpleNamespace(step=step, sample_ids=torch.tensor([step]), broken=[])


def test_a_worker_leaves_the_first_sigterm_to_the_training_process_and_ends_at_the_second():
    earlier = set(multiprocessing.active_children())
    batches = iter(StepLoader(Steps(), num_images=100, num_workers=1, start_method="fork"))
    assert next(batches).step == 0
    [worker] = set(multiprocessing.active_children()) - earlier
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert [next(batches).step for _ in range(8)] == list(range(1, 9))  # more than were ready
    assert worker.is_alive()
    with contextlib.suppress(RuntimeError):  # torch's word that a worker is gone comes at any moment
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(timeout=30)
    worker.join(timeout=30)
    assert worker.exitcode == -signal.SIGTERM
