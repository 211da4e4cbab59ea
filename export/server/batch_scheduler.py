"""Threads that take batches from queues in turn, as TensorFlow's `SharedBatchScheduler` does."""

import collections
import math
import threading
import time

from export.server import errors
from export.server.batch_queue import BatchQueue, Task


class BatchScheduler:
    """The threads, and the queues they go round: those in which tasks wait. Thread-safe: one lock
    guards all queues, and is never held while a batch runs.

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

    def schedule(self, queue: BatchQueue, task: Task) -> int:
        """Puts a task into a queue.

        Returns:
          How many answers there will be.

        Raises:
          ServingError: CANCELLED, the queue is closed or the threads end; what `BatchQueue.add`
            raises.
        """
        with self._changed:
            if queue.closed or self._stopped:
                raise errors.session_closed()
            new = not queue
            count = queue.add(task)
            if new:
                self._queues.append(queue)
            self._changed.notify()
        return count

    def close(self, queue: BatchQueue) -> list[Task]:
        """Closes a queue.

        Returns:
          The tasks that wait in it; they are the caller's to answer.
        """
        with self._changed:
            if queue:
                self._queues.remove(queue)
            return queue.close()

    def stop(self) -> None:
        """Takes no more tasks, and ends the threads once those that wait are answered."""
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
            if not found:
                self._queues.pop()  # where it has just gone
            self._changed.notify()  # another thread minds the queues now
        found.process(tasks)
        return True

    def _due(self) -> BatchQueue | None:
        """A queue with a batch to run; it is the last to be asked again."""
        now = time.monotonic()
        for _ in range(len(self._queues)):
            found = self._queues[0]
            self._queues.rotate(-1)
            if self._stopped or found.due() <= now:
                return found
        return None
