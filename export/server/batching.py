"""Runs of a servable that come together run as one (batching/batching_session.cc)."""

import functools
import itertools
import logging
import math
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf

from export import protocol
from export.server import errors, metrics
from export.server.batch_queue import BatchQueue, Task
from export.server.batch_scheduler import BatchScheduler
from export.server.batching_parameters import BatchingParameters
from export.server.servable import Servable

log = logging.getLogger(__name__)

_NO_DEADLINE = (2**31 - 1) / 1e6  # seconds that the stock server gives who sets none
_MOST_DIMENSIONS = 6  # that padding takes


class BatchingServable:
    """A servable that joins runs with the same inputs and outputs along their first dimension.

    What one run does wrong all runs of its batch suffer from: they fail with the same error.
    Thread-safe.

    Attributes:
      name, version, signatures: of the servable.
    """

    def __init__(
        self, servable: Servable, parameters: BatchingParameters, scheduler: BatchScheduler
    ):
        self.name, self.version = servable.name, servable.version
        self.signatures = servable.signatures
        self._servable, self._parameters, self._scheduler = servable, parameters, scheduler
        self._lock = threading.Lock()  # guards the queues
        # One for each set of inputs and outputs, while a run with it lasts: clients may name ever
        # other sets. None once closed.
        self._queues: weakref.WeakValueDictionary[tuple, BatchQueue] | None = (
            weakref.WeakValueDictionary()
        )

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """One `Session::Run`, or a share of one. It waits for its batch, whatever the deadline.

        Args:
          inputs: tensor name -> value; the first dimension of all is the same.
          outputs: names of tensors to compute; they have this dimension too.
          deadline: a batch stops at the latest of its runs, on the clock of `time.monotonic`.

        Returns:
          The values of `outputs`.

        Raises:
          ServingError: what the session said, of this run or of another in the batch; runs that do
            not go together; RESOURCE_EXHAUSTED, the deadline passed before the batch was run; what
            `BatchScheduler.schedule` raises.
        """
        if deadline is None:
            deadline = time.monotonic() + _NO_DEADLINE
        queue = self._queue(inputs, outputs)
        task = Task(inputs, _batch_size(inputs.values()), deadline)
        answers = [task.answers.get() for _ in range(self._scheduler.schedule(queue, task))]
        for _, _, failure in answers:
            if failure is not None:
                raise errors.ServingError(*failure)
        answers.sort(key=lambda answer: answer[0])
        parts = [values for _, values, _ in answers]
        return [_concatenate([values[name] for values in parts]) for name in outputs]

    def close(self) -> None:
        """Refuses what waits, stops what still runs and gives the memory back."""
        with self._lock:
            queues, self._queues = list(self._queues.values()), None
        closed = errors.session_closed()
        for queue in queues:
            for task in self._scheduler.close(queue):
                task.answers.put((task.part, None, (closed.code, closed.message)))
        self._servable.close()

    def _queue(self, inputs: Iterable[str], outputs: Iterable[str]) -> BatchQueue:
        key = frozenset(inputs), frozenset(outputs)
        with self._lock:
            if self._queues is None:
                raise errors.session_closed()
            queue = self._queues.get(key)
            if queue is None:
                process = functools.partial(self._answer, sorted(key[1]))
                queue = self._queues[key] = BatchQueue(self._parameters, process)
            return queue

    # What follows runs in the threads of the scheduler.

    def _answer(self, outputs: list[str], tasks: list[Task]) -> None:
        # Code and message, as no two threads can raise the same error.
        values, failure = [None] * len(tasks), None
        try:
            values = self._run(outputs, tasks)
        except errors.ServingError as error:
            failure = error.code, error.message
        except Exception as error:
            log.exception("A batch failed")
            unforeseen = errors.of_exception(error)
            failure = unforeseen.code, unforeseen.message
        for task, found in zip(tasks, values, strict=True):
            task.answers.put((task.part, found, failure))

    def _run(self, outputs: list[str], tasks: list[Task]) -> list[dict[str, np.ndarray]]:
        """Name -> value for each of the tasks."""
        for task in tasks:  # the stock server's batching has no name for its threads either
            metrics.BATCH_QUEUING_LATENCY.add("", by=metrics.micros_since(task.begun))
        deadline = max(task.deadline for task in tasks)
        if deadline <= time.monotonic():
            raise errors.ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Run() timeout exceeded while waiting in batching queue",
            )
        size = sum(task.size for task in tasks)
        padded = self._parameters.padded(size) if size else 0
        metrics.BATCH_PADDING_SIZE.add(str(padded), by=padded - size)
        metrics.BATCH_PROCESSED_SIZE.add(by=padded)
        inputs = {name: self._merge(name, tasks, padded - size) for name in tasks[0].inputs}
        try:
            values = self._servable.run(inputs, outputs, deadline)
        finally:
            metrics.BATCH_RUN_COUNT.add()
        for value in values:
            _check_output(value, padded)
        return _split(dict(zip(outputs, values, strict=True)), [task.size for task in tasks])

    def _merge(self, name: str, tasks: list[Task], padding: int) -> np.ndarray:
        """An input of all tasks, and `padding` times a row that is known to be good."""
        values = [task.inputs[name] for task in tasks]
        if self._parameters.pad_variable_length_inputs:
            values = _pad(name, values)
        elif any(value.shape[1:] != values[0].shape[1:] for value in values):
            raise errors.failed_precondition(
                f"Tensors with name '{name}' from different tasks have different shapes and "
                "padding is turned off. Set pad_variable_length_inputs to true, or ensure that all "
                "tensors with the same name have equal dimensions starting with the first dim."
            )
        if padding:
            last = next(value for value in reversed(values) if len(value))
            values += [last[:1]] * padding
        return _concatenate(values)


