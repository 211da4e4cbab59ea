"""How the runs of a model are batched: the stock server's `BatchingParameters`."""

import dataclasses
import os

from google.protobuf.message import Message

from export.server import cores, errors, text_messages

_FILE = "batching_params.pbtxt"  # in a version's directory


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """The parameters, with the defaults of the stock server.

    Attributes:
      max_batch_size: rows of a request at most, and of a batch unless large ones are split.
      batch_timeout_micros: how long a batch that is not full waits for more requests.
      max_enqueued_batches: batches that may wait for a thread, for each set of inputs and outputs.
      num_batch_threads, thread_pool_name: of the threads, which all models share.
      enable_large_batch_splitting: a request may go into several batches.
      max_execution_batch_size: rows of a batch at most, if large ones are split.
      allowed_batch_sizes: rows that a batch may have, growing; the rest is padding. None for any.
      pad_variable_length_inputs: longer inputs may share a batch with shorter ones, which repeat
        their first element.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=cores.count)
    thread_pool_name: str = "batch_threads"
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False

    @classmethod
    def of(cls, message: Message) -> "BatchingParameters":
        """Those of a message of this name; what it leaves out has its default."""
        given = {
            field.name: getattr(value, "value", value) for field, value in message.ListFields()
        }
        given["allowed_batch_sizes"] = tuple(message.allowed_batch_sizes)
        if given.get("enable_large_batch_splitting"):
            # 0 where the file has neither: the stock server refuses all requests then
            given.setdefault("max_execution_batch_size", given.get("max_batch_size", 0))
        elif given.get("max_enqueued_batches") == 0:
            given["max_enqueued_batches"] = 1
        return cls(**given)

    @property
    def largest_batch(self) -> int:
        """Rows of a batch."""
        if self.enable_large_batch_splitting:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded(self, size: int) -> int:
        """Rows that a batch of `size` rows is padded to."""
        return next((allowed for allowed in self.allowed_batch_sizes if allowed >= size), size)

    def check_threads(self) -> None:
        """Raises `ServingError` for threads that cannot be."""
        _check_positive("num_batch_threads", self.num_batch_threads)

    def check(self) -> None:
        """Raises `ServingError` for all else that cannot be."""
        sizes = self.allowed_batch_sizes
        if sizes and sizes[-1] != self.max_batch_size:
            raise errors.invalid_argument(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.max_batch_size}"
            )
        if list(sizes) != sorted(set(sizes)):
            raise errors.invalid_argument(
                "allowed_batch_sizes entries must be monotonically increasing"
            )
        _check_positive("max_batch_size", self.max_batch_size)
        if self.batch_timeout_micros < 0:
            raise errors.invalid_argument(
                f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}"
            )
        _check_positive("max_enqueued_batches", self.max_enqueued_batches)
        if self.enable_large_batch_splitting:
            _check_positive("max_execution_batch_size", self.max_execution_batch_size)
            if self.max_batch_size < self.max_execution_batch_size:
                raise errors.invalid_argument(
                    "When enable_large_batch_splitting is true, max_batch_size must be greater "
                    "than or equal to max_execution_batch_size."
                )


def read(file: str) -> BatchingParameters:
    """Reads a file; raises as `text_messages.read` does."""
    return BatchingParameters.of(text_messages.read(file, text_messages.BatchingParameters))


def of_version(directory: str) -> BatchingParameters | None:
    """The parameters that a version brings along; None if it has none and is not to be batched.

    Raises:
      ServingError: INVALID_ARGUMENT, the file is broken or asks for what cannot be.
    """
    file = os.path.join(directory, _FILE)
    if not os.path.exists(file):
        return None
    try:
        parameters = read(file)
    except (OSError, ValueError) as error:
        raise errors.invalid_argument(str(error)) from error
    parameters.check()
    return parameters


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise errors.invalid_argument(f"{name} must be positive; was {value}")
