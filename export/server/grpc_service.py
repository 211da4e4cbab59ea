"""PredictionService and ModelService over gRPC."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from export import protocol
from export.server import errors, examples, model_info, predict
from export.server.manager import ModelManager

log = logging.getLogger(__name__)

# What each call does: (manager, request, deadline) -> response, or ServingError.
CALLS = {
    "Predict": predict.predict,
    "Classify": examples.classify,
    "Regress": examples.regress,
    "MultiInference": examples.multi_inference,
    "GetModelMetadata": model_info.get_model_metadata,
    "GetModelStatus": model_info.get_model_status,
}

_LARGEST_MESSAGE = 2**31 - 1  # bytes, received
_REFUSERS = 4  # threads beyond the limit of calls, to refuse what is too much without delay
_NO_DEADLINE = 10 * 365 * 24 * 3600  # seconds; gRPC gives centuries where a client gave none
_MALFORMED = object()  # a request that is no message of its type


def create(manager: ModelManager, max_threads: int) -> grpc.Server:
    """A gRPC server, without a port yet.

    Args:
      manager: what it serves.
      max_threads: calls at a time; more are refused with RESOURCE_EXHAUSTED.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(max_threads + _REFUSERS, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or two servers would share a port, each with half the calls
        ],
    )
    slots = threading.BoundedSemaphore(max_threads)
    for service in (protocol.PREDICTION_SERVICE, protocol.MODEL_SERVICE):
        server.add_generic_rpc_handlers((_handlers(service, CALLS, manager, slots),))
    return server


def _handlers(service, calls: Mapping[str, Callable], manager, slots) -> grpc.GenericRpcHandler:
    handlers = {}
    for method in service.methods:
        if method.name in calls:
            request_type = message_factory.GetMessageClass(method.input_type)
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _guarded(calls[method.name], manager, slots),
                request_deserializer=_reader(request_type),
                response_serializer=_write,
            )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _reader(request_type) -> Callable:
    def read(data: bytes):
        # gRPC would log the stack of an error here: the call itself refuses what comes of it.
        try:
            return request_type.FromString(data)
        except DecodeError:
            return _MALFORMED

    return read


def _write(response) -> bytes:
    return response.SerializeToString()


def _guarded(call: Callable, manager: ModelManager, slots: threading.Semaphore) -> Callable:
    def handle(request, context: grpc.ServicerContext):
        try:
            with _slot(slots):
                if request is _MALFORMED:
                    raise errors.ServingError(grpc.StatusCode.INTERNAL, "Malformed request")
                return call(manager, request, _deadline(context))
        except errors.ServingError as error:
            # The error itself, kept, would keep this frame, which keeps it, until a collection.
            code, details = error.code, error.details
        except Exception as error:
            log.exception("%s failed", call.__name__)
            failure = errors.of_exception(error)
            code, details = failure.code, failure.details
        return context.abort(code, details)

    return handle


@contextlib.contextmanager
def _slot(slots: threading.Semaphore):
    if not slots.acquire(blocking=False):
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        raise errors.ServingError(exhausted, "Server Threadpool Exhausted")
    try:
        yield
    finally:
        slots.release()


def _deadline(context: grpc.ServicerContext) -> float | None:
    """When the client stops waiting, on the clock of `time.monotonic`."""
    left = context.time_remaining()
    if left is None or left > _NO_DEADLINE:
        return None
    return time.monotonic() + left