def _batch_size(values: Collection[np.ndarray]) -> int:
    """The first dimension that all inputs of a run have."""
    size = None
    for value in values:
        if value.ndim == 0:
            raise errors.invalid_argument(
                "Batching Run() input tensors must have at least one dimension"
            )
        if size not in (None, len(value)):
            raise errors.invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )
        size = len(value)
    if size is None:
        raise errors.invalid_argument("Batching Run() must have at least one input tensor")
    for _ in values:
        metrics.BATCH_INPUT_SIZE.add(by=size)
    return size


def _pad(name: str, values: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays that differ in their first dimension only: each is filled up with its own first
    element to the largest of every other dimension."""
    if any(value.ndim != values[0].ndim for value in values):
        # The stock server reads beyond its memory here.
        raise errors.failed_precondition(
            f"Tensors with name '{name}' from different tasks have different ranks."
        )
    if values[0].ndim > _MOST_DIMENSIONS:
        raise errors.invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    largest = np.max([value.shape[1:] for value in values], axis=0)
    return [_filled_up(value, (len(value), *map(int, largest))) for value in values]


def _filled_up(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if value.size == math.prod(shape):
        return value.reshape(shape)
    if not value.size:
        raise errors.invalid_argument("Got empty tensor in batch of non-empty tensors.")
    padded = np.empty(shape, value.dtype)
    padded[...] = value.reshape(-1)[:1]  # an array, as numpy cuts zeros off the end of bytes
    padded[tuple(map(slice, value.shape))] = value
    return padded


def _concatenate(values: list[np.ndarray]) -> np.ndarray:
    """Arrays of one dtype, joined along their first dimension."""
    if len(values) == 1:
        return values[0]
    dtype = values[0].dtype
    for value in values:
        if value.dtype != dtype:
            raise _cannot_concatenate(
                "INVALID_ARGUMENT: Cannot concatenate tensors that have different data types. Got "
                f"{_dtype_name(dtype)} and {_dtype_name(value.dtype)}."
            )
    try:
        return np.concatenate(values)
    except ValueError as error:
        raise _cannot_concatenate(str(error)) from error


def _dtype_name(dtype: np.dtype) -> str:
    """`float` for float32, as TensorFlow's messages have it."""
    number = tf.as_dtype(dtype).as_datatype_enum
    return protocol.DataType.Name(number).removeprefix("DT_").lower()


def _cannot_concatenate(reason: str) -> errors.ServingError:
    return errors.ServingError(
        grpc.StatusCode.INTERNAL, f"Tensor concat operation failed: {reason}"
    )


def _check_output(value: np.ndarray, size: int) -> None:
    if np.ndim(value) == 0:
        raise errors.failed_precondition("Batched output tensor has 0 dimensions")
    if len(value) != size:
        raise errors.failed_precondition(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
            "sizes of the input tensors"
        )


def _split(values: Mapping[str, np.ndarray], sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """As many rows of each value as the sizes say; what is left over is padding."""
    ends = list(itertools.accumulate(sizes))
    return [
        {name: value[end - size : end] for name, value in values.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
