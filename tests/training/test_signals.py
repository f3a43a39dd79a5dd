import os
import signal

import pytest

from mcl_hf.training.signals import StopRequest, interrupts_ignored


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


def test_handlers_come_back_after_the_run():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest().listening(), interrupts_ignored():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
