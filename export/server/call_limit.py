"""How many gRPC calls of a kind are at work at a time."""

import threading
from concurrent import futures

import grpc

from export.server import errors

_REFUSERS = 4  # threads beyond the limit, to refuse what is too much without delay


class CallLimit:
    """A context for each call; entering it raises ServingError where they are too many.

    Args:
      calls: that may be at work.

    Attributes:
      threads: that such calls run in, and no others: what waits in them is in no other kind's way.
    """

    def __init__(self, calls: int):
        self._slots = threading.BoundedSemaphore(calls)
        self.threads = futures.ThreadPoolExecutor(calls + _REFUSERS, thread_name_prefix="grpc")

    def __enter__(self):
        if not self._slots.acquire(blocking=False):
            exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise errors.ServingError(exhausted, "Server Threadpool Exhausted")

    def __exit__(self, *_):
        self._slots.release()
