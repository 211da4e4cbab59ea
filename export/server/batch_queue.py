"""Tasks of one kind that wait to be run together, as in the queues of `SharedBatchScheduler`."""

import collections
import dataclasses
import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np

from export.server import errors
from export.server.batching_parameters import BatchingParameters


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows of a request that go into one batch.

    Attributes:
      inputs: name -> array, the first dimension of all being the same.
      size: that dimension.
      deadline: when its client stops waiting, on the clock of `time.monotonic`.
      answers: where the results go, in any order, one for each part of a request.
      part: which of them this is.
      begun: when it came, on the same clock.
    """

    inputs: Mapping[str, np.ndarray]
    size: int
    deadline: float
    answers: queue.SimpleQueue = dataclasses.field(default_factory=queue.SimpleQueue)
    part: int = 0
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def split(self, sizes: Sequence[int]) -> list["Task"]:
        """Parts with these numbers of rows."""
        parts, start = [], 0
        for part, size in enumerate(sizes):
            inputs = {name: value[start : start + size] for name, value in self.inputs.items()}
            parts.append(dataclasses.replace(self, inputs=inputs, size=size, part=part))
            start += size
        return parts


@dataclasses.dataclass
class _Batch:
    """Tasks, their rows, and when the first came."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    size: int = 0
    begun: float = math.inf

    def add(self, task: Task) -> None:
        if not self.tasks:
            self.begun = time.monotonic()
        self.tasks.append(task)
        self.size += task.size


class BatchQueue:
    """Tasks in batches, the last of which is open to more. A `BatchScheduler` holds its lock.

    Args:
      parameters: of its batches.
      process: answers the tasks of a batch, in a thread of the scheduler's; must not raise.

    Attributes:
      process: as given.
      closed: takes no more tasks.
    """

    def __init__(self, parameters: BatchingParameters, process: Callable[[list[Task]], None]):
        self.process, self.closed = process, False
        self._parameters = parameters
        self._batches = collections.deque([_Batch()])  # the last one is open

    def __bool__(self):
        """Whether a task waits."""
        return bool(self._batches[0].tasks)

    def add(self, task: Task) -> int:
        """Puts a task into a batch, or its parts into several.

        Returns:
          How many answers there will be.

        Raises:
          ServingError: INVALID_ARGUMENT, it is larger than any batch; UNAVAILABLE, the queue is
            full.
        """
        limit = self._parameters.largest_batch
        self._check_room(task.size)
        room, tasks = limit - self._batches[-1].size, [task]
        if self._parameters.enable_large_batch_splitting and task.size > room:
            tasks = task.split(_sizes(task.size, room, limit))
        for part in tasks:
            if self._batches[-1].size + part.size > limit:
                self._batches.append(_Batch())
            self._batches[-1].add(part)
        return len(tasks)

    def due(self) -> float:
        """When a thread may take a batch."""
        first = self._batches[0]
        if len(self._batches) > 1 or first.size >= self._parameters.largest_batch:
            return -math.inf
        return first.begun + self._parameters.batch_timeout_micros / 1e6

    def take(self) -> list[Task]:
        """The tasks of the first batch."""
        if len(self._batches) == 1:
            self._batches.append(_Batch())
        return self._batches.popleft().tasks

    def close(self) -> list[Task]:
        """Takes no more tasks, and gives back those that wait."""
        self.closed = True
        return [task for batch in self._batches for task in batch.tasks]

    def _check_room(self, size: int) -> None:
        parameters, waiting, last = self._parameters, len(self._batches), self._batches[-1].size
        if size > parameters.max_batch_size:
            raise errors.invalid_argument(
                f"Task size {size} is larger than maximum input batch size "
                f"{parameters.max_batch_size}"
            )
        limit, most = parameters.largest_batch, parameters.max_enqueued_batches
        if parameters.enable_large_batch_splitting:
            capacity = (most - waiting) * limit + limit - last
            full = size > capacity
            told = (
                f"task size is {size} but scheduling capacity is only {capacity} "
                f"(num_enqueued_batches={waiting}, max_enqueued_batches={most}, "
                f"open_batch_size={last}, max_execution_batch_size={limit})"
            )
        else:
            full = last + size > limit and waiting >= most
            told = f"currently {waiting} batches enqueued and max_enqueued_batches is {most}"
        if full:
            raise errors.ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"The batch scheduling queue to which this task was submitted is full; {told}",
            )


def _sizes(size: int, room: int, limit: int) -> list[int]:
    """Rows of each part of a task: what the open batch has room for, then whole batches."""
    sizes = [room] if room else []
    left = size - room
    sizes += [limit] * (left // limit)
    return sizes + ([left % limit] if left % limit else [])
