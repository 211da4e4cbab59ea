"""The one exception of the server: a gRPC code and the stock server's message."""

import grpc

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MESSAGE_LIMIT = 1024  # bytes, model_servers/grpc_status_util.cc


class ServingError(Exception):
    """A request (or a load) that failed.

    Attributes:
      code: a `grpc.StatusCode`.
      message: what a client reads.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message

    def __str__(self):
        """As absl prints a status: `NOT_FOUND: message`."""
        return f"{self.code.name}: {self.message}"

    @property
    def details(self) -> str:
        """The message as gRPC carries it, cut when long."""
        data = self.message.encode("utf-8", "replace")
        if len(data) <= _MESSAGE_LIMIT:
            return data.decode()
        return data[:_MESSAGE_LIMIT].decode("utf-8", "ignore") + "...TRUNCATED"


def invalid_argument(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def permission_denied(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.PERMISSION_DENIED, message)


def unimplemented(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def deadline_exceeded() -> ServingError:
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def session_closed() -> ServingError:
    return ServingError(grpc.StatusCode.CANCELLED, "Session has been closed.")


def of_op_error(error) -> ServingError:
    """The same failure as a `tf.errors.OpError` tells."""
    return ServingError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)


def of_exception(error: Exception) -> ServingError:
    """What an error that nobody foresaw looks like to a client: one line, no stack."""
    return ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
