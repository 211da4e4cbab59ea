"""StopSignals: SIGTERM and SIGINT end a run between two steps."""

import os
import signal
import threading


class StopSignals:
    """Within it, the first SIGTERM or SIGINT (Ctrl-C) is only noted; the second ends the process.

    Outside the main thread, where Python hands out no signals, it does nothing.

    Attributes:
      received: name of the signal, or None.
    """

    def __init__(self):
        self.received: str | None = None
        self._former = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.received = signal.Signals(number).name
        self.__exit__()
        # Not by print, which may be what was interrupted.
        os.write(2, f"{self.received}: stopping after this step; again: at once\n".encode())

    def __exit__(self, *_):
        while self._former:
            signal.signal(*self._former.popitem())
