"""Threads that take batches from queues in turn, as TensorFlow's `SharedBatchScheduler` does."""

import collections
import math
import threading
import time
from collections.abc import Callable

from export.server.batch_queue import BatchQueue, Task
from export.server.batching_parameters import BatchingParameters


class BatchScheduler:
    """The threads, and the queues they go round. Thread-safe: one lock guards all queues, and is
    never held while a batch runs.

    Args:
      num_threads: batches that run at a time.
      name: of the threads.
    """

    def __init__(self, num_threads: int, name: str):
        self._changed = threading.Condition()
        self._queues = collections.deque()  # the next to be asked comes first
        self._stopped = False
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True).start()

    def add(
        self, parameters: BatchingParameters, process: Callable[[list[Task]], None]
    ) -> BatchQueue:
        """A new queue.

        Args:
          parameters: of its batches.
          process: answers the tasks of a batch, in one of the threads; must not raise.
        """
        added = BatchQueue(parameters, process, self._changed)
        with self._changed:
            self._queues.append(added)
        return added

    def remove(self, removed: BatchQueue) -> list[Task]:
        """Takes a queue away.

        Returns:
          The tasks that wait in it; they are the caller's to answer.
        """
        with self._changed:
            self._queues.remove(removed)
            return removed.close()

    def stop(self) -> None:
        """Ends the threads, each after the batch it runs. What waits in a queue stays there."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while self._work_once():
            pass  # a frame of its own, or the last batch would be kept until the next

    def _work_once(self) -> bool:
        with self._changed:
            while (found := self._due()) is None:
                if self._stopped:
                    return False
                soonest = min((each.due() for each in self._queues), default=math.inf)
                self._changed.wait(min(soonest - time.monotonic(), threading.TIMEOUT_MAX))
            tasks = found.take()
            self._changed.notify()  # another thread minds the queues now
        found.process(tasks)
        return True

    def _due(self) -> BatchQueue | None:
        now = time.monotonic()
        for _ in range(len(self._queues)):
            found = self._queues[0]
            self._queues.rotate(-1)
            if found.due() <= now:
                return found
        return None
