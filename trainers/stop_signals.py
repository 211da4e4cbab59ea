"""StopSignals: SIGTERM and SIGINT end a run between two steps, a search or sweep at once."""

import contextlib
import os
import signal
import threading

import numpy as np
import tensorflow as tf

from trainers.args import Stopped
from trainers.strategy import exchange


class StopSignals:
    """Within it, the first SIGTERM or SIGINT (Ctrl-C) is only noted; the second ends the process.

    Outside the main thread, where Python hands out no signals, it does nothing.

    Args:
      strategy: of the run.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy, self._received = strategy, 0
        self._former = {}

    def anywhere(self) -> str | None:
        """Name of a signal that any of the workers has received; a call of all of them."""
        number = exchange(self._strategy, np.int32(self._received)).max()
        return signal.Signals(number).name if number else None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self._received = number
        self.__exit__()
        # Not by print, which may be what was interrupted.
        name = signal.Signals(number).name
        os.write(2, f"{name}: stopping after this step; again: at once\n".encode())

    def __exit__(self, *_):
        while self._former:
            signal.signal(*self._former.popitem())


@contextlib.contextmanager
def stopping_at_once():
    """Within it, SIGTERM and Ctrl-C end in `Stopped`, for what is resumable at any moment."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: in order
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped("stopped; --resume continues") from error
    finally:
        signal.signal(signal.SIGTERM, former)
