import os
import signal

import pytest

from trainers.args import Stopped
from trainers.stop_signals import StopSignals, stopping_at_once
from trainers.strategy import make_strategy


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_first_is_noted_and_the_second_is_as_ever(name, capfd):
    number, former = signal.Signals[name], []
    strategy = make_strategy()
    capfd.readouterr()  # TensorFlow may complain of missing GPUs
    before = signal.signal(number, lambda *_: former.append(1))
    try:
        with StopSignals(strategy) as signals:
            assert signals.anywhere() is None
            os.kill(os.getpid(), number)
            assert signals.anywhere() == name
            assert not former
            os.kill(os.getpid(), number)
            assert former == [1]
        os.kill(os.getpid(), number)
        assert former == [1, 1]
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err == f"{name}: stopping after this step; again: at once\n"


def test_leaves_what_it_found():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals(make_strategy()):
        pass
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_at_once_and_resumable(name):
    before = signal.getsignal(signal.SIGTERM)
    # What a shell starts in the background has Ctrl-C ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Stopped, match="--resume continues"), stopping_at_once():
            os.kill(os.getpid(), signal.Signals[name])
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGTERM) is before
